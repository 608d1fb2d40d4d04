"""Defines the blocks of UResNet, composed of layers and normalizations.

All take and return [N, H, W, C] with N = events x planes. The planes of an event lie
next to each other along N and share every weight, so one convolution serves all of
them; only the normalization looks at planes apart. Submodules and parameters follow
the names of CosmicTagger's torch network, which lets `ctjax.models.torch_weights`
convert by renaming alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config.fields import Normalization
from ctjax.models.kernels import activation, block, gpu
from ctjax.models.layers import Convolution
from ctjax.models.normalization import (
    BATCH_NORM_EPSILON,
    LAYER_NORM_EPSILON,
    BatchNorm,
)
from ctjax.models.own_pixels import OwnPixels


class Block(nn.Module):
    """Convolves, normalizes and activates; who computes it is up to `kernels.block`.

    Attributes:
      features: output features.
      kernel_size: as in `Convolution`.
      stride: as in `Convolution`.
      bias: whether the convolution has a bias.
      normalization: which normalization follows the convolution.
      num_planes: planes folded into the leading axis.
      is_activated: whether an activation comes last.
      convolution: `Convolution` or `TransposedConvolution`.
      upsample: applied between convolution and normalization. A 1 x 1 convolution
        commutes with interpolation (the weights of which sum to 1) and is four times
        cheaper before it; the normalization does not commute.
      dtype: compute type.
      axis_name: as in `BatchNorm`.
      is_fused: whether GPUs use kernels of our own where there are any, see
        `kernels.gpu`; None where they are faster.
      has_columns: whether columns of the image become features where there are few,
        see `kernels.columns`; None where that is faster.
      make_norm: makes the layer that normalizes without running statistics; None for
        the one that `normalization` names here. It takes statistics over pixels.
      own: the pixels that statistics count; None for all.
    """

    features: int
    kernel_size: int
    bias: bool
    normalization: Normalization
    num_planes: int
    stride: int = 1
    is_activated: bool = True
    convolution: type[Convolution] = Convolution
    upsample: Callable[[jax.Array], jax.Array] | None = None
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None
    is_fused: bool | None = False
    has_columns: bool | None = None
    make_norm: Callable[..., nn.Module] | None = None
    own: OwnPixels | None = None

    def setup(self) -> None:
        """Makes the convolution and the normalization."""
        self.conv = self.convolution(
            self.features, self.kernel_size, self.stride, self.bias, self.dtype
        )
        self.norm: Any = None
        if self.normalization is Normalization.BATCH:
            self.norm = BatchNorm(
                self.features, self.num_planes, self.axis_name, own=self.own
            )
        elif self.make_norm is not None:
            self.norm = self.make_norm(dtype=self.dtype)
        elif self.normalization is Normalization.LAYER:
            self.norm = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype)
        elif self.normalization is Normalization.INSTANCE:
            # Not of the original: every image by its own statistics, in training and
            # evaluation alike. Planes differ in noise, and shared running statistics
            # fit none of them.
            self.norm = nn.InstanceNorm(epsilon=BATCH_NORM_EPSILON, dtype=self.dtype)

    def __call__(
        self,
        x: block.Images,
        train: bool,
        residual: jax.Array | None = None,
        is_input_kept: bool = False,
    ) -> Any:
        """Maps [N, H, W, C] to [N, H', W', features].

        Args:
          x: the images; several, for a stride of 1, are not concatenated.
          train: whether batch normalization takes their own statistics.
          residual: like the result, added before an activation; such a block has no
            other.
          is_input_kept: whether to return `x` too, as it goes on to another reader.
        """
        if is_input_kept and self.normalization is not Normalization.NONE:
            return self(x, train, residual), x
        kernel, bias = self.conv.parameters(x)
        call = block.ConvolutionCall(
            x=x,
            kernel=kernel,
            plain=self._convolve,
            is_alone=self.stride == 1
            and self.upsample is None
            and self.convolution.is_over_all_features,
            is_fused=self.is_fused,
            has_columns=self.has_columns,
            dtype=self.dtype,
        )
        if self.normalization is Normalization.BATCH and train:
            slope = activation.SLOPE if self.is_activated else 1.0
            return block.by_statistics(
                call,
                functools.partial(self.norm, bias=bias, slope=slope),
                residual,
            )
        if self.normalization not in (Normalization.BATCH, Normalization.NONE):
            y = self._normalize(block.by_known_affine(call, None, bias, None, False))
            y = activation.leaky_relu(y) if self.is_activated else y
            return block.add_residual(y, residual)
        gain = None
        if self.normalization is Normalization.BATCH:
            gain, bias = self.norm.affine(bias)
        if is_input_kept:
            return block.by_known_affine_and_keep(call, bias, self.is_activated)
        return block.by_known_affine(call, gain, bias, residual, self.is_activated)

    def _normalize(self, y):
        """Normalizes without running statistics."""
        # A layer normalization of blocks takes the statistics of each pixel.
        is_of_pixel = self.normalization is Normalization.LAYER and not self.make_norm
        if self.own is None or is_of_pixel:
            return self.norm(y)
        return self.norm(y, mask=self.own.mask_of(y))

    def _convolve(self, x, kernel):
        """Applies what is linear in the block: convolution and upsampling."""
        y = self.conv.convolve(x, kernel)
        return y if self.upsample is None else self.upsample(y)

    def is_in_series(self, x: jax.Array, train: bool) -> bool:
        """Says whether `kernels.gpu.series` computes it, with its neighbours.

        Args:
          x: [N, H, W, C].
          train: as above.
        """
        shape = self.kernel_size, self.kernel_size, x.shape[-1], self.features
        is_affine_known = self.normalization is Normalization.NONE or (
            self.normalization is Normalization.BATCH and not train
        )
        return (
            is_affine_known
            and self.stride == 1
            and self.upsample is None
            and self.convolution.is_over_all_features
            and gpu.takes(x.shape, shape, self.dtype, self.is_fused)
        )

    def parameters_in_series(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns kernel and bias, float32, with the known affine map in them."""
        kernel, bias = self.conv.parameters(x)
        if self.normalization is Normalization.BATCH:
            gain, bias = self.norm.affine(bias)
            kernel = kernel * gain[None, None, None]
        if bias is None:
            bias = jnp.zeros_like(kernel, shape=kernel.shape[-1:])
        return kernel, bias


