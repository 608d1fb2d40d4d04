"""Declares every option of a run once: name, type, default and meaning.

Names are those of CosmicTagger's configuration where it has the option.
"""

import dataclasses
import enum
from typing import Any

import ml_collections


class ModeName(enum.Enum):
    """What a run does."""

    TRAIN = "train"
    INFERENCE = "inference"
    IOTEST = "iotest"
    QUICKSTART = "quickstart"


class ComputeMode(enum.Enum):
    """Which device computes."""

    AUTO = "auto"
    CPU = "CPU"
    GPU = "GPU"


class Precision(enum.Enum):
    """Number format of the computation; parameters are float32 in all."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    MIXED = "mixed"
    FLOAT16 = "float16"


class Remat(enum.Enum):
    """What the gradient computes anew, of which it keeps the inputs alone."""

    NONE = "none"
    BLOCK = "block"
    STAGE = "stage"


class Kernels(enum.Enum):
    """Who convolves where a network has few features."""

    AUTO = "auto"
    XLA = "xla"
    FUSED = "fused"


class Densify(enum.Enum):
    """Where stored voxels become dense images."""

    HOST = "host"
    DEVICE = "device"


class Normalization(enum.Enum):
    """What follows a convolution."""

    NONE = "none"
    BATCH = "batch"
    LAYER = "layer"
    INSTANCE = "instance"


class Connection(enum.Enum):
    """How a skip connection joins the upward path."""

    CONCAT = "concat"
    SUM = "sum"
    NONE = "none"


class GrowthRate(enum.Enum):
    """How features grow from level to level."""

    ADDITIVE = "additive"
    MULTIPLICATIVE = "multiplicative"


class Downsampling(enum.Enum):
    """How a level's image is halved."""

    MAX_POOLING = "max_pooling"
    CONVOLUTIONAL = "convolutional"


class Upsampling(enum.Enum):
    """How a level's image is doubled."""

    INTERPOLATION = "interpolation"
    CONVOLUTIONAL = "convolutional"


class LossBalanceScheme(enum.Enum):
    """How pixels are weighted in the loss."""

    NONE = "none"
    LIGHT = "light"
    EVEN = "even"
    FOCAL = "focal"


class OptimizerName(enum.Enum):
    """Update rules, all of optax."""

    ADAM = "adam"
    RMSPROP = "rmsprop"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    ADADELTA = "adadelta"
    LAMB = "lamb"
    LARS = "lars"


class OnNonfinite(enum.Enum):
    """What follows a loss or gradient that is not finite."""

    STOP = "stop"
    SKIP = "skip"


class LearningRateSchedule(enum.Enum):
    """How the learning rate changes with the step."""

    FLAT = "flat"
    WARMUP_FLAT_DECAY = "warmup_flat_decay"
    ONE_CYCLE = "one_cycle"


