"""Writes a network as a program that runs without ctjax."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from ctjax.api.images import added_to_network
from ctjax.base import home, optional_packages
from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import ImageShape
from ctjax.base.errors import UserError
from ctjax.config.architecture import Architecture
from ctjax.config.choices import Kernels
from ctjax.config.fields import Config
from ctjax.learning import heads
from ctjax.learning.minibatch import log_of_charge
from ctjax.models import PixelNetwork
from ctjax.models.kernels import portable

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(
    path: str | os.PathLike,
    config: Config,
    model: PixelNetwork,
    variables: dict[str, Any],
    image_shape: ImageShape,
) -> None:
    """Writes the program of `Tagger.export`, complete or not at all.

    Args:
      path: file to write.
      config: of an inference with the network.
      model: the network.
      variables: its parameters and running statistics.
      image_shape: (H, W).

    Raises:
      UserError: a sparse network, no shape of an image, or flatbuffers is lacking.
      OSError: the file cannot be written.
    """
    name = home.expand(os.fspath(path))
    optional_packages.import_optional("flatbuffers", "export")
    if config.network.architecture is Architecture.URESNET_SPARSE:
        raise UserError(
            f"{name}: found a sparse network, which takes lists of pixels, "
            "expected one that takes images"
        )
    shape = _checked_shape(image_shape)
    predict = make_program(config, model, jax.device_get(variables), shape)
    (events,) = jax.export.symbolic_shape("b")
    charge = jax.ShapeDtypeStruct(
        (events, model.detector.num_planes, *shape), jnp.float32
    )
    # The functions in C and the kernels for GPUs are not where the program goes.
    with portable.portable():
        exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(charge)
    unfinished = f"{name}.unfinished"
    with open(unfinished, "wb") as file:
        file.write(exported.serialize())
    os.replace(unfinished, name)


def make_program(
    config: Config,
    model: PixelNetwork,
    variables: dict[str, Any],
    image_shape: ImageShape,
) -> Callable[[jax.Array], jax.Array]:
    """Returns a pure `charge -> scores` of operations of XLA alone; see `export`."""
    if hasattr(model.network, "kernels"):
        plain = dataclasses.replace(model.network, kernels=Kernels.XLA)
        model = model.clone(network=plain)
    model = model.clone(axis_name=None)
    height, width = image_shape
    added = added_to_network(image_shape, model)
    is_background = np.arange(model.detector.num_classes) == BACKGROUND

    def predict(charge: jax.Array) -> jax.Array:
        seen = log_of_charge(charge) if config.data.img_transform else charge
        padded = jnp.pad(seen, ((0, 0), (0, 0), *((0, number) for number in added)))
        logits = heads.split(model.apply(variables, padded, train=False)).pixels
        scores = jax.nn.softmax(logits, -1)[:, :, :height, :width]
        if config.mode.mask_empty_pixels:
            is_empty = (charge == 0)[..., None]
            sure = jnp.asarray(is_background, scores.dtype)[None, None, None, None]
            scores = jnp.where(is_empty, sure, scores)
        return scores

    return predict


def _checked_shape(image_shape: Any) -> ImageShape:
    """Returns rows and columns, or raises UserError."""
    is_shape = (
        isinstance(image_shape, tuple | list)
        and len(image_shape) == 2
        and all(isinstance(size, int | np.integer) and size > 0 for size in image_shape)
    )
    if not is_shape:
        raise UserError(f"image_shape: expected (rows, columns), got {image_shape!r}")
    return int(image_shape[0]), int(image_shape[1])
