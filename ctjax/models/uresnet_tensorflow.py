"""Defines the UResNet of CosmicTagger's TensorFlow code, which is not its torch one.

Another slope of LeakyReLU, Keras's normalizations, and skip connections that begin
behind the blocks of the way down and end behind those of the way up.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config.choices import (
    Connection,
    Downsampling,
    GrowthRate,
    Normalization,
    Upsampling,
)
from ctjax.config.heads import active_heads
from ctjax.learning.heads import Outputs
from ctjax.models import heads, layers
from ctjax.models.kernels.activation import leaky_relu
from ctjax.models.normalization import LAYER_NORM_EPSILON, BatchNorm
from ctjax.models.own_pixels import OwnPixels
from ctjax.models.pixel_network import PixelNetwork, glorot_bounds
from ctjax.models.uresnet import (
    ConcatConnection,
    DeepestBlock,
    InterpolationUpsample,
    MaxPoolingDownsample,
    Parts,
    common_series,
    head_scores,
)

SLOPE = 0.2  # of LeakyReLU: tf.nn.leaky_relu's default
BATCH_NORM_EPSILON = 1e-3  # tf.keras.layers.BatchNormalization's default
BATCH_NORM_MOMENTUM = 0.01  # likewise; the weight of the new minibatch


class Block(nn.Module):
    """Convolves, normalizes and activates; attributes as of `blocks.Block`."""

    features: int
    kernel_size: int
    bias: bool
    normalization: Normalization
    num_planes: int
    stride: int = 1
    is_activated: bool = True
    convolution: type[layers.Convolution] = layers.Convolution
    upsample: Any = None
    dtype: Any = jnp.float32
    axis_name: str | None = None
    own: OwnPixels | None = None

    @nn.compact
    def __call__(
        self,
        x: Any,
        train: bool,
        residual: jax.Array | None = None,
        is_input_kept: bool = False,
    ) -> Any:
        """Maps [N, H, W, C] to [N, H', W', features]; as `blocks.Block`."""
        if is_input_kept:
            return self(x, train, residual), x
        y, bias = self.convolution(
            self.features,
            self.kernel_size,
            self.stride,
            self.bias,
            self.dtype,
            name="conv",
        )(x)
        if self.upsample is not None:
            y = self.upsample(y)
        slope = SLOPE if self.is_activated else 1.0
        if self.normalization is Normalization.BATCH:
            norm = BatchNorm(
                self.features,
                self.num_planes,
                self.axis_name,
                BATCH_NORM_EPSILON,
                BATCH_NORM_MOMENTUM,
                self.own,
                name="norm",
            )
            if train:
                y = norm(y, bias, slope)
            else:
                gain, shift = (part.astype(y.dtype) for part in norm.affine(bias))
                y = leaky_relu(
                    y * gain[None, None, None] + shift[None, None, None], slope
                )
        else:
            if bias is not None:
                y = y + bias.astype(y.dtype)[None, None, None]
            if self.normalization is Normalization.LAYER:
                y = nn.LayerNorm(
                    LAYER_NORM_EPSILON,
                    dtype=self.dtype,
                    use_fast_variance=False,
                    name="norm",
                )(y)
            y = leaky_relu(y, slope)
        return y if residual is None else leaky_relu(y + residual, SLOPE)

    @nn.nowrap
    def is_in_series(self, x: jax.Array, train: bool) -> bool:
        """Says that no kernel has another slope than torch's."""
        return False


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
        x = skip = series(name="down_blocks")(x, train)
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
        x = series(name="up_blocks")(x, train)
        # Without any, the original returns the skip connection, and loses all below it.
        if config.connections is Connection.SUM:
            x = x + skip
        elif config.connections is Connection.CONCAT:
            x = ConcatConnection(here, name="connection")(skip, x, train)
        return x, seen | ({self.depth: x} if self.depth in self.read else {})


class UResNetTensorFlow(PixelNetwork):
    """Computes the UResNet of CosmicTagger's TensorFlow code; see `PixelNetwork`.

    Source:
      CosmicTagger, src/networks/tensorflow/uresnet2D.py.
    """

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws kernels as Keras does by itself."""
        return glorot_bounds(shapes)

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
        config = self.network
        block = functools.partial(
            Block,
            bias=config.bias,
            normalization=config.normalization,
            num_planes=self.detector.num_planes,
            dtype=self.dtype,
            axis_name=self.axis_name if config.sync_batch_norm else None,
            own=self.own_pixels(image),
        )
        parts = Parts(
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
        wide = functools.partial(block, features=config.n_initial_filters)
        x = self.fold(image)
        x = wide(kernel_size=5, name="initial_convolution")(x, train)
        active = active_heads(config)
        read = heads.read_levels(active, config.depth)
        x, seen = Level(config, parts, config.depth, read, name="net_core")(x, train)
        x = parts.series(
            functools.partial(wide, kernel_size=3),
            config.blocks_final,
            name="final_layer",
        )(x, train)
        logits, bias = layers.Convolution(
            self.detector.num_classes,
            kernel_size=1,
            use_bias=config.bias,
            dtype=self.dtype,
            name="bottleneck",
        )(x)
        logits = self.unfold(logits)
        if bias is not None:
            logits = logits + bias[None, None, None, None]
        if not active:
            return logits
        return Outputs(logits, *head_scores(config, parts, seen, train))
