"""Makes the parts that training and inference share, from a configuration."""

import collections
import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ctjax import models
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.errors import ConfigError
from ctjax.base.native_library import CONVOLUTIONS
from ctjax.commands import import_weights
from ctjax.config import detectors, fields
from ctjax.config.fields import Config, Data, Kernels, OnNonfinite
from ctjax.config.file_names import file_patterns
from ctjax.config.heads import NO_HEADS, ActiveHeads, active_heads
from ctjax.data import pipeline, sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.sources import EventSource
from ctjax.learning import losses, sharding, state
from ctjax.learning.minibatch import (
    DenseMinibatch,
    Minibatch,
    SiteMinibatch,
    SparseMinibatch,
    make_input,
)
from ctjax.learning.precision import POLICIES
from ctjax.learning.steps import StepOptions
from ctjax.models.kernels import cpu, gpu
from ctjax.outputs import checkpoint, checksums, run_record
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs.event_form import choose_form

logger = logging.getLogger("ctjax")


def open_events(
    data: Data,
    names: str,
    require_label: bool,
    processes: Processes = SINGLE_PROCESS,
    pad_to: tuple[int, int] = (1, 1),
    heads: ActiveHeads = NO_HEADS,
) -> EventSource:
    """Opens the events of a run.

    Args:
      data: the data section.
      names: its `file` or `aux_file`; of no meaning for synthetic events.
      require_label: whether events without true classes are of no use.
      processes: of the run, all of which open them.
      pad_to: see `find_padding`.
      heads: of the network, for which events get labels.

    Returns:
      The source, a context manager.

    Raises:
      LarcvFileError: a file is missing or is no larcv3 file.
      ConfigError: the image cannot be downsampled so often.
      DistributedError: another process sees other files.
    """
    try:
        source = sources.open_source(
            file=file_patterns(data, names),
            downsample=data.downsample,
            synthetic=data.synthetic,
            seed=data.seed,
            data=data,
            pad_to=pad_to,
            heads=heads,
            require_label=require_label,
        )
    except LarcvFileError:
        raise
    except ValueError as error:
        raise ConfigError(f"data.downsample={data.downsample}: {error}") from error
    if processes.count > 1:
        try:
            join.check_alike(source.describe())
        except BaseException:
            source.close()
            raise
    return source


def find_padding(config: Config) -> tuple[int, int]:
    """Returns what must divide the rows and columns of an image, and their fewest."""
    rule = models.make(config.network).image_rule()
    return rule.divisor, rule.smallest


def open_for_network(
    config: Config, names: str, require_label: bool, processes: Processes
) -> EventSource:
    """Opens events as `open_events` does, in images that the network takes."""
    pad_to, heads = find_padding(config), active_heads(config.network)
    return open_events(config.data, names, require_label, processes, pad_to, heads)


def with_planes(config: Config, source: EventSource, processes: Processes) -> Config:
    """Writes the planes of the data into a configuration that leaves them open.

    What is saved with it says then how many there are; nothing says three.

    Args:
      config: of the run, whose record has been written already.
      source: of its events.
      processes: of the run.
    """
    detector = source.detector
    if processes.is_first and detector.plane_shapes is not None:
        sizes = (f"{height} x {width}" for height, width in detector.plane_shapes)
        words = "Planes of %s pixels in images of %d x %d: padding does not count"
        logger.info(words, ", ".join(sizes), *source.image_shape)
    if detector.num_planes == COSMIC_TAGGER.num_planes or config.data.planes:
        return config
    planes = detectors.name_planes(source.planes)
    if processes.is_first:
        logger.info("The data has the planes data.planes=%s", planes)
    data = dataclasses.replace(config.data, planes=planes)
    config = dataclasses.replace(config, data=data)
    if processes.is_first:
        run_record.add(config, config=fields.to_dict(config))
    return config


def record_parts(
    config: Config,
    source: EventSource,
    variables: dict[str, Any],
    mesh: Mesh,
    processes: Processes,
) -> None:
    """Adds to the record of a run what it computes with: data, network, devices.

    Args:
      config: of the run.
      source: of its events.
      variables: of its network.
      mesh: of its devices.
      processes: of the run, all of which must call this.
    """
    hosts = run_record.count_hosts(processes)
    if not processes.is_first:
        return
    kinds = collections.Counter(device.device_kind for device in mesh.devices.flat)
    run_record.add(
        config,
        devices=dict(kinds),
        hosts=hosts,
        processes=processes.count,
        kernels=_kernels_in_use(config),
        parameters=state.count_parameters(variables["params"]),
        data=run_record.describe_events(source),
    )


def _kernels_in_use(config: Config) -> str:
    """Says in a word who computes the convolutions that there is a choice for."""
    asked = getattr(config.network, "kernels", None)
    if asked is Kernels.COLUMNS:
        return asked.value
    if jax.default_backend() == "cpu":
        return run_record.in_use(CONVOLUTIONS)
    if asked is not Kernels.AUTO or jax.default_backend() != "gpu":
        return Kernels.XLA.value if asked is None else asked.value
    lacking = gpu.missing()
    return "fused" if lacking is None else f"columns, as fused expects {lacking}"


def read_events(
    config: Config,
    source: EventSource,
    entries: Iterable[np.ndarray],
    mesh: Mesh,
    accumulation: int = 1,
) -> pipeline.MinibatchReader:
    """Reads minibatches of a source in the form that the configuration asks for.

    Args:
      config: of the run.
      source: of the events.
      entries: [B] int64 per minibatch, of this process.
      mesh: of the devices that compute with them.
      accumulation: minibatches that a step takes one after the other.

    Returns:
      The reader, a context manager and an iterator.
    """
    parts = mesh.local_mesh.size * accumulation
    return pipeline.minibatches(
        source,
        entries,
        io_threads=config.data.io_threads or 0,
        prefetch=config.data.prefetch,
        form=choose_form(config, parts, not mesh.is_multi_process),
    )


