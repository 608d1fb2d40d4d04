"""From a configuration to the parts that training and inference share."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config, Data, Densify, Kernels
from ctjax.config.file_names import file_patterns
from ctjax.data import pipeline, sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.sources import EventSource
from ctjax.learning import sharding, state
from ctjax.learning.precision import POLICIES
from ctjax.models import UResNet
from ctjax.models.kernels import gpu


def open_events(data: Data, names: str, require_label: bool) -> EventSource:
    """Opens the events of a run.

    Args:
      data: the data section.
      names: its `file` or `aux_file`; of no meaning for synthetic events.
      require_label: whether events without true classes are of no use.

    Returns:
      The source, a context manager.

    Raises:
      LarcvFileError: a file is missing or is no larcv3 file.
      ConfigError: the image cannot be downsampled so often.
    """
    try:
        return sources.open_source(
            file=file_patterns(data, names),
            downsample=data.downsample,
            synthetic=data.synthetic,
            seed=data.seed,
            require_label=require_label,
        )
    except LarcvFileError:
        raise
    except ValueError as error:
        raise ConfigError(f"data.downsample={data.downsample}: {error}") from error


def read_events(
    data: Data, source: EventSource, entries: Iterable[np.ndarray]
) -> pipeline.MinibatchReader:
    """Reads minibatches of a source in the form that the configuration asks for.

    Args:
      data: the data section.
      source: of the events.
      entries: [B] int64 per minibatch.

    Returns:
      The reader, a context manager and an iterator.
    """
    return pipeline.minibatches(
        source,
        entries,
        io_threads=data.io_threads,
        prefetch=data.prefetch,
        sparse=data.densify is Densify.DEVICE,
    )


def make_network(
    config: Config, image_shape: tuple[int, int]
) -> tuple[UResNet, dict[str, Any]]:
    """Makes the network and draws its initial parameters.

    Args:
      config: of the run.
      image_shape: (H, W) of the events, downsampled.

    Returns:
      The module and its variables, "params" and "batch_stats".

    Raises:
      ConfigError: the network's depth cannot halve the image, or network.kernels=fused
        is asked for on a GPU with a jax that does not have Pallas for Triton.
    """
    if (
        config.network.kernels is Kernels.FUSED
        and jax.default_backend() == "gpu"
        and not gpu.is_available()
    ):
        raise ConfigError(
            "network.kernels=fused: expected a jax with Pallas for Triton, jax "
            f"{jax.__version__} has none"
        )
    height, width = image_shape
    step = 2**config.network.depth
    if height % step or width % step:
        raise ConfigError(
            f"network.depth={config.network.depth}: expected an image divisible by "
            f"{step}, got {height} x {width} with "
            f"data.downsample={config.data.downsample}"
        )
    dtype = POLICIES[config.run.precision].compute_type
    model = UResNet(config.network, dtype, sharding.EVENT_AXIS, config.run.remat)
    return model, state.init_variables(model, config.network.depth, config.run.seed)
