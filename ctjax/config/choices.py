"""Names the choices that options have."""

import enum


class ModeName(enum.Enum):
    """What a run does."""

    TRAIN = "train"
    INFERENCE = "inference"
    IOTEST = "iotest"
    QUICKSTART = "quickstart"


class ComputeMode(enum.Enum):
    """Which kind of device computes."""

    AUTO = "auto"
    CPU = "CPU"
    GPU = "GPU"


class Precision(enum.Enum):
    """Number format that the network computes in; parameters are always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    MIXED = "mixed"
    FLOAT16 = "float16"


class Remat(enum.Enum):
    """What the backward pass recomputes; only its inputs are stored."""

    NONE = "none"
    BLOCK = "block"
    STAGE = "stage"


class Kernels(enum.Enum):
    """Which implementation runs convolutions with few features."""

    AUTO = "auto"
    XLA = "xla"
    COLUMNS = "columns"
    FUSED = "fused"


class Densify(enum.Enum):
    """Where stored voxels are turned into dense images."""

    HOST = "host"
    DEVICE = "device"


class Normalization(enum.Enum):
    """What follows a convolution."""

    NONE = "none"
    BATCH = "batch"
    LAYER = "layer"
    INSTANCE = "instance"
    GROUP = "group"


class BlockStyle(enum.Enum):
    """What the blocks of CosmicTagger v2.1's UResNet are."""

    NONE = "none"
    RESIDUAL = "residual"
    CONVNEXT = "convnext"


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
    """How an image is halved on the way down."""

    MAX_POOLING = "max_pooling"
    CONVOLUTIONAL = "convolutional"


class Upsampling(enum.Enum):
    """How an image is doubled on the way up."""

    INTERPOLATION = "interpolation"
    CONVOLUTIONAL = "convolutional"


class LossBalanceScheme(enum.Enum):
    """How pixels are weighted in the loss."""

    NONE = "none"
    LIGHT = "light"
    EVEN = "even"
    FOCAL = "focal"


class LossAverage(enum.Enum):
    """What the sum of weighted cross entropies is divided by."""

    WEIGHTS = "weights"
    PIXELS = "pixels"


class OptimizerName(enum.Enum):
    """Which update rule of optax changes the parameters."""

    ADAM = "adam"
    RMSPROP = "rmsprop"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    ADADELTA = "adadelta"
    LAMB = "lamb"
    LARS = "lars"


class OnNonfinite(enum.Enum):
    """What training does when a loss or gradient is not finite."""

    STOP = "stop"
    SKIP = "skip"


class Tracker(enum.Enum):
    """Where the numbers of a training are sent beside TensorBoard's files."""

    NONE = "none"
    WANDB = "wandb"
    MLFLOW = "mlflow"


class OnBadEvent(enum.Enum):
    """What a run does with an event that cannot be read."""

    STOP = "stop"
    SKIP = "skip"


class LearningRateSchedule(enum.Enum):
    """How the learning rate changes with the step."""

    FLAT = "flat"
    WARMUP_FLAT_DECAY = "warmup_flat_decay"
    ONE_CYCLE = "one_cycle"
