"""Declares every option of a run once: name, type, default and meaning.

Names are those of CosmicTagger's configuration where it has the option. An option that
has an `if_unset` may be None, which says nothing about it; `resolve.resolve` replaces
None by a value wherever the option's annotation has no None.
"""

import dataclasses
import enum
from typing import Any

import ml_collections

from ctjax.base.constants import CHARGE_LIMIT, IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config.architecture import AnyNetwork
from ctjax.config.choices import (
    ComputeMode,
    Connection,
    Densify,
    Downsampling,
    GrowthRate,
    Kernels,
    LearningRateSchedule,
    LossAverage,
    LossBalanceScheme,
    ModeName,
    Normalization,
    OnBadEvent,
    OnNonfinite,
    OptimizerName,
    Precision,
    Remat,
    Tracker,
    Upsampling,
)
from ctjax.config.heads import Heads
from ctjax.config.option import option, plain_type


@dataclasses.dataclass(frozen=True)
class Run:
    """Options of how long a run takes, how much it takes at a time, and on what."""

    id: str = option("test", "name of the run; part of output_dir")
    # Resolved to a number but for inference, which then takes the whole file.
    iterations: int = option(
        None,
        "training steps, minibatches of iotest, or most minibatches of inference",
        1,
        if_unset="500, or for inference the whole file",
    )
    minibatch_size: int = option(2, "events in a minibatch, over all devices", 1)
    aux_iterations: int = option(10, "training steps between validations", 1)
    aux_minibatch_size: int = option(
        None, "events in a validation", 1, if_unset="run.minibatch_size"
    )
    compute_mode: ComputeMode = option(ComputeMode.AUTO, "device to compute on")
    precision: Precision = option(
        Precision.FLOAT32, "number format that the network computes in"
    )
    remat: Remat = option(
        Remat.NONE,
        "what training computes twice to save memory: nothing, each (residual) block, "
        "or all blocks of each level on the way down and on the way up",
    )
    distributed: bool = option(
        True, "join the other processes of an mpirun or srun, if there are any"
    )
    max_time: float | None = option(
        None,
        "seconds after which training saves its state and ends",
        0.001,
        if_unset="no limit",
    )
    step_timeout: int | None = option(
        None,
        "seconds without the end of a step after which a run is ended",
        1,
        if_unset="no limit",
    )
    on_nonfinite: OnNonfinite = option(
        OnNonfinite.STOP, "what to do when a loss or gradient is not finite"
    )
    start_timeout: int = option(
        50, "seconds that several processes wait for one another at the start", 1
    )
    profile: bool = option(
        False,
        "write a trace of steps 2 to 5 to profiles/ (TensorBoard, Perfetto), and log "
        "the memory and arithmetic of the compiled step",
    )
    seed: int = option(0, "seed of the initial parameters", 0)
    fresh: bool = option(
        False, "move an output_dir that is there aside and start anew, in an empty one"
    )


