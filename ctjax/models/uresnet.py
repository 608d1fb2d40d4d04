"""Defines UResNet, a U-shaped network that labels every pixel of the planes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Kernels,
    Remat,
    Upsampling,
)
from ctjax.config.heads import active_heads
from ctjax.learning.heads import Outputs
from ctjax.models import blocks, heads, layers
from ctjax.models.kernels.block import ConvolutionCall
from ctjax.models.own_pixels import PlaneAxis
from ctjax.models.pixel_network import PixelNetwork, glorot_bounds

IS_FUSED = {
    Kernels.AUTO: None,
    Kernels.XLA: False,
    Kernels.COLUMNS: False,
    Kernels.FUSED: True,
}
"""Whether kernels of our own are used, as in `blocks.Block`."""

HAS_COLUMNS = {
    Kernels.AUTO: None,
    Kernels.XLA: False,
    Kernels.COLUMNS: True,
    Kernels.FUSED: None,
}
"""Whether columns become features, as in `blocks.Block`."""


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


@dataclasses.dataclass(frozen=True)
class Parts:
    """Holds what the levels of a UResNet are made of.

    Attributes:
      block: `blocks.Block` with all that is common to the network bound.
      series: likewise `blocks.BlockSeries`.
      kernel_size: of the blocks of all levels but the deepest.
      deepest_size: of the blocks of the deepest level.
      upsample: makes the convolutional upsampling from its `features` and `name`.
      keeps_planes: whether the planes stay apart in the deepest level.
    """

    block: functools.partial
    series: functools.partial
    kernel_size: int
    deepest_size: int
    upsample: Callable[..., nn.Module]
    keeps_planes: bool = False


class DeepestBlock(nn.Module):
    """Computes the lowest level, where the planes meet; attributes as of `Level`.

    All planes' features are concatenated, narrowed to `bottleneck_deepest`, convolved,
    and widened again; where planes stay apart, each on its own.
    """

    network: Any
    parts: Parts

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        config, parts = self.network, self.parts
        planes = parts.block.keywords["num_planes"]
        narrow = wide = parts.block
        if not parts.keeps_planes:
            x = layers.fold_planes_into_features(x, planes)
            narrow = joined(parts.block, PlaneAxis.NOWHERE)
            wide = joined(parts.block, PlaneAxis.FEATURES)
        width = x.shape[-1]
        narrow = functools.partial(narrow, features=config.bottleneck_deepest)
        x = narrow(kernel_size=1, name="bottleneck")(x, train)
        x = parts.series(
            functools.partial(narrow, kernel_size=parts.deepest_size),
            config.blocks_deepest_layer,
            name="blocks",
        )(x, train)
        x = wide(features=width, kernel_size=1, name="unbottleneck")(x, train)
        if not parts.keeps_planes:
            x = layers.unfold_planes_from_features(x, planes)
        return x


def joined(block: functools.partial, planes: PlaneAxis) -> functools.partial:
    """Binds to blocks that the planes of their images are no images any more."""
    own = block.keywords["own"]
    if own is not None:
        own = dataclasses.replace(own, planes=planes)
    return functools.partial(block, num_planes=1, own=own)


class Level(nn.Module):
    """Computes one resolution of the U and everything below it.

    Attributes:
      network: the network's options.
      parts: what it is made of.
      depth: levels below this one; 0 is the deepest block.
      read: depths of the levels that heads look at.
    """

    network: Any
    parts: Parts
    depth: int
    read: frozenset[int] = frozenset()

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool
    ) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Maps [N, H, W, C] to the same shape; returns what heads look at, too."""
        config, parts = self.network, self.parts
        if self.depth == 0:
            x = DeepestBlock(config, parts, name="main_module")(x, train)
            return x, {0: x} if 0 in self.read else {}

        width = x.shape[-1]
        multiplies = config.growth_rate is GrowthRate.MULTIPLICATIVE
        width_below = width + (width if multiplies else config.n_initial_filters)
        here = functools.partial(parts.block, features=width)
        below = functools.partial(parts.block, features=width_below)
        series = functools.partial(
            parts.series,
            functools.partial(here, kernel_size=parts.kernel_size),
            config.blocks_per_layer,
        )

        # The skip connection takes the level's input, not what its blocks make of it.
        skip = x
        x = series(name="down_blocks")(x, train)
        if config.downsampling is Downsampling.CONVOLUTIONAL:
            x = below(kernel_size=2, stride=2, name="downsample")(x, train)
        else:
            x = MaxPoolingDownsample(below, name="downsample")(x, train)

        below_this = Level(config, parts, self.depth - 1, self.read, name="main_module")
        x, seen = below_this(x, train)

        if config.upsampling is Upsampling.CONVOLUTIONAL:
            x = parts.upsample(features=width, name="upsample")(x, train)
        else:
            x = InterpolationUpsample(here, name="upsample")(x, train)
        if config.connections is Connection.SUM:
            x = x + skip
        elif config.connections is Connection.CONCAT:
            x = ConcatConnection(here, name="connection")(x, skip, train)
        x = series(name="up_blocks")(x, train)
        return x, seen | ({self.depth: x} if self.depth in self.read else {})


