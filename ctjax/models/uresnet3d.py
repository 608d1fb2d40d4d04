"""Defines UResNet3D, whose planes are the depth of 3D convolutions.

All kernels are one plane thick, but for two of the deepest level. So planes stay folded
into the leading axis, and the blocks of the 2D network compute them; kernels have the
shape of 3D convolutions in the parameters alone.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Remat,
    Upsampling,
)
from ctjax.config.networks import UResNet3D as Options
from ctjax.models import blocks, layers
from ctjax.models.pixel_network import PixelNetwork, torch_bounds
from ctjax.models.uresnet import ConcatConnection, MaxPoolingDownsample


class FlatConvolution(layers.Convolution):
    """Convolves by a kernel that is one plane thick, [1, k, k, C, features]."""

    @nn.compact
    def parameters(self, x: Any) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [k, k, C, features] for `x` and the bias, float32."""
        parts = x if isinstance(x, tuple) else (x,)
        inputs = sum(part.shape[-1] for part in parts)
        size = self.kernel_size
        kernel, bias = _declared(self, (1, size, size, inputs, self.features))
        return kernel[0], bias


class FlatTransposedConvolution(FlatConvolution, layers.TransposedConvolution):
    """Doubles rows and columns; the kernel is one plane thick."""


class PlaneConvolution(layers.Convolution):
    """Convolves every pixel of a plane with that of the planes beside it.

    A convolution of kernel [3, 1, 1, C, features] is one of kernel 1 x 1 over the
    features of these planes side by side, as `neighbours` returns them.
    """

    @nn.compact
    def parameters(self, x: Any) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [1, 1, 3 x C, features] for `x` and the bias, float32."""
        shape = (len(x), 1, 1, x[0].shape[-1], self.features)
        kernel, bias = _declared(self, shape)
        return kernel.reshape(1, 1, -1, self.features), bias


def _declared(module: layers.Convolution, shape: tuple[int, ...]):
    """Declares kernel and bias, which `state.init_variables` draws."""
    zeros = nn.initializers.zeros_init()
    kernel = module.param("kernel", zeros, shape)
    if not module.use_bias:
        return kernel, None
    return kernel, module.param("bias", zeros, (module.features,))


def neighbours(x: jax.Array, num_planes: int) -> tuple[jax.Array, ...]:
    """Returns the plane before, the plane itself and the plane behind.

    Args:
      x: [B x P, H, W, C].
      num_planes: P.

    Returns:
      Three of the same shape; 0 where there is no such plane.
    """
    planes = x.reshape(-1, num_planes, *x.shape[1:])
    padded = jnp.pad(planes, ((0, 0), (1, 1), *((0, 0),) * 3))
    shifted = (padded[:, first : first + num_planes] for first in range(3))
    return tuple(part.reshape(x.shape) for part in shifted)


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Doubles rows and columns by repeating each pixel; [N, H, W, C]."""
    n, height, width, features = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, features))
    return x.reshape(n, 2 * height, 2 * width, features)


class NearestUpsample(nn.Module):
    """Repeats pixels and applies a 1 x 1 block to the upper level's width."""

    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, 2H, 2W, C']."""
        return self.block(kernel_size=1, upsample=upsample_nearest, name="bottleneck")(
            x, train
        )


class DeepestBlock(nn.Module):
    """Computes the lowest level, where every plane meets those beside it, twice."""

    network: Options
    block: functools.partial
    series: functools.partial
    num_planes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config = self.network
        across = functools.partial(
            self.block, kernel_size=1, convolution=PlaneConvolution
        )
        width = x.shape[-1]
        narrow = config.bottleneck_deepest
        x = across(features=narrow, name="merger")(
            neighbours(x, self.num_planes), train
        )
        x = self.series(
            functools.partial(
                self.block, features=narrow, kernel_size=config.filter_size_deepest
            ),
            config.blocks_deepest_layer,
            config.residual,
            name="blocks",
        )(x, train)
        return across(features=width, name="splitter")(
            neighbours(x, self.num_planes), train
        )