@dataclasses.dataclass(frozen=True)
class Data:
    """Options of which events are read, and what is done to them."""

    data_directory: str = option("", "folder that the files are in")
    # Resolved to a name but for quickstart, which then simulates.
    file: str = option(
        "cosmic_tagging_train.h5",
        "larcv3 file; several as a comma-separated list or a glob pattern",
        if_unset="simulated events, in quickstart only",
    )
    aux_file: str | None = option(
        None, "larcv3 file for validation", if_unset="no validation"
    )
    test_file: str | None = option(
        None,
        "larcv3 file that the quickstart goes over at its end, too, as one of real "
        "events",
        if_unset="none",
    )
    downsample: int = option(
        1, "how often the image is halved before it enters the network", 0
    )
    synthetic: bool = option(False, "random events instead of a file")
    img_transform: bool = option(
        False,
        "feed log(1 + charge) instead of charge; of a negative charge -log(1 - charge)",
    )
    image_product: str = option(
        IMAGE_PRODUCT, "producer of the sparse2d product that holds the charges"
    )
    label_product: str = option(
        LABEL_PRODUCT, "producer of the sparse2d product that holds the classes"
    )
    planes: str | None = option(
        None,
        "planes to read, by their projection ids and in this order, as 0,1,2; those "
        "behind a slash, as 0,1,2/3,4,5, are an entry of their own; an id that is "
        "named again is the event's next image of that plane",
        if_unset="all planes of the file, as one entry",
    )
    classes: str = option(
        ",".join(COSMIC_TAGGER.classes),
        "names of the classes in the order of their numbers, background first; "
        "each may have a colour, as muon:#0072B2",
    )
    label_map: str | None = option(
        None,
        "which class a stored label is, as 0:background,3:muon,65535:ignore; "
        "ignored pixels count in neither loss nor metrics, and other:CLASS takes all "
        "labels that are not named",
        if_unset="each label the number of its class",
    )
    charge_scale: float = option(1.0, "factor by which stored charges are multiplied")
    charge_limit: float = option(
        CHARGE_LIMIT,
        "the largest charge of a voxel, of either sign and after the scale; a larger "
        "one is taken for damage and refused",
        0,
    )
    on_bad_event: OnBadEvent = option(
        OnBadEvent.STOP,
        "what to do with an event that cannot be read: end the run, or leave it out",
    )
    seed: int = option(0, "seed of the order of events in training", 0)
    io_threads: int | None = option(
        None, "reading threads", 1, if_unset="one for each CPU this process may use"
    )
    prefetch: int = option(2, "minibatches read ahead", 1)
    densify: Densify = option(Densify.HOST, "where dense images are made")


BLOCK_CONCAT = "keep the planes apart in the deepest level"
FILTER_SIZE_DEEPEST = "kernel size of the deepest level, an odd number"
RESIDUAL = "blocks are residual"
KERNELS = (
    "which implementation runs convolutions of few features: XLA's, XLA's with "
    "columns of the image as features, or our own for GPUs, fused with bias, "
    "residual sum and activation, and columns for what they do not take (auto: "
    "fused on H100 and H200 with jax-triton, columns on other GPUs where they were "
    "measured to be faster, xla elsewhere)"
)


@dataclasses.dataclass(frozen=True)
class AnyUResNet(AnyNetwork):
    """Options that all UResNets share."""

    bias: bool = option(True, "convolutions have biases")
    normalization: Normalization = option(
        Normalization.BATCH, "what follows a convolution"
    )
    sync_batch_norm: bool = option(
        False,
        "compute batch statistics over all devices together, not on each alone",
        keeps_parameters=True,
    )
    n_initial_filters: int = option(16, "features of the first level", 1)
    blocks_per_layer: int = option(
        2, "blocks of each level, on the way down and again on the way up", 0
    )
    blocks_deepest_layer: int = option(5, "blocks of the deepest level", 0)
    blocks_final: int = option(5, "blocks before the class scores", 0)
    depth: int = option(6, "how often the network halves the image", 1)
    bottleneck_deepest: int = option(256, "features of the deepest level", 1)
    connections: Connection = option(
        Connection.CONCAT, "how skip connections join the way up"
    )
    growth_rate: GrowthRate = option(
        GrowthRate.ADDITIVE, "how features grow from level to level"
    )


@dataclasses.dataclass(frozen=True)
class DenseUResNet(AnyUResNet):
    """Options that the UResNets on images share."""

    downsampling: Downsampling = option(
        Downsampling.MAX_POOLING, "how images are halved on the way down"
    )
    upsampling: Upsampling = option(
        Upsampling.INTERPOLATION, "how images are doubled on the way up"
    )


@dataclasses.dataclass(frozen=True)
class MasterUResNet(DenseUResNet):
    """Options that the UResNets of CosmicTagger's branch master share, 2D and 3D."""

    filter_size_deepest: int = option(5, FILTER_SIZE_DEEPEST, 1)
    residual: bool = option(True, RESIDUAL)


