"""Defines CvT, a U of attention over all pixels between convolutions.

Modules take and return [N, H, W, C] with N = events x planes. Submodules have the names
of CosmicTagger's. Parameters are declared as 0 and drawn by `state.init_variables`.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.models import layers
from ctjax.models.attention import attend
from ctjax.models.kernels.convolution import DIMENSION_NUMBERS
from ctjax.models.pixel_network import (
    ImageRule,
    PixelNetwork,
    Wrapped,
    apply_in_turn,
    glorot_bounds,
    torch_bounds,
)

PATCH = 4  # rows and columns of an image that are a pixel of the first level
DEEPEST_BLOCKS = 3
LAYER_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default

_zeros = nn.initializers.zeros_init()
_Dense = functools.partial(nn.Dense, kernel_init=_zeros)
_Conv = functools.partial(nn.Conv, kernel_init=_zeros)


class TransposedConvolution(nn.Module):
    """Enlarges images by a transposed convolution in groups, and adds a bias.

    Attributes:
      features: output features.
      size: rows and columns of the kernel.
      stride: how much larger the images become.
      padding: rows and columns that are cut off each side.
      groups: parts of the features that see one another alone.
      dtype: compute type.
    """

    features: int
    size: int
    stride: int
    padding: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to [N, stride x H, stride x W, features]."""
        size, groups, inputs = self.size, self.groups, x.shape[-1]
        shape = (size, size, inputs, self.features // groups)
        kernel = self.param("kernel", _zeros, shape).astype(self.dtype)
        bias = self.param("bias", _zeros, (self.features,)).astype(self.dtype)
        # From outputs of a group beside every input to those of all groups in turn
        # beside every input of a group, as convolutions in groups have them.
        kernel = kernel.reshape(size, size, groups, inputs // groups, -1)
        kernel = kernel.swapaxes(2, 3).reshape(size, size, inputs // groups, -1)
        around = size - 1 - self.padding
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel,
            window_strides=(1, 1),
            padding=[(around, around)] * 2,
            lhs_dilation=(self.stride, self.stride),
            dimension_numbers=DIMENSION_NUMBERS,
            feature_group_count=groups,
        )
        return y + bias[None, None, None]


class MultiheadAttention(nn.Module):
    """Projects queries, keys and values, attends and projects again, as torch's.

    Attributes:
      heads: number of heads.
      dtype: compute type.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        """Maps three arrays [N, T, C] to one."""
        projection = InProjection(self.dtype, name="in_proj")
        query, key, value = projection(query, key, value)
        y = attend(query, key, value, self.heads)
        return _Dense(query.shape[-1], dtype=self.dtype, name="out_proj")(y)


class InProjection(nn.Module):
    """Multiplies queries, keys and values by their parts of one matrix."""

    dtype: Any

    @nn.compact
    def __call__(self, *parts: jax.Array) -> list[jax.Array]:
        """Maps arrays [N, T, C] to as many."""
        width = parts[0].shape[-1]
        total = len(parts) * width
        kernel = self.param("kernel", _zeros, (width, total)).astype(self.dtype)
        bias = self.param("bias", _zeros, (total,)).astype(self.dtype)
        kernels = jnp.split(kernel, len(parts), axis=1)
        biases = jnp.split(bias, len(parts))
        return [
            part @ own + own_bias[None, None]
            for part, own, own_bias in zip(parts, kernels, biases, strict=True)
        ]


class ConvolutionalAttention(nn.Module):
    """Adds attention between all pixels, and a product of the normalized sum.

    Attributes:
      heads: number of heads, and of groups of the convolutions before them.
      dtype: compute type.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        features = x.shape[-1]

        def tokens(x):
            return x.reshape(x.shape[0], -1, features)

        convolution = functools.partial(
            _Conv,
            features,
            (3, 3),
            padding=[(1, 1), (1, 1)],
            feature_group_count=self.heads,
            dtype=self.dtype,
        )
        parts = [tokens(convolution(name=f"{name}_0")(x)) for name in "qkv"]
        attention = MultiheadAttention(self.heads, self.dtype, name="attn")
        x = x + attention(*parts).reshape(x.shape)
        y = nn.LayerNorm(
            LAYER_NORM_EPSILON,
            dtype=self.dtype,
            use_fast_variance=False,
            name="norm",
        )(x)
        return x + _Dense(features, dtype=self.dtype, name="mlp")(y)


class Deepest(nn.Module):
    """Computes the lowest level, where the planes meet; attributes as of `Level`."""

    network: Any
    dtype: Any
    remat: Any
    num_planes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config = self.network
        x = layers.fold_planes_into_features(x, self.num_planes)
        width = x.shape[-1]
        x = _Conv(config.deepest_width, (1, 1), dtype=self.dtype, name="bottleneck")(x)
        block = functools.partial(
            ConvolutionalAttention, config.deepest_heads, self.dtype
        )
        names = [f"encoder_layers_{index}" for index in range(DEEPEST_BLOCKS)]
        x = apply_in_turn(self, x, block, names, self.remat)
        x = _Conv(width, (1, 1), dtype=self.dtype, name="unbottleneck")(x)
        return layers.unfold_planes_from_features(x, self.num_planes)


class Level(nn.Module):
    """Computes one resolution of the U and everything below it.

    Attributes:
      network: the network's options.
      dtype: compute type.
      remat: as in `apply_in_turn`.
      num_planes: folded into the leading axis.
      number: levels above this one.
    """

    network: Any
    dtype: Any
    remat: Any
    num_planes: int
    number: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config, number = self.network, self.number
        below = (config, self.dtype, self.remat, self.num_planes)
        if number == len(config.layer_embed):
            return Deepest(*below, name="main_module")(x)
        skip, above, features = x, x.shape[-1], config.layer_embed[number]
        groups = math.gcd(above, features)
        embedding = functools.partial(
            _Conv,
            features,
            (7, 7),
            (2, 2),
            padding=[(3, 3), (3, 3)],
            feature_group_count=groups,
            dtype=self.dtype,
        )
        block = functools.partial(
            ConvolutionalAttention, config.num_heads[number], self.dtype
        )
        down, up = (
            [f"encoder_layers_{way}_{index}" for index in range(config.blocks[number])]
            for way in ("down", "up")
        )
        x = Wrapped(embedding, "conv", name="cte")(x)
        x = apply_in_turn(self, x, block, down, self.remat)
        x = Level(*below, number + 1, name="main_module")(x)
        enlarging = functools.partial(
            TransposedConvolution, above, 6, 2, 2, groups, self.dtype
        )
        x = Wrapped(enlarging, "conv", name="ctu")(x) + skip
        return apply_in_turn(self, x, block, up, self.remat)


class CvT(PixelNetwork):
    """Computes CosmicTagger's convolutional vision transformer; see `PixelNetwork`.

    It takes nothing of a minibatch: training and evaluation give the same.

    Source:
      CosmicTagger v2.1, src/networks/torch/cvt.py; after arXiv:2103.15808.
    """

    @nn.nowrap
    def image_rule(self) -> ImageRule:
        """Says that every level halves the map of patches."""
        step = PATCH * 2 ** len(self.network.layer_embed)
        return ImageRule(step, step, "layer_embed")

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws as torch does by itself, which is otherwise for its attention."""
        bounds = torch_bounds(shapes)
        glorot = glorot_bounds(shapes)
        for path in shapes:
            if path[-2] == "in_proj":
                bounds[path] = glorot.get(path, 0.0)
            if path[-2:] == ("out_proj", "bias"):
                bounds[path] = 0.0
        return bounds

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Computes the class scores of every pixel.

        Args:
          image: [B, P, H, W], charge; H and W divisible by 4 x 2**levels.
          train: of no effect.

        Returns:
          logits, [B, P, H, W, K] float32.

        Raises:
          ValueError: planes or pixels do not fit the network.
        """
        config = self.network
        features = config.layer_embed[0]
        x = _Conv(
            features,
            (7, 7),
            (PATCH, PATCH),
            padding=[(2, 2), (2, 2)],
            dtype=self.dtype,
            name="patchify",
        )(self.fold(image))
        planes = self.detector.num_planes
        x = Level(config, self.dtype, self.remat, planes, name="net_core")(x)
        x = TransposedConvolution(
            features, PATCH, PATCH, 0, 1, self.dtype, name="reshape"
        )(x)
        classes = self.detector.num_classes
        x = _Conv(classes, (1, 1), dtype=self.dtype, name="bottleneck")(x)
        return self.unfold(x)
