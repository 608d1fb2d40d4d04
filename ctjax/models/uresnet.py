"""Defines UResNet, a U-shaped network that labels every pixel of the three planes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.base import constants
from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Kernels,
    Network,
    Remat,
    Upsampling,
)
from ctjax.models import blocks, layers
from ctjax.models.pixel_network import ImageRule, PixelNetwork, glorot_bounds

HAS_COLUMNS = {Kernels.AUTO: None, Kernels.COLUMNS: True}
"""Whether columns become features, see `blocks.Block`; else they do not."""


class MaxPoolingDownsample(nn.Module):
    """Max-pools, then applies a 1 x 1 block to the next level's width."""

    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, H/2, W/2, C']."""
        return self.block(kernel_size=1, name="bottleneck")(layers.max_pool(x), train)


class InterpolationUpsample(nn.Module):
    """Interpolates and applies a 1 x 1 block to the upper level's width."""

    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, 2H, 2W, C']."""
        return self.block(
            kernel_size=1, upsample=layers.upsample_bilinear, name="bottleneck"
        )(x, train)


class ConcatConnection(nn.Module):
    """Joins the skip connection by a 1 x 1 block over both inputs' features.

    A product with features side by side is the sum of the products with each part: the
    array that holds both is neither written nor kept.
    """

    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array, train: bool) -> jax.Array:
        """Maps two arrays [N, H, W, C] to one."""
        return self.block(kernel_size=1, name="bottleneck")((x, skip), train)


class DeepestBlock(nn.Module):
    """Computes the lowest level, where the planes meet.

    All planes' features are concatenated, narrowed to `bottleneck_deepest`, convolved,
    and widened again; with `block_concat` the planes stay apart instead.
    """

    network: Network
    block: functools.partial
    series: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config = self.network
        planes = constants.NUM_PLANES
        block = self.block
        if not config.block_concat:
            x = layers.fold_planes_into_features(x, planes)
            block = functools.partial(block, num_planes=1)
        width = x.shape[-1]
        narrow = functools.partial(block, features=config.bottleneck_deepest)
        x = narrow(kernel_size=1, name="bottleneck")(x, train)
        x = self.series(
            functools.partial(narrow, kernel_size=config.filter_size_deepest),
            config.blocks_deepest_layer,
            config.residual,
            name="blocks",
        )(x, train)
        x = block(features=width, kernel_size=1, name="unbottleneck")(x, train)
        if not config.block_concat:
            x = layers.unfold_planes_from_features(x, planes)
        return x


class Level(nn.Module):
    """Computes one resolution of the U and everything below it.

    Attributes:
      network: the network's options.
      block: `blocks.Block` with all that is common to the network bound.
      series: likewise `blocks.BlockSeries`.
      depth: levels below this one; 0 is the deepest block.
    """

    network: Network
    block: functools.partial
    series: functools.partial
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config = self.network
        if self.depth == 0:
            deepest = DeepestBlock(config, self.block, self.series, name="main_module")
            return deepest(x, train)

        width = x.shape[-1]
        multiplies = config.growth_rate is GrowthRate.MULTIPLICATIVE
        width_below = width + (width if multiplies else config.n_initial_filters)
        here = functools.partial(self.block, features=width)
        below = functools.partial(self.block, features=width_below)
        series = functools.partial(
            self.series,
            functools.partial(here, kernel_size=3),
            config.blocks_per_layer,
            config.residual,
        )

        # The skip connection takes the level's input, not what its blocks make of it.
        skip = x
        x = series(name="down_blocks")(x, train)
        if config.downsampling is Downsampling.CONVOLUTIONAL:
            x = below(kernel_size=2, stride=2, name="downsample")(x, train)
        else:
            x = MaxPoolingDownsample(below, name="downsample")(x, train)

        level = Level(
            config, self.block, self.series, self.depth - 1, name="main_module"
        )
        x = level(x, train)

        if config.upsampling is Upsampling.CONVOLUTIONAL:
            x = here(
                kernel_size=2,
                stride=2,
                convolution=layers.TransposedConvolution,
                name="upsample",
            )(x, train)
        else:
            x = InterpolationUpsample(here, name="upsample")(x, train)
        if config.connections is Connection.SUM:
            x = x + skip
        elif config.connections is Connection.CONCAT:
            x = ConcatConnection(here, name="connection")(x, skip, train)
        return series(name="up_blocks")(x, train)


class UResNet(PixelNetwork):
    """Computes CosmicTagger's 2D UResNet.

    Attributes:
      network: its options.
      dtype: compute type of convolutions and activations; parameters, statistics and
        logits are float32.
      axis_name: of the mesh over which network.sync_batch_norm takes the statistics
        of a training step; None where the minibatch is whole.
      remat: what the backward pass recomputes instead of storing it.

    Source:
      CosmicTagger, src/networks/torch/uresnet2D.py; doi:10.3389/frai.2021.649917.
    """

    network: Network
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    remat: Remat = Remat.NONE

    @nn.nowrap
    def image_rule(self) -> ImageRule:
        """Says that every level but the first halves the image."""
        step = 2**self.network.depth
        return ImageRule(step, step, "depth")

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws kernels as CosmicTagger does."""
        return glorot_bounds(shapes)

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
        events, planes, height, width = image.shape
        step = 2**config.depth
        if planes != constants.NUM_PLANES or height % step or width % step:
            raise ValueError(
                f"image of shape {image.shape}: expected [B, {constants.NUM_PLANES}, "
                f"H, W] with H and W divisible by {step} (network.depth={config.depth})"
            )
        block = functools.partial(
            blocks.Block,
            bias=config.bias,
            normalization=config.normalization,
            num_planes=planes,
            dtype=self.dtype,
            axis_name=self.axis_name if config.sync_batch_norm else None,
            is_fused=config.kernels is Kernels.FUSED,
            has_columns=HAS_COLUMNS.get(config.kernels, False),
        )
        series = functools.partial(
            nn.remat(blocks.BlockSeries, static_argnums=(2,))  # 2: train
            if self.remat is Remat.STAGE
            else blocks.BlockSeries,
            is_recomputed=self.remat is Remat.BLOCK,
        )
        features = config.n_initial_filters
        x = image.reshape(events * planes, height, width, 1).astype(self.dtype)
        first = block(features=features, kernel_size=5, name="initial_convolution")
        x = first(x, train)
        x = Level(config, block, series, config.depth, name="net_core")(x, train)
        x = series(
            functools.partial(block, features=features, kernel_size=3),
            config.blocks_final,
            config.residual,
            name="final_layer",
        )(x, train)
        logits, bias = layers.Convolution(
            constants.NUM_CLASSES,
            kernel_size=1,
            use_bias=config.bias,
            dtype=self.dtype,
            name="bottleneck",
        )(x)
        logits = logits.astype(jnp.float32)
        if bias is not None:
            logits = logits + bias[None, None, None]
        return logits.reshape(events, planes, height, width, constants.NUM_CLASSES)