def images_per_step(config: Config) -> int:
    """Counts the events of a training step, of all minibatches that it takes."""
    return config.run.minibatch_size * config.mode.optimizer.gradient_accumulation


def make_network(
    config: Config,
    image_shape: tuple[int, int] | None,
    detector: Detector | None = None,
) -> tuple[models.PixelNetwork, dict[str, Any]]:
    """Makes the network and draws its initial parameters.

    Args:
      config: of the run.
      image_shape: (H, W) of the events, downsampled; None where it is not known yet.
      detector: what they are images of; None for what the configuration says.

    Returns:
      The module and its variables, "params" and "batch_stats".

    Raises:
      ConfigError: the network does not take images of that size, or
        network.kernels=fused is asked for on a GPU without what they need.
    """
    kernels = getattr(config.network, "kernels", None)
    is_fused = kernels is Kernels.FUSED and jax.default_backend() == "gpu"
    if is_fused and (lacking := gpu.missing()):
        raise ConfigError(f"network.kernels=fused: expected {lacking}")
    dtype = POLICIES[config.run.precision].compute_type
    detector = detector or detectors.read_detector(config.data)
    model = models.make(
        config.network, dtype, sharding.EVENT_AXIS, config.run.remat, detector
    )
    divisor, smallest, field = model.image_rule()
    height, width = image_shape or (smallest, smallest)
    if height % divisor or width % divisor or min(height, width) < smallest:
        least = f"of at least {smallest} x {smallest} and " * (smallest > divisor)
        raise ConfigError(
            f"network.{field}={getattr(config.network, field)}: expected an image "
            f"{least}divisible by {divisor}, got {height} x {width} with "
            f"data.downsample={config.data.downsample}"
        )
    slowness = cpu.find_slowness(dtype) if jax.default_backend() == "cpu" else None
    if slowness is not None and jax.process_index() == 0:
        logger.warning(
            "run.precision=%s: on this CPU %s", config.run.precision.value, slowness
        )
    return model, state.init_variables(model, config.run.seed)


def restore_weights(
    location: str,
    variables: dict[str, Any],
    config: Config,
    processes: Processes = SINGLE_PROCESS,
    is_for_training: bool = False,
) -> tuple[dict[str, Any], int]:
    """Restores parameters and running statistics of a checkpoint or of CosmicTagger.

    Args:
      location: a checkpoint of ctjax (see `checkpoint.restore_weights`), or weights of
        CosmicTagger (see `import_weights.read_weights`).
      variables: on the devices, of the right structure.
      config: of the run.
      processes: of the run, all of which restore.
      is_for_training: whether the last layer of `variables` stays where the weights are
        of another number of classes, and a head that they lack.

    Returns:
      The variables, on the same devices, and the step at which they were saved.

    Raises:
      CheckpointError, WeightsError, MissingExtraError: for what the user can mend.
      DistributedError: another process sees other weights.
    """
    if not import_weights.is_foreign(location):
        return checkpoint.restore_weights(
            location, variables, config, processes, is_for_training
        )
    found, step = import_weights.read_weights(
        location, variables, config, is_for_training
    )
    if processes.count > 1:
        join.check_alike({f"weights of {location}": checksums.sum_arrays(found)})
    return {
        name: jax.tree.map(
            lambda new, old: jax.make_array_from_process_local_data(old.sharding, new),
            found[name],
            part,
        )
        for name, part in variables.items()
    }, step


def make_step_options(
    config: Config, image_shape: tuple[int, int], detector: Detector | None = None
) -> StepOptions:
    """Says what the steps of a run compute.

    Args:
      config: of the run.
      image_shape: (H, W) of the events, downsampled.
      detector: what they are images of; None for what the configuration says.

    Returns:
      The options of its training and evaluation steps.
    """
    rule, axis_name = config.mode.optimizer, sharding.EVENT_AXIS
    detector = detector or detectors.read_detector(config.data)
    return StepOptions(
        loss_fn=losses.make_loss(
            rule.loss_balance_scheme,
            rule.loss_charged_pixels_only,
            axis_name,
            rule.loss_average,
            detector,
            detectors.read_class_weights(rule, detector.num_classes),
        ),
        network_input=make_input(image_shape, config.data.img_transform, detector),
        mask_empty_pixels=config.mode.mask_empty_pixels,
        axis_name=axis_name,
        accumulation=rule.gradient_accumulation,
        bfloat16_gradients=rule.bfloat16_gradients,
        skip_nonfinite=config.run.on_nonfinite is OnNonfinite.SKIP,
        is_scaled=POLICIES[config.run.precision].is_scaled,
        detector=detector,
        heads=active_heads(config.network),
    )


def step_arrays(minibatch: HostMinibatch) -> Minibatch:
    """Picks what a step computes with; the events' names stay on the host."""
    if minibatch.sites is not None:
        return SiteMinibatch(minibatch.sites, minibatch.mask, minibatch.heads)
    if minibatch.image is not None and minibatch.label is not None:
        return DenseMinibatch(
            minibatch.image, minibatch.label, minibatch.mask, minibatch.heads
        )
    ids, values, labels = minibatch.ids, minibatch.values, minibatch.labels
    assert ids is not None and values is not None and labels is not None
    return SparseMinibatch(ids, values, labels, minibatch.mask, minibatch.heads)
