"""The blocks of UResNet, composed of layers and normalizations.

All take and return [N, H, W, C] with N = events x planes. The planes of an event lie
next to each other along N and share every weight, so one convolution serves all of
them; only the normalization looks at planes apart. Submodules and parameters follow
the names of CosmicTagger's torch network, which lets `ctjax.models.torch_weights`
convert by renaming alone.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config.fields import Normalization
from ctjax.models.kernels import convolution as kernels_convolution
from ctjax.models.kernels import gpu
from ctjax.models.layers import LEAKY_RELU_SLOPE, Convolution, Images, leaky_relu
from ctjax.models.normalization import (
    BATCH_NORM_EPSILON,
    LAYER_NORM_EPSILON,
    BatchNorm,
    _of_planes,
)


class Block(nn.Module):
    """Convolution, normalization, activation.

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
      is_fused: whether kernels that take normalization and activation in are used
        where there are any, see `fused`.
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
    is_fused: bool = False

    def setup(self) -> None:
        """Makes the convolution and the normalization."""
        self.conv = self.convolution(
            self.features, self.kernel_size, self.stride, self.bias, self.dtype
        )
        self.norm: Any = None
        if self.normalization is Normalization.BATCH:
            self.norm = BatchNorm(self.features, self.num_planes, self.axis_name)
        elif self.normalization is Normalization.LAYER:
            self.norm = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype)
        elif self.normalization is Normalization.INSTANCE:
            # Not of the original: every image by its own statistics, in training and
            # evaluation alike. Planes differ in noise, and shared running statistics
            # fit none of them.
            self.norm = nn.InstanceNorm(epsilon=BATCH_NORM_EPSILON, dtype=self.dtype)

    def __call__(
        self, x: Images, train: bool, residual: jax.Array | None = None
    ) -> jax.Array:
        """Maps [N, H, W, C] to [N, H', W', features].

        Args:
          x: the images; several, for a stride of 1, are not put together.
          train: whether batch normalization takes their own statistics.
          residual: like the result, to be added before an activation; such a block has
            no other.
        """
        by_statistics = train and self.normalization is Normalization.BATCH
        if not isinstance(x, tuple) and not by_statistics:
            y: Any = self._in_one(x, residual)
            if y is not None:
                return y
        y, bias = self.conv(x)
        if self.upsample is not None:
            y = self.upsample(y)
        if by_statistics:
            y = self.norm(y, bias, LEAKY_RELU_SLOPE if self.is_activated else 1.0)
        else:
            if self.normalization is Normalization.BATCH:
                gain, bias = self.norm.affine(bias)
                y = y * gain.astype(self.dtype)[None, None, None]
            if bias is not None:
                y = y + bias.astype(self.dtype)[None, None, None]
            if self.normalization in (Normalization.LAYER, Normalization.INSTANCE):
                y = self.norm(y)
            if self.is_activated:
                y = leaky_relu(y)
        return y if residual is None else leaky_relu(y + residual)

    def has_kernel(self, x: jax.Array) -> bool:
        """Whether a fused kernel takes these images."""
        return (
            self.is_fused
            and self._is_one_convolution()
            and gpu.fits(
                x.shape,
                (self.kernel_size, self.kernel_size, x.shape[-1], self.features),
            )
        )

    def _is_one_convolution(self):
        """Whether all but an activation is affine in a convolution's output."""
        return (
            self.normalization in (Normalization.NONE, Normalization.BATCH)
            and self.upsample is None
            and self.stride == 1
        )

    def _in_one(self, x, residual):
        """The block without statistics of its own in one function, if there is one."""
        ends_activated = self.is_activated or residual is not None
        if not ends_activated or not self._is_one_convolution():
            return None
        kernel, bias = self.conv.parameters(x.shape[-1])
        x = x.astype(self.dtype)
        on_cpu = kernels_convolution.takes_bias(x, kernel)
        if not on_cpu and not self.has_kernel(x):
            return None
        if self.normalization is Normalization.BATCH:
            gain, bias = self.norm.affine(bias)
            kernel = kernel * gain[None, None, None]
        if bias is None:
            bias = jnp.zeros_like(kernel, shape=(self.features,))
        kernel = kernel.astype(self.dtype)
        if residual is not None:
            residual = residual.astype(self.dtype)
        if on_cpu:
            return kernels_convolution.convolve_biased(x, kernel, bias, residual)
        return gpu.biased(x, kernel, bias, residual, True)

    def pending(
        self, x: jax.Array, affine: gpu.Affine | None
    ) -> tuple[jax.Array, gpu.Affine]:
        """Training with batch normalization, which is left to whoever comes next.

        Args:
          x: [N, H, W, C]; see `has_kernel`.
          affine: what is left to do with `x`, see `fused.normalized`.

        Returns:
          The convolution [N, H, W, features], and what is left to do with it.
        """
        kernel, bias = self.conv.parameters(x.shape[-1])
        results: Any = gpu.normalized(
            x.astype(self.dtype), affine, kernel.astype(self.dtype), self.num_planes
        )
        y, sums = results
        count = y.size // (self.num_planes * self.features)
        return y, self.norm.affine_of_sums(sums, count, bias)


class ResidualBlock(nn.Module):
    """Two blocks whose sum with their input is activated.

    Attributes:
      block: makes a `Block` of the right width and kernel from its keyword arguments.
    """

    block: Callable[..., Block]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        first = self.block(name="convolution_1")
        second = self.block(name="convolution_2", is_activated=False)
        by_statistics = train and first.normalization is Normalization.BATCH
        if not by_statistics or not first.has_kernel(x):
            return second(first(x, train), train, x)
        y, (gain, offset) = second.pending(*first.pending(x, None))
        planes = y.reshape(-1, first.num_planes, *y.shape[1:]).astype(jnp.float32)
        planes = planes * _of_planes(gain) + _of_planes(offset)
        return leaky_relu(planes.astype(y.dtype).reshape(y.shape) + x)


class BlockSeries(nn.Module):
    """`n_blocks` blocks or residual blocks, one after the other, of constant width.

    Attributes:
      block: as in `ResidualBlock`.
      n_blocks: how many.
      residual: whether they are residual blocks.
      is_recomputed: whether the gradient keeps their inputs alone and computes the rest
        of each anew.
    """

    block: Callable[..., Block]
    n_blocks: int
    residual: bool
    is_recomputed: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""

        def unit(series, x, name):
            if series.residual:
                return ResidualBlock(series.block, name=name)(x, train)
            return series.block(name=name)(x, train)

        if self.is_recomputed:
            unit = nn.remat(unit, static_argnums=(2,))
        for index in range(self.n_blocks):
            x = unit(self, x, f"blocks_{index}")
        return x