class Level(nn.Module):
    """Computes one resolution of the U and everything below it.

    Attributes:
      network: the network's options.
      block: `blocks.Block` with all that is common to the network bound.
      series: likewise `blocks.BlockSeries`.
      num_planes: folded into the leading axis.
      depth: levels below this one; 0 is the deepest block.
    """

    network: Options
    block: functools.partial
    series: functools.partial
    num_planes: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config = self.network
        common = config, self.block, self.series, self.num_planes
        if self.depth == 0:
            return DeepestBlock(*common, name="main_module")(x, train)

        width = x.shape[-1]
        if config.growth_rate is GrowthRate.MULTIPLICATIVE:
            width_below = 2 * width
        else:
            width_below = width + config.n_initial_filters
        here = functools.partial(self.block, features=width)
        series = functools.partial(
            self.series,
            functools.partial(here, kernel_size=3),
            config.blocks_per_layer,
            config.residual,
        )

        # Otherwise than in the 2D network: what the blocks make of the level's input
        # is skipped, and joined when the way up is done.
        x = skip = series(name="down_blocks")(x, train)
        x = self._downsample(x, train, width_below)
        level = Level(*common, self.depth - 1, name="main_module")
        x = self._upsample(level(x, train), train, width)
        x = series(name="up_blocks")(x, train)
        if config.connections is Connection.SUM:
            return x + skip
        if config.connections is Connection.CONCAT:
            return ConcatConnection(here, name="connection")(x, skip, train)
        return x

    def _downsample(self, x, train, width):
        block = functools.partial(self.block, features=width)
        if self.network.downsampling is Downsampling.MAX_POOLING:
            return MaxPoolingDownsample(block, name="downsample")(x, train)
        # The activation here and below is no leaky one.
        strided = block(kernel_size=2, stride=2, is_activated=False, name="downsample")
        return jax.nn.relu(strided(x, train))

    def _upsample(self, x, train, width):
        block = functools.partial(self.block, features=width)
        if self.network.upsampling is Upsampling.INTERPOLATION:
            return NearestUpsample(block, name="upsample")(x, train)
        transposed = block(
            kernel_size=2,
            stride=2,
            is_activated=False,
            convolution=FlatTransposedConvolution,
            name="upsample",
        )
        return jax.nn.relu(transposed(x, train))


class UResNet3D(PixelNetwork):
    """Computes CosmicTagger's UResNet of 3D convolutions; see `PixelNetwork`.

    Batch normalization takes its statistics over the planes together.

    Source:
      CosmicTagger, src/networks/torch/uresnet3D.py.
    """

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws kernels and biases as torch does by itself."""
        return torch_bounds(shapes)

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Computes the class scores of every pixel.

        Args:
          image: [B, P, H, W], charge; H and W divisible by 2**depth.
          train: whether to normalize by the minibatch and update running statistics
            (collection "batch_stats").

        Returns:
          logits, [B, P, H, W, K] float32.

        Raises:
          ValueError: planes or pixels do not fit the network.
        """
        config = self.network
        block = functools.partial(
            blocks.Block,
            bias=config.bias,
            normalization=config.normalization,
            num_planes=1,
            convolution=FlatConvolution,
            dtype=self.dtype,
            axis_name=self.axis_name if config.sync_batch_norm else None,
            own=self.own_pixels(image),
        )
        series = functools.partial(
            nn.remat(blocks.BlockSeries, static_argnums=(2,))  # 2: train
            if self.remat is Remat.STAGE
            else blocks.BlockSeries,
            is_recomputed=self.remat is Remat.BLOCK,
            block_name="block",
        )
        features = config.n_initial_filters
        x = self.fold(image)
        x = block(features=features, kernel_size=5, name="initial_convolution")(
            x, train
        )
        planes = self.detector.num_planes
        core = Level(config, block, series, planes, config.depth, name="net_core")
        x = core(x, train)
        x = series(
            functools.partial(block, features=features, kernel_size=3),
            config.blocks_final,
            config.residual,
            name="final_layer",
        )(x, train)
        logits, bias = FlatConvolution(
            self.detector.num_classes,
            kernel_size=1,
            use_bias=config.bias,
            dtype=self.dtype,
            name="bottleneck",
        )(x)
        logits = self.unfold(logits)
        return logits if bias is None else logits + bias[None, None, None, None]