class ResidualBlock(nn.Module):
    """Adds its input to the result of two blocks and activates the sum.

    Attributes:
      block: makes a `Block` of the right width and kernel from its keyword arguments.
    """

    block: Callable[..., Block]

    def setup(self) -> None:
        """Makes the two blocks."""
        self.convolution_1 = self.block()
        self.convolution_2 = self.block(is_activated=False)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        y, x = self.convolution_1(x, train, is_input_kept=True)
        return self.convolution_2(y, train, residual=x)

    def blocks(self) -> list[Block]:
        """Returns the two blocks."""
        return [self.convolution_1, self.convolution_2]


class BlockSeries(nn.Module):
    """Applies blocks or residual blocks of constant width, one after the other.

    Attributes:
      block: as in `ResidualBlock`.
      n_blocks: how many blocks.
      residual: whether they are residual blocks.
      is_recomputed: whether the backward pass recomputes each block; only the blocks'
        inputs are stored.
      block_name: of each block, before its number.
      residual_block: what residual blocks are.
    """

    block: Callable[..., Block]
    n_blocks: int
    residual: bool
    is_recomputed: bool = False
    block_name: str = "blocks"
    residual_block: Callable[..., nn.Module] = ResidualBlock

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        names = tuple(f"{self.block_name}_{index}" for index in range(self.n_blocks))
        if not self.is_recomputed:
            return _apply(self, x, train, names)
        recomputed: Any = nn.remat(_apply, static_argnums=(2, 3))
        for name in names:
            x = recomputed(self, x, train, (name,))
        return x


def _apply(series, x, train, names) -> jax.Array:
    """Applies blocks of a series, in one where the kernels for GPUs can."""
    if series.residual:
        units = [series.residual_block(series.block, name=name) for name in names]
        parts = [part for unit in units for part in unit.blocks()]
    else:
        units = parts = [series.block(name=name) for name in names]
    if parts and parts[0].is_in_series(x, train):
        x = x.astype(parts[0].dtype)
        kernels, biases = zip(
            *(part.parameters_in_series(x) for part in parts), strict=True
        )
        result: Any = gpu.series(x, kernels, biases, series.residual)
        return result
    for unit in units:
        x = unit(x, train)
    return x
