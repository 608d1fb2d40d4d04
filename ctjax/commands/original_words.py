"""Lists what CosmicTagger's command lines may say that has another name here, or none.

Fields and groups are those of its branch master (commit 156c480), of v2.1 (4c3a3a3) and
of the competition's code (9e9f29f); the options before them are hydra's.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Absent:
    """Why a field of the original is not one here.

    Attributes:
      reason: what ctjax does instead, or what to type instead.
      harmless: values that ask for what ctjax does anyhow; they are taken with a line
        in the log, all others are refused.
    """

    reason: str
    harmless: tuple[str, ...] = ()


SAME_FIELDS = {"run.output_dir": "output_dir"}
"""Fields that moved within the original, to their name here; both are taken."""

OTHER_NAMES = {
    "data.paths.test": "data.file",
    "data.paths.train": "data.file",
    "data.paths.val": "data.aux_file",
    "framework.seed": "run.seed",
    "lr_schedule": "mode.optimizer.lr_schedule",
    "mode.optimizer.lr_schedule.name": "mode.optimizer.lr_schedule",
    "mode.optimizer.lr_schedule.peak_learning_rate": "mode.optimizer.learning_rate",
    "network.network_depth": "network.depth",
    "optimizer": "mode.optimizer.name",
    "run.val_iteration": "run.aux_iterations",
}
"""Fields and groups that are refused with the name of the same thing here."""

CONV_MODES = {
    "2D": "uresnet",
    "conv_2D": "uresnet",
    "3D": "uresnet3d",
    "conv_3D": "uresnet3d",
}
"""What network.architecture is for each value of network.conv_mode."""

OTHER_FLAT_NETWORKS = ("uresnet_v21", "uresnet_tensorflow")
"""Networks that `conv_2D` leaves as they are where a configuration has them."""

FRAMEWORKS = {"tensorflow": "uresnet_tensorflow"}
"""What network.architecture is for a value of framework.name."""

_LAYOUT = Absent("images have one layout in ctjax", ("channels_last", "channels_first"))
_ENGINE = "jax computes, and joins the processes by itself"
_THREADS = "XLA takes the CPUs that the process may use"
_ENVIRONMENT = "expected the variable in the environment of the command"
_TORCH = (
    "ctjax computes with jax what CosmicTagger's torch code does, or with tensorflow "
    "the network of its TensorFlow code"
)

ABSENT_FIELDS = {
    "data.data_format": _LAYOUT,
    "data.paths.active": Absent("expected data.file and data.aux_file"),
    "data.random_mode": Absent(
        "training takes every event once an epoch, in an order of data.seed"
    ),
    "data.version": Absent("the image's size is read from the file", ("1", "2")),
    "framework.compile": Absent("every step is compiled", ("True",)),
    "framework.distributed_mode": Absent(_ENGINE, ("DDP",)),
    "framework.inter_op_parallelism_threads": Absent(_THREADS),
    "framework.intra_op_parallelism_threads": Absent(_THREADS),
    "framework.name": Absent(_TORCH, ("torch", "jax")),
    "framework.oversubscribe": Absent(_ENGINE, ("1",)),
    "framework.sparse": Absent("ctjax's sparse network is --config sparse", ("False",)),
    "mode.optimizer.lr_schedule.decay_epochs": Absent("the schedule's decay is fixed"),
    "mode.optimizer.lr_schedule.decay_floor": Absent("the schedule's floor is fixed"),
    "mode.optimizer.lr_schedule.min_learning_rate": Absent(
        "the schedule's ends are fixed"
    ),
    "mode.quantization_aware": Absent("ctjax trains without quantization", ("False",)),
    "network.activation": Absent("ctjax has LeakyReLU alone", ("leaky_relu",)),
    "network.batch_norm": Absent("expected network.normalization=batch or none"),
    "network.data_format": _LAYOUT,
    "run.broadcast_buffers": Absent(
        "running statistics are the mean over the devices", ("True",)
    ),
    "run.epoch": Absent("expected run.iterations, which counts steps"),
    "run.horovod_num_groups": Absent(_ENGINE, ("0",)),
    "run.run_length": Absent("expected run.iterations, which counts steps"),
    "run.run_units": Absent("run.iterations counts steps", ("iteration",)),
    "run.saver": Absent(
        "TensorBoard's files are always written; mode.summary_iteration says how often",
        ("True",),
    ),
}

ABSENT_GROUPS = {
    "framework.environment_variables": _ENVIRONMENT,
}
"""Groups none of whose fields is one here."""

CONFIGURATIONS = {
    "SCC_21": "scc21",
    "base_config": "default",
    "config": "default",
    "sn-at": "sn_at",
    "uresnet2-inference": "uresnet2_inference",
}
"""Configurations and networks that have another name here."""

ABSENT_NETWORKS = {
    "sparseuresnet3d": "a sparse network; ctjax's is --config sparse",
}

ABSENT_CONFIGURATIONS = ABSENT_NETWORKS | {
    "a21-deterministic": (
        "expected a21 with data.synthetic=False data.seed=12345 run.seed=54321 "
        "run.minibatch_size=32 run.iterations=5000"
    ),
}

LABELS = (
    "a21",
    "cvt",
    "polaris",
    "scc21",
    "scc21_master",
    "segformer",
    "sn",
    "uresnet",
    "uresnet2",
    "uresnet3d",
    "uresnet_v21",
)
"""Names of the original's networks that a configuration of ctjax has."""

_SWEEP = "expected one command for each run"
_FOLDER = "expected --config FILE, a Python file like those in configs/"
_SHOWN = "the log of every run begins with its configuration, --help lists the fields"

HYDRA_OPTIONS = {
    "--multirun": _SWEEP,
    "-m": _SWEEP,
    "--config-dir": _FOLDER,
    "-cd": _FOLDER,
    "--config-path": _FOLDER,
    "-cp": _FOLDER,
    "--cfg": _SHOWN,
    "-c": _SHOWN,
    "--info": _SHOWN,
    "-i": _SHOWN,
    "--resolve": _SHOWN,
    "--hydra-help": _SHOWN,
    "--package": "expected every field by its whole name",
    "-p": "expected every field by its whole name",
    "--run": "a run needs no option",
    "-r": "a run needs no option",
    "--experimental-rerun": "the same command goes on with a run",
    "--shell-completion": "there is none",
    "-sc": "there is none",
}