@dataclasses.dataclass(frozen=True)
class Network(Heads, MasterUResNet):
    """Options of the UResNet; the defaults are CosmicTagger's uresnet."""

    block_concat: bool = option(False, BLOCK_CONCAT)
    kernels: Kernels = option(Kernels.AUTO, KERNELS, keeps_parameters=True)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Options of how parameters are updated."""

    name: OptimizerName = option(OptimizerName.ADAM, "update rule")
    learning_rate: float = option(3e-4, "learning rate, at the peak of its schedule", 0)
    gradient_accumulation: int = option(
        1, "minibatches in a step, whose gradients are averaged", 1
    )
    bfloat16_gradients: bool = option(
        False,
        "round the gradients that devices send each other to bfloat16, half the bytes",
    )
    loss_balance_scheme: LossBalanceScheme = option(
        LossBalanceScheme.FOCAL, "how pixels are weighted in the loss"
    )
    loss_average: LossAverage = option(
        LossAverage.WEIGHTS,
        "what the sum of weighted cross entropies is divided by, plane by plane: the "
        "sum of the weights, or the number of pixels as in CosmicTagger v2.1, where "
        "focal weights are a third",
    )
    class_weights: str | None = option(
        None,
        "weights of the classes in the scheme light, in their order, as 1,1.5,10",
        if_unset="1 for the background, 1.5 for the next class, 10 for the others",
    )
    loss_charged_pixels_only: bool = option(
        False, "leave pixels without charge out of the loss"
    )
    lr_schedule: LearningRateSchedule = option(
        LearningRateSchedule.WARMUP_FLAT_DECAY,
        "how the learning rate changes with the step",
    )


@dataclasses.dataclass(frozen=True)
class Mode:
    """Options of what the run does and what it leaves behind."""

    name: ModeName = option(ModeName.TRAIN, "what the run does")
    weights_location: str | None = option(
        None,
        "folder of the checkpoint to take weights from",
        if_unset="that of output_dir",
    )
    allow_other_images: bool = option(
        False,
        "take weights that were trained with another data.downsample or "
        "data.img_transform",
    )
    start_index: int = option(0, "first event of inference and iotest", 0)
    wrap: bool = option(
        False,
        "inference that is asked for more entries than the data has goes round again",
    )
    checkpoint_iteration: int = option(500, "training steps between checkpoints", 1)
    logging_iteration: int = option(1, "steps between lines of the log", 1)
    summary_iteration: int = option(1, "steps between TensorBoard summaries", 1)
    no_summary_images: bool = option(
        True, "leave event displays out of TensorBoard; else every 25th summary has one"
    )
    tracker: Tracker = option(
        Tracker.NONE,
        "tracker of experiments that gets a training's summaries, too; its package is "
        "that of the extra of this name, its account and address that of the user",
    )
    mask_empty_pixels: bool = option(
        True, "predict background wherever there is no charge (CosmicTagger: False)"
    )
    write_predictions: bool = option(
        False, "inference writes predictions.h5, a larcv3 file"
    )
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


@dataclasses.dataclass(frozen=True)
class Config:
    """All options of a run."""

    run: Run = dataclasses.field(default_factory=Run)
    data: Data = dataclasses.field(default_factory=Data)
    network: AnyNetwork = dataclasses.field(default_factory=Network)
    mode: Mode = dataclasses.field(default_factory=Mode)
    output_dir: str = option(
        None,
        "folder that the run writes into",
        if_unset="output/<network.name>/<run.id>",
    )


def default_config(network: AnyNetwork | None = None) -> ml_collections.ConfigDict:
    """Returns the defaults of every option, choices as their strings.

    Args:
      network: the section `network`; None for that of the UResNet.
    """
    config = Config(network=Network() if network is None else network)
    return ml_collections.ConfigDict(_with_references(config))


def _with_references(section: Any) -> dict[str, Any]:
    """Holds options that may be None in references, which know their type."""
    values = to_dict(section)
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            values[field.name] = _with_references(value)
        elif field.metadata["option"].if_unset is not None:
            kind = plain_type(type(section), field.name)
            values[field.name] = ml_collections.FieldReference(value, kind)
    return values


def to_dict(section: Any) -> dict[str, Any]:
    """Turns a section of options into nested dictionaries of plain values."""
    result = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        result[field.name] = value.value if isinstance(value, enum.Enum) else value
    return result
