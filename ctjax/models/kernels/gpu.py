"""Computes convolutions with normalization and activation on NVIDIA GPUs.

Where an image has few features its bytes are what a step costs, and a convolution of
the library, which knows nothing of its neighbours, has them read and written three
times more than needed. These kernels apply the affine part of a normalization and the
activation to what they read, and sum what the next normalization needs of what they
write. They must agree with the plain computation of `ctjax.models.kernels.block`.

Written in Pallas for Triton, whose removal jax 0.11 and later announce; gradients are
XLA's own.
"""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from ctjax.models.kernels import convolution
from ctjax.models.kernels.activation import SLOPE

SIZES = (16, 32)
"""Features that are taken: a power of 2, as Triton's blocks are, and of few bytes."""

KERNEL = 3
COLUMNS = 64  # of a row at a time: 9 products of 64 x C by C x F
ROWS = 4  # one after the other, whose sums a program keeps

Statistics = tuple[jax.Array, jax.Array]
Affine = tuple[jax.Array, jax.Array]


def is_available() -> bool:
    """Says whether this version of jax still has Pallas for Triton."""
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def fits(shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Says whether these compute x [N, H, W, C] with a kernel [k, k, C, F]."""
    _, height, width, features = shape
    return (
        kernel_shape[:2] == (KERNEL, KERNEL)
        and features in SIZES
        and kernel_shape[3] in SIZES
        and width % COLUMNS == 0
        and height % ROWS == 0
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def biased(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    is_activated: bool,
) -> jax.Array:
    """Convolves, adds a bias and perhaps another image, and activates.

    Args:
      x: [N, H, W, C]; see `fits`.
      kernel: [3, 3, C, F], of the type of `x`.
      bias: [F] float32.
      residual: [N, H, W, F] to be added, or None.
      is_activated: whether LeakyReLU comes last.

    Returns:
      [N, H, W, F], of the type of `x`.
    """
    y, _ = _call(x, kernel, bias, None, residual, is_activated, None)
    return y


def _biased_forward(x, kernel, bias, residual, is_activated):
    y = biased(x, kernel, bias, residual, is_activated)
    return y, (x, kernel, y, residual is not None)


def _biased_backward(is_activated, residuals, gradient):
    x, kernel, y, has_residual = residuals
    if is_activated:
        # The activation keeps the sign, so its result says on which side it was.
        gradient = jnp.where(y > 0, gradient, SLOPE * gradient).astype(gradient.dtype)
    _, pull = jax.vjp(convolution.plain, x, kernel)
    bias_gradient = gradient.astype(jnp.float32).sum((0, 1, 2))
    return *pull(gradient), bias_gradient, gradient if has_residual else None


biased.defvjp(_biased_forward, _biased_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(
    x: jax.Array,
    affine: Affine | None,
    kernel: jax.Array,
    num_planes: int,
) -> tuple[jax.Array, Statistics]:
    """Normalizes, activates and convolves, and sums over the result.

    Args:
      x: [N, H, W, C] with planes next to each other along N; see `fits`.
      affine: gain and offset [P, C] float32 of each plane, which LeakyReLU follows;
        None to take `x` as it is.
      kernel: [3, 3, C, F], of the type of `x`.
      num_planes: P.

    Returns:
      [N, H, W, F] of the type of `x`, and the sums of its values and of their squares
      over each plane's pixels, [P, F] float32, taken before they are rounded.
    """
    zeros = jnp.zeros(kernel.shape[-1])
    y, sums = _call(x, kernel, zeros, affine, None, False, num_planes)
    assert sums is not None
    return y, (sums[:, 0], sums[:, 1])


def _normalized_forward(x, affine, kernel, num_planes):
    results: Any = normalized(x, affine, kernel, num_planes)
    return results, (x, affine, kernel, results[0])


def _normalized_backward(num_planes, residuals, gradients):
    x, affine, kernel, y = residuals
    gradient, (of_sum, of_squares) = gradients

    def by_image(values):
        return jnp.tile(values, (x.shape[0] // num_planes, 1))[:, None, None]

    gradient = gradient + by_image(of_sum) + 2 * y * by_image(of_squares)
    gradient = gradient.astype(x.dtype)

    def normalize_and_convolve(x, affine, kernel):
        return convolution.plain(_prologue(x, affine), kernel)

    _, pull = jax.vjp(normalize_and_convolve, x, affine, kernel)
    return pull(gradient)


normalized.defvjp(_normalized_forward, _normalized_backward)


def _call(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    affine: Affine | None,
    residual: jax.Array | None,
    is_activated: bool,
    num_planes: int | None,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs the kernel, on a CPU `plain`; returns sums [P, 2, F] of so many planes."""
    inputs = (x, kernel, bias, affine, residual)
    options = {"is_activated": is_activated, "num_planes": num_planes}
    return jax.lax.platform_dependent(
        *inputs,
        cpu=functools.partial(plain, **options),
        default=functools.partial(launch, **options),
    )


def plain(x, kernel, bias, affine, residual, *, is_activated, num_planes):
    """Computes what `launch` does, by XLA."""
    y = convolution.plain(_prologue(x, affine), kernel).astype(jnp.float32)
    y = y + bias[None, None, None]
    sums = None
    if num_planes is not None:
        planes = y.reshape(-1, num_planes, *y.shape[1:])
        sums = jnp.stack([planes.sum((0, 2, 3)), (planes * planes).sum((0, 2, 3))], 1)
    if residual is not None:
        y = y + residual
    if is_activated:
        y = jnp.where(y > 0, y, SLOPE * y)
    return y.astype(x.dtype), sums


def _prologue(x, affine):
    """Returns the images as the convolution sees them."""
    if affine is None:
        return x
    repeats = x.shape[0] // affine[0].shape[0]
    gain, offset = (jnp.tile(part, (repeats, 1))[:, None, None] for part in affine)
    wide = x.astype(jnp.float32) * gain + offset
    return jnp.where(wide > 0, wide, SLOPE * wide).astype(x.dtype)


# Compiled as a function, so that equal convolutions of a network are lowered once.
@functools.partial(jax.jit, static_argnames=("is_activated", "num_planes", "interpret"))
def launch(
    x, kernel, bias, affine, residual, *, is_activated, num_planes, interpret=False
):
    """Runs the kernel; interpreted it needs no GPU and is very slow."""
    # Here, so that a jax without it has all the rest of ctjax.
    from jax.experimental.pallas import triton

    n, height, width, _ = x.shape
    outputs = kernel.shape[-1]
    grid = (n, height // ROWS, width // COLUMNS)
    axes = jax.typeof(x).manual_axis_type
    shapes = [
        jax.ShapeDtypeStruct(
            (n, height, width, outputs), x.dtype, manual_axis_type=axes
        )
    ]
    if num_planes is not None:
        shapes.append(
            jax.ShapeDtypeStruct(
                (*grid, 2, outputs), jnp.float32, manual_axis_type=axes
            )
        )
    results = pl.pallas_call(
        functools.partial(
            _kernel,
            has_affine=affine is not None,
            has_residual=residual is not None,
            is_activated=is_activated,
            has_sums=num_planes is not None,
        ),
        grid=grid,
        out_shape=shapes,
        interpret=interpret,
        # Their type is what chooses Triton.
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="fused_convolution",
    )(x, kernel, bias, *(affine or ()), *([] if residual is None else [residual]))
    if num_planes is None:
        return results[0], None
    sums = results[1].sum((1, 2)).reshape(-1, num_planes, 2, outputs).sum(0)
    return results[0], sums


def _kernel(
    x_ref, kernel_ref, bias_ref, *refs, has_affine, has_residual, is_activated, has_sums
):
    """Computes ROWS rows of COLUMNS pixels of one image."""
    rest = list(refs)
    affine = (rest.pop(0), rest.pop(0)) if has_affine else None
    residual_ref = rest.pop(0) if has_residual else None
    y_ref = rest.pop(0)
    _, height, width, _ = x_ref.shape
    outputs = y_ref.shape[-1]
    image = pl.program_id(0)
    row0 = pl.program_id(1) * ROWS
    columns = pl.program_id(2) * COLUMNS + jnp.arange(COLUMNS)
    bias = bias_ref[:][None]
    if affine is not None:
        plane = image % affine[0].shape[0]
        gain, offset = (ref[plane, :][None] for ref in affine)
    total = jnp.zeros((1, outputs), jnp.float32)
    squares = jnp.zeros((1, outputs), jnp.float32)
    for row in range(ROWS):
        y = jnp.zeros((COLUMNS, outputs), jnp.float32)
        for i in range(KERNEL):
            above = row0 + row + i - 1
            for j in range(KERNEL):
                beside = columns + j - 1
                inside = (above >= 0) & (above < height)
                inside = inside & (beside >= 0) & (beside < width)
                # Clipped, as what lies beyond the image is not read but zero.
                pixels = x_ref[
                    image,
                    jnp.clip(above, 0, height - 1),
                    jnp.clip(beside, 0, width - 1),
                    :,
                ]
                if affine is not None:
                    wide = pixels.astype(jnp.float32) * gain + offset
                    pixels = jnp.where(wide > 0, wide, SLOPE * wide)
                pixels = jnp.where(inside[:, None], pixels, 0).astype(x_ref.dtype)
                y += jnp.dot(
                    pixels, kernel_ref[i, j, :, :], preferred_element_type=jnp.float32
                )
        y += bias
        total += y.sum(0, keepdims=True)
        squares += (y * y).sum(0, keepdims=True)
        if residual_ref is not None:
            y += residual_ref[image, row0 + row, columns, :].astype(jnp.float32)
        if is_activated:
            y = jnp.where(y > 0, y, SLOPE * y)
        y_ref[image, row0 + row, columns, :] = y.astype(y_ref.dtype)
    if has_sums:
        sums_ref = rest.pop(0)
        place = tuple(pl.program_id(axis) for axis in range(3))
        sums_ref[(*place, 0, slice(None))] = total[0]
        sums_ref[(*place, 1, slice(None))] = squares[0]
