"""Chooses which implementation computes a block.

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
class Unfinished:
    """Holds images that the block that reads them is to normalize and activate.

    Attributes:
      values: [N, H, W, C], the output of a convolution.
      affine: gain and offset of each plane, [P, C] float32; LeakyReLU follows.
    """

    values: jax.Array
    affine: gpu.Affine

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the images, [N, H, W, C]."""
        return self.values.shape


@dataclasses.dataclass(frozen=True)
class ConvolutionCall:
    """Describes a convolution that is yet to be computed.

    Attributes:
      x: `Images` or `Unfinished`.
      kernel: [k, k, C, F] float32.
      plain: computes it, and what else is linear in the block, from `x` and `kernel`.
      is_alone: whether that is a convolution of stride 1 and nothing else. Others than
        XLA compute nothing else.
      is_fused: whether the kernels for GPUs may compute it.
      has_columns: whether columns become features; None where that is faster.
      num_planes: P, planes folded into the leading axis.
      dtype: the compute type.
    """

    x: Any
    kernel: jax.Array
    plain: Callable[[Any, jax.Array], jax.Array]
    is_alone: bool
    is_fused: bool
    has_columns: bool | None
    num_planes: int
    dtype: Any

    def num_columns(self) -> int:
        """Says how many columns become features; 1 leaves the images as they are."""
        if not self._is_simple():
            return 1
        return columns.count(self.x.shape, self.kernel.shape, self.has_columns)

    def with_columns(self, gain: jax.Array | None = None) -> jax.Array:
        """Convolves, scaled by a gain [F], and returns [N, H, W / s, s F]."""
        kernel = self.kernel if gain is None else self.kernel * gain[None, None, None]
        x = columns.fold(self.x.astype(self.dtype), self.num_columns())
        return columns.convolve(x, kernel, self.num_columns())

    def is_on_cpu(self) -> bool:
        """Says whether the C functions for CPUs compute it."""
        return self._is_simple() and convolution.takes_bias(
            self.x.astype(self.dtype), self.kernel
        )

    def is_on_gpu(self) -> bool:
        """Says whether the kernels for GPUs compute it."""
        return (
            self._is_simple()
            and self.is_fused
            and gpu.fits(self.x.shape, self.kernel.shape)
        )

    def _is_simple(self):
        return self.is_alone and not isinstance(self.x, tuple | Unfinished)


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
    is_on_cpu = call.is_on_cpu()
    if (is_activated or residual is not None) and (is_on_cpu or call.is_on_gpu()):
        kernel = call.kernel if gain is None else call.kernel * gain[None, None, None]
        if bias is None:
            bias = jnp.zeros_like(kernel, shape=kernel.shape[-1:])
        x, kernel = call.x.astype(call.dtype), kernel.astype(call.dtype)
        if residual is not None:
            residual = residual.astype(call.dtype)
        if is_on_cpu:
            return convolution.convolve_biased(x, kernel, bias, residual)
        return gpu.biased(x, kernel, bias, residual, True)
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
    affine_of_sums: Callable[[gpu.Statistics, int], gpu.Affine],
    residual: jax.Array | None,
    is_activated: bool,
    may_stay_unfinished: bool,
) -> jax.Array | Unfinished:
    """Convolves, normalizes by the result's own statistics, activates; adds a residual.

    Args:
      call: the convolution; of unfinished images where a kernel for GPUs takes it.
      normalize: normalizes a convolution's output, with columns as features too, and
        activates it.
      affine_of_sums: returns the gain and offset [P, F] that normalizing amounts to,
        from the sums of the output and of its squares and the number of pixels summed.
      residual: as in `by_known_affine`.
      is_activated: whether `normalize` activates.
      may_stay_unfinished: whether the activated result goes to another block of this
        kind and nowhere else.

    Returns:
      [N, H', W', F], or the same unfinished.
    """
    if call.num_columns() > 1:
        y = normalize(call.with_columns())
        return _finish_columns(call, y, residual, False)
    if isinstance(call.x, Unfinished):
        x, affine = call.x.values, call.x.affine
    elif may_stay_unfinished and call.is_on_gpu():
        x, affine = call.x.astype(call.dtype), None
    else:
        return add_residual(normalize(call.plain(call.x, call.kernel)), residual)
    results: Any = gpu.normalized(
        x, affine, call.kernel.astype(call.dtype), call.num_planes
    )
    y, sums = results
    unfinished = Unfinished(y, affine_of_sums(sums, y.size // sums[0].size))
    if may_stay_unfinished:
        return unfinished
    y = _apply_affine(unfinished)
    return add_residual(activation.leaky_relu(y) if is_activated else y, residual)


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


def _apply_affine(unfinished):
    """Scales and shifts each plane, in float32."""
    values = unfinished.values
    gain, offset = (part[None, :, None, None] for part in unfinished.affine)
    planes = values.reshape(-1, gain.shape[1], *values.shape[1:]).astype(jnp.float32)
    return (planes * gain + offset).astype(values.dtype).reshape(values.shape)