def _option(default: Any, meaning: str, at_least: float | None = None) -> Any:
    """A dataclass field with its meaning and, for numbers, its smallest value."""
    return dataclasses.field(
        default=default, metadata={"meaning": meaning, "at_least": at_least}
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, how much at a time, and on what."""

    id: str = _option("test", "name of the run; part of output_dir")
    iterations: int = _option(
        0,
        "training steps, or minibatches of iotest (0: 500); most minibatches of "
        "inference (0: the whole file)",
        0,
    )
    minibatch_size: int = _option(2, "events of a minibatch, of all devices", 1)
    aux_iterations: int = _option(10, "training steps between validations", 1)
    aux_minibatch_size: int = _option(
        0, "events of a validation (0: minibatch_size)", 0
    )
    compute_mode: ComputeMode = _option(ComputeMode.AUTO, "device to compute on")
    precision: Precision = _option(Precision.FLOAT32, "number format of the network")
    remat: Remat = _option(
        Remat.NONE,
        "what training computes twice to save memory: nothing, every (residual) block, "
        "or all blocks of a level, down and up each",
    )
    distributed: bool = _option(
        True, "join the other processes of an mpirun or srun, where there are any"
    )
    max_time: float = _option(
        0.0, "seconds after which training saves its state and ends (0: none)", 0
    )
    step_timeout: int = _option(
        0, "seconds without the end of a step after which a run ends (0: none)", 0
    )
    on_nonfinite: OnNonfinite = _option(
        OnNonfinite.STOP, "after a loss or gradient that is not finite"
    )
    start_timeout: int = _option(
        50, "seconds that several processes wait for one another at the start", 1
    )
    profile: bool = _option(
        False,
        "write a trace of steps 2 to 5 to profiles/ (TensorBoard, Perfetto), and log "
        "the compiled step's memory and arithmetic",
    )
    seed: int = _option(0, "seed of the initial parameters", 0)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which events, and what is done to them."""

    data_directory: str = _option("", "folder of file and aux_file")
    file: str = _option(
        "cosmic_tagging_train.h5",
        "larcv3 file; several as a comma-separated list or a glob pattern (empty: "
        "simulated ones, in quickstart alone)",
    )
    aux_file: str = _option("", "larcv3 file for validation (empty: none)")
    downsample: int = _option(1, "halvings of the image before the network", 0)
    synthetic: bool = _option(False, "random events, no file")
    img_transform: bool = _option(False, "feed log(1 + charge) instead of charge")
    seed: int = _option(0, "seed of the order of events in training", 0)
    io_threads: int = _option(0, "reading threads (0: the CPUs of this process)", 0)
    prefetch: int = _option(2, "minibatches read ahead", 1)
    densify: Densify = _option(Densify.HOST, "where dense images are made")


@dataclasses.dataclass(frozen=True)
class Network:
    """The UResNet; defaults are CosmicTagger's uresnet."""

    name: str = _option("uresnet", "name of the network; part of output_dir")
    bias: bool = _option(True, "convolutions have biases")
    normalization: Normalization = _option(
        Normalization.BATCH, "what follows a convolution"
    )
    sync_batch_norm: bool = _option(
        False, "batch statistics of all devices together, else of each alone"
    )
    n_initial_filters: int = _option(16, "features of the first level", 1)
    blocks_per_layer: int = _option(2, "blocks of a level, down and up each", 0)
    blocks_deepest_layer: int = _option(5, "blocks of the deepest level", 0)
    blocks_final: int = _option(5, "blocks before the class scores", 0)
    depth: int = _option(6, "halvings inside the network", 1)
    filter_size_deepest: int = _option(5, "kernel size of the deepest level, odd", 1)
    bottleneck_deepest: int = _option(256, "features of the deepest level", 1)
    residual: bool = _option(True, "blocks are residual")
    block_concat: bool = _option(False, "keep planes apart in the deepest level")
    weight_decay: float = _option(
        0.0, "decoupled weight decay of the kernels (CosmicTagger's torch has none)", 0
    )
    connections: Connection = _option(Connection.CONCAT, "skip connections")
    growth_rate: GrowthRate = _option(GrowthRate.ADDITIVE, "growth of the features")
    downsampling: Downsampling = _option(Downsampling.MAX_POOLING, "way down")
    upsampling: Upsampling = _option(Upsampling.INTERPOLATION, "way up")
    kernels: Kernels = _option(
        Kernels.AUTO,
        "3 x 3 convolutions of 16 and 32 features: XLA's, or our own for GPUs, fused "
        "with normalization and activation (auto: xla, as fused has not been measured)",
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How parameters are updated."""

    name: OptimizerName = _option(OptimizerName.ADAM, "update rule")
    learning_rate: float = _option(3e-4, "learning rate, the peak of its schedule", 0)
    gradient_accumulation: int = _option(
        1, "minibatches of one step, whose gradients are averaged", 1
    )
    bfloat16_gradients: bool = _option(
        False, "devices send each other gradients rounded to bfloat16, half the bytes"
    )
    loss_balance_scheme: LossBalanceScheme = _option(
        LossBalanceScheme.FOCAL, "weights of the pixels in the loss"
    )
    loss_charged_pixels_only: bool = _option(
        False, "leave pixels without charge out of the loss"
    )
    lr_schedule: LearningRateSchedule = _option(
        LearningRateSchedule.WARMUP_FLAT_DECAY, "course of the learning rate"
    )


@dataclasses.dataclass(frozen=True)
class Mode:
    """What the run does and what it leaves behind."""

    name: ModeName = _option(ModeName.TRAIN, "what to do")
    weights_location: str = _option(
        "", "checkpoint folder to take weights from (empty: that of output_dir)"
    )
    start_index: int = _option(0, "first event of inference and iotest", 0)
    checkpoint_iteration: int = _option(500, "training steps between checkpoints", 1)
    logging_iteration: int = _option(1, "steps between lines of the log", 1)
    summary_iteration: int = _option(1, "steps between TensorBoard summaries", 1)
    no_summary_images: bool = _option(
        True, "leave out TensorBoard's event displays, else every 25 summaries"
    )
    mask_empty_pixels: bool = _option(
        True, "predict background wherever there is no charge (CosmicTagger: False)"
    )
    write_predictions: bool = _option(
        False, "inference writes predictions.h5, a larcv3 file"
    )
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


@dataclasses.dataclass(frozen=True)
class Config:
    """All options of a run."""

    run: Run = dataclasses.field(default_factory=Run)
    data: Data = dataclasses.field(default_factory=Data)
    network: Network = dataclasses.field(default_factory=Network)
    mode: Mode = dataclasses.field(default_factory=Mode)
    output_dir: str = _option(
        "", "folder of all that is written (empty: output/<network.name>/<run.id>)"
    )


def default_config() -> ml_collections.ConfigDict:
    """Returns the defaults of every field, choices as their strings."""
    return ml_collections.ConfigDict(to_dict(Config()))


def to_dict(section: Any) -> dict[str, Any]:
    """Turns a dataclass of options into nested dictionaries of plain values."""
    result = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        result[field.name] = value.value if isinstance(value, enum.Enum) else value
    return result