def common_series(remat: Remat, **changes: Any) -> functools.partial:
    """Binds what all series of a network share, and `changes` of them."""
    return functools.partial(
        nn.remat(blocks.BlockSeries, static_argnums=(2,))  # 2: train
        if remat is Remat.STAGE
        else blocks.BlockSeries,
        is_recomputed=remat is Remat.BLOCK,
        **changes,
    )


class UResNet(PixelNetwork):
    """Computes CosmicTagger's 2D UResNet; see `PixelNetwork`.

    Source:
      CosmicTagger, src/networks/torch/uresnet2D.py; doi:10.3389/frai.2021.649917.
    """

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws kernels as CosmicTagger does."""
        return glorot_bounds(shapes)

    @nn.nowrap
    def common_block(self, image: jax.Array, **changes: Any) -> functools.partial:
        """Binds what all blocks share, and `changes` of `blocks.Block`."""
        config = self.network
        return functools.partial(
            blocks.Block,
            bias=config.bias,
            normalization=config.normalization,
            num_planes=self.detector.num_planes,
            dtype=self.dtype,
            axis_name=self.axis_name if config.sync_batch_norm else None,
            is_fused=IS_FUSED[config.kernels],
            has_columns=HAS_COLUMNS[config.kernels],
            own=self.own_pixels(image),
            **changes,
        )

    @nn.nowrap
    def parts(self, image: jax.Array) -> Parts:
        """Says what the levels are made of for images [B, P, H, W]."""
        config = self.network
        block = self.common_block(image)
        return Parts(
            block=block,
            series=common_series(self.remat, residual=config.residual),
            kernel_size=3,
            deepest_size=config.filter_size_deepest,
            upsample=functools.partial(
                block,
                kernel_size=2,
                stride=2,
                convolution=layers.TransposedConvolution,
            ),
            keeps_planes=config.block_concat,
        )

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array | Outputs:
        """Computes the class scores of every pixel, and what heads find.

        Args:
          image: [B, P, H, W], charge; H and W divisible by 2**depth.
          train: whether to normalize by the minibatch and update running statistics
            (collection "batch_stats").

        Returns:
          logits, [B, P, H, W, K] float32; of a network with heads `Outputs`.

        Raises:
          ValueError: planes or pixels do not fit the network.
        """
        config, parts = self.network, self.parts(image)
        active = active_heads(config)
        block = functools.partial(parts.block, features=config.n_initial_filters)
        x = self.fold(image)
        x = block(kernel_size=5, name="initial_convolution")(x, train)
        read = heads.read_levels(active, config.depth)
        x, seen = Level(config, parts, config.depth, read, name="net_core")(x, train)
        x = parts.series(
            functools.partial(block, kernel_size=parts.kernel_size),
            config.blocks_final,
            name="final_layer",
        )(x, train)
        bottleneck = layers.Convolution(
            self.detector.num_classes,
            kernel_size=1,
            use_bias=config.bias,
            dtype=self.dtype,
            name="bottleneck",
        )
        kernel, bias = bottleneck.parameters(x)
        call = ConvolutionCall(
            x=x,
            kernel=kernel,
            plain=bottleneck.convolve,
            is_alone=True,
            is_fused=False,
            has_columns=HAS_COLUMNS[config.kernels],
            dtype=self.dtype,
        )
        logits = call.result().astype(jnp.float32)
        if bias is not None:
            logits = logits + bias[None, None, None]
        logits = self.unfold(logits)
        if not active:
            return logits
        return Outputs(logits, *head_scores(config, parts, seen, train))


def head_scores(
    network: Any, parts: Parts, seen: dict[int, jax.Array], train: bool
) -> tuple[jax.Array | None, jax.Array | None]:
    """Computes what the heads say, as children of the network that calls this.

    Args:
      network: the network's options.
      parts: what it is made of.
      seen: outputs of the levels that heads look at, by their depth.
      train: as in `PixelNetwork`.

    Returns:
      What `Outputs` holds of the event and of the vertex.
    """
    active, event, vertex = active_heads(network), None, None
    block = functools.partial(parts.block, kernel_size=parts.kernel_size)
    if active.classification is not None:
        planes = block.keywords["num_planes"]
        event = heads.classify_event(
            active.classification,
            joined(block, PlaneAxis.NOWHERE),
            parts.series,
            layers.fold_planes_into_features(seen[0], planes),
            train,
        )
    if active.vertex is not None:
        level = network.depth - active.halvings
        vertex = heads.find_vertex(
            active.vertex, block, parts.series, seen[level], train
        )
    return event, vertex
