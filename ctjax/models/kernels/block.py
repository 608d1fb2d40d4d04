"""Chooses which implementation computes a block, or a series of them.

Convolution, normalization, activation and sum are one pass over the images each when
XLA computes them (`plain`). The C functions for CPUs (`cpu`) and the kernels for GPUs
(`gpu`) do several of them in one pass, for the convolutions that they take. Where
columns become features (`columns`), the whole block is computed in that form.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctjax.models.kernels import activation, columns, convolution, gpu

Images = jax.Array | tuple[jax.Array, ...]
"""[N, H, W, C], or several whose features belong one after the other."""


@dataclasses.dataclass(frozen=True)
class ConvolutionCall:
    """Describes a convolution that is yet to be computed.

    Attributes:
      x: `Images`.
      kernel: [k, k, C, F] float32.
      plain: computes it, and what else is linear in the block, from `x` and `kernel`.
      is_alone: whether that is a convolution of stride 1 and nothing else. Others than
        XLA compute nothing else.
      is_fused: whether the kernels for GPUs compute it; None where that is faster.
      has_columns: whether columns become features; None where that is faster.
      dtype: the compute type.
    """

    x: Any
    kernel: jax.Array
    plain: Callable[[Any, jax.Array], jax.Array]
    is_alone: bool
    is_fused: bool | None
    has_columns: bool | None
    dtype: Any

    def num_columns(self) -> int:
        """Says how many columns become features; 1 leaves the images as they are."""
        if not self._is_simple():
            return 1
        if self._is_on_gpu():
            return columns.most(self.x.shape)
        return columns.count(self.x.shape, self.kernel.shape, self.has_columns)

    def with_columns(self, gain: jax.Array | None = None) -> jax.Array:
        """Convolves, scaled by a gain [F], and returns [N, H, W / s, s F]."""
        kernel = self.kernel if gain is None else self.kernel * gain[None, None, None]
        x = self.x.astype(self.dtype)
        if self._is_on_gpu():
            return columns.fold(gpu.convolve(x, kernel), self.num_columns())
        x = columns.fold(x, self.num_columns())
        return columns.convolve(x, kernel, self.num_columns())

    def result(self) -> jax.Array:
        """Convolves and returns [N, H', W', F]."""
        if self.num_columns() == 1:
            return self.plain(self.x, self.kernel)
        return columns.unfold(self.with_columns(), self.num_columns())

    def is_on_cpu(self) -> bool:
        """Says whether the C functions for CPUs compute it."""
        return self._is_simple() and convolution.takes_bias(
            self.x.astype(self.dtype), self.kernel
        )

    def _is_on_gpu(self):
        return gpu.takes(self.x.shape, self.kernel.shape, self.dtype, self.is_fused)

    def _is_simple(self):
        return self.is_alone and not isinstance(self.x, tuple)


def by_known_affine(
    call: ConvolutionCall,
    gain: jax.Array | None,
    bias: jax.Array | None,
    residual: jax.Array | None,
    is_activated: bool,
) -> jax.Array:
    """Convolves, scales, adds a bias, activates; adds a residual and activates the sum.

    Args:
      call: the convolution.
      gain: [F] float32, or None for 1.
      bias: [F] float32, or None for 0.
      residual: [N, H', W', F], or None for none.
      is_activated: whether an activation follows the bias; none does with a residual.

    Returns:
      [N, H', W', F].
    """
    if call.num_columns() > 1:
        y = call.with_columns(gain)
        if bias is not None:
            y = columns.add_bias(y, bias)
        return _finish_columns(call, y, residual, is_activated)
    if (is_activated or residual is not None) and call.is_on_cpu():
        kernel = call.kernel if gain is None else call.kernel * gain[None, None, None]
        if bias is None:
            bias = jnp.zeros_like(kernel, shape=kernel.shape[-1:])
        x, kernel = call.x.astype(call.dtype), kernel.astype(call.dtype)
        if residual is not None:
            residual = residual.astype(call.dtype)
        return convolution.convolve_biased(x, kernel, bias, residual)
    y = call.plain(call.x, call.kernel)
    if gain is not None:
        y = y * gain.astype(y.dtype)[None, None, None]
    if bias is not None:
        y = y + bias.astype(y.dtype)[None, None, None]
    if is_activated:
        y = activation.leaky_relu(y)
    return add_residual(y, residual)


def by_statistics(
    call: ConvolutionCall,
    normalize: Callable[[jax.Array], jax.Array],
    residual: jax.Array | None,
) -> jax.Array:
    """Convolves, normalizes by the result's own statistics; adds a residual.

    Args:
      call: the convolution.
      normalize: normalizes a convolution's output, with columns as features too, and
        activates it where the block does.
      residual: as in `by_known_affine`.

    Returns:
      [N, H', W', F].
    """
    if call.num_columns() > 1:
        y = normalize(call.with_columns())
        return _finish_columns(call, y, residual, False)
    return add_residual(normalize(call.plain(call.x, call.kernel)), residual)


def add_residual(y: jax.Array, residual: jax.Array | None) -> jax.Array:
    """Activates the sum with a residual; returns `y` where there is none."""
    return y if residual is None else activation.leaky_relu(y + residual)


def _finish_columns(call, y, residual, is_activated):
    """Activates, or adds a residual, and takes features as columns again."""
    count = call.num_columns()
    if is_activated:
        y = activation.leaky_relu(y)
    if residual is not None:
        y = add_residual(y, columns.fold(residual.astype(y.dtype), count))
    return columns.unfold(y, count)
