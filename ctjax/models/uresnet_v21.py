"""Defines the UResNet of CosmicTagger v2.1: the 2D one with other blocks and norms."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax

from ctjax.config.choices import BlockStyle, Normalization
from ctjax.models import blocks, layers
from ctjax.models.kernels import activation
from ctjax.models.kernels.convolution import DIMENSION_NUMBERS
from ctjax.models.normalization import BATCH_NORM_EPSILON, BatchNorm
from ctjax.models.pixel_network import glorot_bounds, torch_bounds
from ctjax.models.torch_weights import is_transposed
from ctjax.models.uresnet import Parts, UResNet, common_series

EPSILON = BATCH_NORM_EPSILON  # torch's, of all its normalizations
NUM_GROUPS = 4
EXPANSION = 4  # how much wider a ConvNeXt block is within

NORMS: dict[Normalization, Callable[..., nn.Module]] = {
    # Over the whole image and all features. The original makes its scale and shift with
    # the first minibatch, behind the optimizer's back: they stay 1 and 0.
    Normalization.LAYER: functools.partial(
        nn.LayerNorm,
        EPSILON,
        reduction_axes=(-3, -2, -1),
        use_scale=False,
        use_bias=False,
        use_fast_variance=False,
    ),
    Normalization.INSTANCE: functools.partial(
        nn.InstanceNorm,
        epsilon=EPSILON,
        use_scale=False,
        use_bias=False,
        use_fast_variance=False,
    ),
    Normalization.GROUP: functools.partial(
        nn.GroupNorm, NUM_GROUPS, epsilon=EPSILON, use_fast_variance=False
    ),
}
"""The layers of v2.1 that normalize without running statistics."""


class DepthwiseConvolution(layers.Convolution):
    """Convolves every feature on its own."""

    is_over_all_features: ClassVar[bool] = False

    @nn.compact
    def parameters(self, x: Any) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [k, k, 1, C] for `x` and the bias, float32."""
        zeros = nn.initializers.zeros_init()  # drawn by `state.init_variables`
        size = self.kernel_size
        kernel = self.param("kernel", zeros, (size, size, 1, self.features))
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", zeros, (self.features,))

    def convolve(self, x: Any, kernel: jax.Array) -> jax.Array:
        """Convolves [N, H, W, C]."""
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=DIMENSION_NUMBERS,
            feature_group_count=self.features,
        )


class ConvNextBlock(nn.Module):
    """Adds its input to three blocks, of which the second is wider and activates.

    Attributes:
      block: as of `blocks.ResidualBlock`.
      convolution: of the first block.
    """

    block: Callable[..., blocks.Block]
    convolution: type[layers.Convolution] = layers.Convolution

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        features = x.shape[-1]
        linear = functools.partial(self.block, is_activated=False)
        y = linear(convolution=self.convolution, name="convolution_1")(x, train)
        wide = EXPANSION * features
        y = self.block(features=wide, kernel_size=1, name="convolution_2")(y, train)
        y = linear(features=features, kernel_size=1, name="convolution_3")(y, train)
        return x + y

    @nn.nowrap
    def blocks(self) -> list[blocks.Block]:
        """Returns no blocks that a kernel could compute in a series."""
        return []


class Upsample(nn.Module):
    """Normalizes, doubles rows and columns by a convolution, and activates.

    Attributes:
      features: output features.
      block: `blocks.Block` with all that is common to the network bound.
    """

    features: int
    block: functools.partial

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, 2H, 2W, features]."""
        common: dict[str, Any] = self.block.keywords
        normalization, dtype = common["normalization"], common["dtype"]
        if normalization is Normalization.BATCH:
            norm = BatchNorm(
                x.shape[-1],
                common["num_planes"],
                common["axis_name"],
                own=common["own"],
                name="norm",
            )
            if train:
                x = norm(x, None)
            else:
                gain, shift = (a.astype(x.dtype) for a in norm.affine(None))
                x = x * gain[None, None, None] + shift[None, None, None]
        elif normalization is not Normalization.NONE:
            own = common["own"]
            norm = NORMS[normalization](dtype=dtype, name="norm")
            x = norm(x) if own is None else norm(x, mask=own.mask_of(x))
        y, bias = layers.TransposedConvolution(
            self.features, 2, 2, common["bias"], dtype, name="conv"
        )(x)
        if bias is not None:
            y = y + bias.astype(y.dtype)[None, None, None]
        return activation.leaky_relu(y)


class UResNetV21(UResNet):
    """Computes the 2D UResNet of CosmicTagger v2.1; see `PixelNetwork`.

    Source:
      CosmicTagger v2.1, src/networks/torch/uresnet2D.py.
    """

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws as the original does: transposed convolutions as torch by itself."""
        theirs = torch_bounds(shapes)
        return glorot_bounds(shapes) | {
            path: bound
            for path, bound in theirs.items()
            if is_transposed((*path[:-1], "kernel"))
        }

    @nn.nowrap
    def parts(self, image: jax.Array) -> Parts:
        """Says what the levels are made of for images [B, P, H, W]."""
        config = self.network
        block = self.common_block(
            image,
            make_norm=NORMS.get(config.normalization),
        )
        residual_block: Any = blocks.ResidualBlock
        if config.block_style is BlockStyle.CONVNEXT:
            first = DepthwiseConvolution if config.depthwise else layers.Convolution
            residual_block = functools.partial(ConvNextBlock, convolution=first)
        series = common_series(
            self.remat,
            residual=config.block_style is not BlockStyle.NONE,
            residual_block=residual_block,
        )
        return Parts(
            block=block,
            series=series,
            kernel_size=config.kernel_size,
            deepest_size=config.kernel_size,
            upsample=functools.partial(Upsample, block=block),
        )
