# shellcheck shell=bash disable=SC2034
# Settings of XLA and NCCL for several GPUs; sourced by openmpi.sh, slurm.sh and pbs.sh,
# for `env` to set. A value that your environment has already stays. Without a GPU none of
# them has an effect. Which network NCCL takes is the site's to say (NCCL_SOCKET_IFNAME,
# NCCL_NET, FI_*): set what its documentation asks for, the scripts pass it on.
settings=(
    # NCCL is silent about a connection that fails; WARN says which one, once, and nothing
    # while all is well.
    "NCCL_DEBUG=${NCCL_DEBUG:-WARN}"
    # XLA takes three quarters of a GPU's memory unless told otherwise. A GPU has one
    # process here; what is left is for NCCL's buffers and cuDNN's code.
    "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
    # Lets gradients be summed over the GPUs while the backward pass goes on, instead of
    # after it. Your own flags come last, and the last one counts.
    "XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true${XLA_FLAGS:+ $XLA_FLAGS}"
)
