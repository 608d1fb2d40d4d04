"""The network: Flax linen modules and nothing of the data or of the training.

convolution  the convolution of stride 1, as the CPU is fast at it
cpu_kernels  its products on the CPU in C, where they could be built
fused        convolutions with normalization and activation, for GPUs
blocks       convolution, normalization, residual, down- and up-sampling units
uresnet      UResNet, composed of them
"""

from ctjax.models.uresnet import UResNet

__all__ = ["UResNet"]
