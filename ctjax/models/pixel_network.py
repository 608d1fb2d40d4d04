"""Defines what runs ask of a network besides the classes of pixels."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.config.fields import Remat
from ctjax.models import torch_weights
from ctjax.models.own_pixels import OwnPixels

Path = tuple[str, ...]
"""Of a parameter in the variables, collection first."""


class ImageRule(NamedTuple):
    """Which images a network takes.

    Attributes:
      divisor: of their rows and columns.
      smallest: number of rows and of columns, a multiple of the divisor.
      field: of the network's options, on which both depend.
    """

    divisor: int
    smallest: int
    field: str


class PixelNetwork(nn.Module):
    """Gives every pixel of the planes a score for each class.

    Attributes:
      network: its options, of the class that `networks.SECTIONS` has for it.
      dtype: compute type; parameters, statistics and logits are float32.
      axis_name: of the mesh over which statistics of a minibatch are taken; None where
        the minibatch is whole.
      remat: what the backward pass recomputes instead of storing it.
      detector: whose planes and classes they are.
    """

    network: Any
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: Remat = Remat.NONE
    detector: Detector = COSMIC_TAGGER

    @nn.nowrap
    def image_rule(self) -> ImageRule:
        """Says which images it takes; its parameters do not depend on them.

        Those of a UResNet, whose levels but the first each halve the image.
        """
        step = 2**self.network.depth
        return ImageRule(step, step, "depth")

    @nn.nowrap
    def example_input(self) -> Any:
        """Returns the smallest input, of which only shapes and types matter."""
        side = self.image_rule().smallest
        return jnp.zeros((1, self.detector.num_planes, side, side))

    @nn.nowrap
    def initial_bounds(self, shapes: Mapping[Path, tuple[int, ...]]) -> dict:
        """Says what the initial parameters are drawn from.

        Args:
          shapes: of the variables.

        Returns:
          Path to b, where the parameter is uniform in (-b, b). The others start at 1
          where they are scales or variances, else at 0.
        """
        raise NotImplementedError

    @nn.nowrap
    def fold(self, image: jax.Array) -> jax.Array:
        """Turns [B, P, H, W] into [B x P, H, W, 1] of the compute type.

        Raises:
          ValueError: planes or pixels do not fit the network.
        """
        events, planes, height, width = image.shape
        divisor, smallest, field = self.image_rule()
        fits = (
            height % divisor == width % divisor == 0 and min(height, width) >= smallest
        )
        expected = self.detector.num_planes
        if planes != expected or not fits:
            raise ValueError(
                f"image of shape {image.shape}: expected [B, {expected}, H, W] with H "
                f"and W at least {smallest} and divisible by {divisor} "
                f"(network.{field}={getattr(self.network, field)})"
            )
        return image.reshape(events * planes, height, width, 1).astype(self.dtype)

    @nn.nowrap
    def unfold(self, logits: jax.Array) -> jax.Array:
        """Turns [B x P, H, W, K] of any type into [B, P, H, W, K] float32."""
        logits = logits.astype(jnp.float32)
        return logits.reshape(-1, self.detector.num_planes, *logits.shape[1:])

    @nn.nowrap
    def own_pixels(self, image: jax.Array) -> OwnPixels | None:
        """Says which pixels of images [B, P, H, W] statistics count; None for all."""
        shapes = self.detector.plane_shapes
        _, _, height, width = image.shape
        return None if shapes is None else OwnPixels((height, width), shapes)


class Wrapped(nn.Module):
    """Applies a layer that CosmicTagger has a module around.

    Attributes:
      layer: makes it from its `name`.
      inner_name: that name.
    """

    layer: Callable[..., nn.Module]
    inner_name: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer."""
        return self.layer(name=self.inner_name)(x)


def glorot_bounds(shapes: Mapping[Path, tuple[int, ...]]) -> dict[Path, float]:
    """Bounds kernels after Glorot and Bengio; biases are not drawn."""
    return {
        path: math.sqrt(6.0 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
        for path, shape in shapes.items()
        if path[-1] == "kernel"
    }


def torch_bounds(shapes: Mapping[Path, tuple[int, ...]]) -> dict[Path, float]:
    """Bounds kernels and their biases by the root of the kernel's inputs, as torch.

    Source:
      torch.nn.Linear, Conv2d, Conv3d: kaiming_uniform(a=sqrt(5)). ConvTranspose2d and
      3d count the outputs of the kernel instead of its inputs.
    """
    bounds = {}
    for path in shapes:
        kernel = (*path[:-1], "kernel")
        if path[-1] in ("kernel", "bias") and kernel in shapes:
            *area, inputs, outputs = shapes[kernel]
            if torch_weights.is_transposed(kernel):
                inputs = outputs
            bounds[path] = 1 / math.sqrt(math.prod(area) * inputs)
    return bounds


def apply_in_turn(
    parent: nn.Module,
    x: jax.Array,
    make: Callable[..., Callable[[jax.Array], jax.Array]],
    names: Iterable[str],
    remat: Remat,
) -> jax.Array:
    """Applies modules one after the other, as children of the calling one.

    Args:
      parent: the module that calls.
      x: what the first of them takes.
      make: makes each from its `name`.
      names: theirs.
      remat: whether the backward pass recomputes each of them (block), or all together
        (stage), and stores their input alone.
    """

    def one(parent, x, name):
        return make(name=name)(x)

    if remat is Remat.BLOCK:
        one = nn.remat(one, static_argnums=(2,))

    def all_of_them(parent, x):
        for name in names:
            x = one(parent, x, name)
        return x

    if remat is Remat.STAGE:
        all_of_them = nn.remat(all_of_them)
    return all_of_them(parent, x)
