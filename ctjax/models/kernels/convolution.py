"""Computes convolutions of stride 1 by what is fastest on the platform.

On CPUs some of the three products of XLA's convolution (forward, with respect to its
input and to its kernel) are far slower than matrix products of the same size. Where
cpu.c could be built, its functions compute them; elsewhere they are written as
matrix products here. docs/compute.md has the measurements behind each choice. Other
backends get XLA's own convolutions.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.models.kernels import cpu, portable
from ctjax.models.kernels.activation import SLOPE

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")

MIN_PRODUCTS = 1 << 20  # fewer multiplications are not worth another way
STACK_BYTES = 5 << 18  # of shifted gradients at a time, about a second-level cache
MIN_DOT_OUTPUTS = 8  # below, the gradient of a 1 x 1 convolution is faster as one
STEM_COLUMNS = 4  # of an image of one feature that are computed together


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zeros beyond the edges, which keeps the size.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, C, F], k odd; it is rounded to the type of `x`. Where it is
        differentiated under `shard_map`, it must be each device's own, see
        `sharding.varying`.

    Returns:
      [N, H, W, F], of the type of `x`.
    """
    size, features = kernel.shape[0], x.shape[-1]
    if portable.is_wanted() or _is_small(x, kernel):
        return plain(x, kernel)
    if cpu.serve(x, kernel.shape[-1], size):
        return on_cpu(cpu.convolve, plain)(x, kernel)
    kernel = kernel.astype(x.dtype)
    if size == 1:
        return on_cpu(_dot, plain)(x, kernel)
    if features == 1 and x.shape[2] % STEM_COLUMNS == 0:
        return on_cpu(_stem, plain)(x, kernel)
    return plain(x, kernel)


@jax.custom_vjp
def convolve_biased(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, residual: jax.Array | None
) -> jax.Array:
    """Convolves, adds a bias and perhaps another image, and activates.

    Where `takes_bias` says so, all of it is one pass over the images.

    Args:
      x: [N, H, W, C].
      kernel: as in `convolve`.
      bias: [F] float32.
      residual: [N, H, W, F], or None.

    Returns:
      [N, H, W, F], of the type of `x`.
    """
    if not takes_bias(x, kernel):
        return plain_biased(x, kernel, bias, residual)
    return on_cpu(cpu.convolve_biased, plain_biased)(x, kernel, bias, residual)


def takes_bias(x: jax.Array, kernel: jax.Array) -> bool:
    """Says whether `convolve_biased` is faster than separate passes."""
    size, outputs = kernel.shape[0], kernel.shape[-1]
    if portable.is_wanted() or _is_small(x, kernel):
        return False
    return cpu.serve_biased(x, outputs, size)


def plain_biased(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, residual: jax.Array | None
) -> jax.Array:
    """Computes `convolve_biased` by XLA."""
    y = plain(x, kernel) + bias[None, None, None]  # float32, as the bias
    if residual is not None:
        y = y + residual
    return jnp.where(y > 0, y, SLOPE * y).astype(x.dtype)


def _biased_forward(x, kernel, bias, residual):
    y = convolve_biased(x, kernel, bias, residual)
    return y, (x, kernel, y, residual is not None)


def _biased_backward(residuals, gradient):
    x, kernel, y, has_residual = residuals
    gradient, of_bias = _through_activation(takes_bias(x, kernel), y, gradient)
    of_x, of_kernel = _backward((x, kernel), gradient)
    return of_x, of_kernel, of_bias, gradient if has_residual else None


def _through_activation(is_in_c, result, gradient):
    """Returns the gradient of what was activated, and its sums over the pixels."""
    plain_gradient = _plain_activation_gradient
    in_c = cpu.activation_gradient if is_in_c else plain_gradient
    return on_cpu(in_c, plain_gradient)(result, gradient)


def _plain_activation_gradient(result, gradient):
    # The result has the sign of what was activated.
    gradient = jnp.where(result > 0, gradient, SLOPE * gradient)
    return gradient, gradient.sum((0, 1, 2), jnp.float32)


convolve_biased.defvjp(_biased_forward, _biased_backward)


def keeps_input(x: jax.Array, kernel: jax.Array) -> bool:
    """Says whether `convolve_biased_and_keep` saves a pass."""
    return cpu.serve_passes(x) and takes_bias(x, kernel)


@jax.custom_vjp
def convolve_biased_and_keep(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes `convolve_biased` and returns `x` as well, for another reader.

    Where `keeps_input` says so, the other reader's gradient is added in the pass that
    computes this one's.
    """
    return convolve_biased(x, kernel, bias, None), x


def _keep_forward(x, kernel, bias):
    y = convolve_biased(x, kernel, bias, None)
    return (y, x), (x, kernel, y)


def _keep_backward(residuals, gradients):
    x, kernel, y = residuals
    gradient, other = gradients
    gradient, of_bias = _through_activation(takes_bias(x, kernel), y, gradient)
    return (*_backward((x, kernel), gradient, other), of_bias)


convolve_biased_and_keep.defvjp(_keep_forward, _keep_backward)


def convolve_parts(parts: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
    """Convolves images whose features are in several arrays, without joining them.

    Args:
      parts: [N, H, W, C_i] each, whose features belong one after the other.
      kernel: [k, k, sum of C_i, F].

    Returns:
      [N, H, W, F].
    """
    ends = np.cumsum([part.shape[-1] for part in parts])
    kernels = jnp.split(kernel, ends[:-1], axis=2)
    y = convolve(parts[0], kernels[0])
    for part, own in zip(parts[1:], kernels[1:], strict=True):
        y = y + convolve(part, own)
    return y


def convolve_parts_biased(
    parts: Sequence[jax.Array], kernel: jax.Array, bias: jax.Array
) -> jax.Array:
    """Computes `convolve_parts`, adds a bias [F] and activates the sum.

    The last part's convolution takes the sum of the others as a residual.
    """
    split = kernel.shape[2] - parts[-1].shape[-1]
    others = convolve_parts(parts[:-1], kernel[:, :, :split])
    return convolve_biased(parts[-1], kernel[:, :, split:], bias, others)


@jax.custom_vjp
def add_bias_and_activate(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [F] float32 to [N, H, W, F] and activates the sum, rounded once.

    One pass on the way back, where `cpu.serve_passes` says so.
    """
    y, dtype = y + bias[None, None, None], y.dtype
    return jnp.where(y > 0, y, SLOPE * y).astype(dtype)


def _add_bias_forward(y, bias):
    result = add_bias_and_activate(y, bias)
    return result, result


def _add_bias_backward(result, gradient):
    return _through_activation(cpu.serve_passes(result), result, gradient)


add_bias_and_activate.defvjp(_add_bias_forward, _add_bias_backward)


def _forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _backward(residuals, gradient, other=None):
    """Returns the gradients of input, plus another if there is one, and kernel."""
    x, kernel = residuals
    size = kernel.shape[0]

    def of_input(function, gradient):
        narrow = kernel.astype(x.dtype)
        return jax.linear_transpose(lambda x: function(x, narrow), x)(gradient)[0]

    def of_kernel(x, gradient):
        return jax.linear_transpose(lambda k: plain(x, k), kernel)(gradient)[0]

    def in_type_of_kernel(function):
        return lambda x, gradient: function(x, gradient).astype(kernel.dtype)

    of_input_plain = functools.partial(of_input, plain)
    of_input_cpu, of_kernel_cpu = of_input_plain, of_kernel
    if not _is_small(x, kernel):
        if cpu.serve(gradient, x.shape[-1], size):
            of_input_cpu = functools.partial(_native_of_input, kernel)
        elif size == 1 and kernel.shape[-1] >= MIN_DOT_OUTPUTS:
            of_input_cpu = functools.partial(of_input, _dot)
        if cpu.serve_gradient(x, kernel.shape[-1], size):
            of_kernel_cpu = in_type_of_kernel(
                functools.partial(cpu.gradient_of_kernel, size=size)
            )
        elif size in WAYS_OF_KERNEL:
            of_kernel_cpu = in_type_of_kernel(WAYS_OF_KERNEL[size])
    kernel_gradient = on_cpu(of_kernel_cpu, of_kernel)(x, gradient)
    if other is None:
        return on_cpu(of_input_cpu, of_input_plain)(gradient), kernel_gradient

    def plus_in_c(gradient, other):
        return cpu.gradient_of_input_plus(gradient, kernel, other)

    def plus(gradient, other):
        return of_input_plain(gradient) + other

    is_in_c = keeps_input(x, kernel)
    sum_of_both = on_cpu(plus_in_c if is_in_c else plus, plus)(gradient, other)
    return sum_of_both, kernel_gradient


convolve.defvjp(_forward, _backward)


def _is_small(x, kernel):
    return x.size // x.shape[-1] * kernel.size < MIN_PRODUCTS


def on_cpu(cpus: Callable[..., Any], elsewhere: Callable[..., Any]) -> Any:
    """Returns a function that is one on the CPU and another on other platforms."""
    if cpus is elsewhere:
        return elsewhere
    return functools.partial(jax.lax.platform_dependent, cpu=cpus, default=elsewhere)


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `convolve` by XLA."""
    padding = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding=[(padding, padding)] * 2,
        dimension_numbers=DIMENSION_NUMBERS,
    )


def _native_of_input(kernel, gradient):
    """Computes the gradient of the input: a convolution with the kernel flipped."""
    if gradient.dtype == jnp.bfloat16:
        return cpu.convolve(gradient, kernel, is_turned=True)
    return cpu.convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3))


def _dot(x, kernel):
    """Computes a 1 x 1 convolution as the matrix product that it is."""
    return jnp.tensordot(x, kernel[0, 0], 1)


def _dot_of_kernel(x, gradient):
    """Computes the gradient of a 1 x 1 kernel."""
    product = _product_over_pixels(x, gradient)
    return product.astype(x.dtype)[None, None]


def _product_over_pixels(x, y):
    """Contracts [..., C] with [..., F] to [C, F] float32."""
    x, y = (part.reshape(-1, part.shape[-1]) for part in (x, y))
    return jax.lax.dot_general(
        x, y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )


def _stacked_of_kernel(x, gradient):
    """Computes the gradient of a 3 x 3 kernel: pixels times the nine gradients around.

    Blocks of rows, one after the other, so that the nine stay in the cache.
    """
    n, height, width, features = x.shape
    outputs = gradient.shape[-1]
    row_bytes = 9 * width * outputs * 4
    rows = max(
        rows
        for rows in range(1, height + 1)
        if height % rows == 0 and (rows == 1 or rows * row_bytes <= STACK_BYTES)
    )
    around = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add(total, block):
        image, row = block // (height // rows), block % (height // rows) * rows
        pixels = jax.lax.dynamic_slice(
            x, (image, row, 0, 0), (1, rows, width, features)
        )
        window = jax.lax.dynamic_slice(
            around, (image, row, 0, 0), (1, rows + 2, width + 2, outputs)
        )
        # The kernel's element (i, j) joins a pixel with the output 1 - i rows and
        # 1 - j columns further.
        shifted = [
            window[:, i : i + rows, j : j + width] for i in (2, 1, 0) for j in (2, 1, 0)
        ]
        return total + _product_over_pixels(pixels, jnp.concatenate(shifted, -1)), None

    # Like x: on several devices, its own on each.
    zeros = jnp.zeros_like(x, jnp.float32, shape=(features, 9 * outputs))
    blocks = jnp.arange(n * (height // rows))
    total, _ = jax.lax.scan(add, zeros, blocks)
    kernel = total.reshape(features, 3, 3, outputs).transpose(1, 2, 0, 3)
    return kernel.astype(x.dtype)


def _stem(x, kernel):
    """Convolves one feature, taking several columns of the image as its features.

    One of C = 1 spends its time on gathering; this one multiplies more zeros instead.
    """
    n, height, width, _ = x.shape
    size, outputs = kernel.shape[0], kernel.shape[-1]
    padding, step = (size - 1) // 2, STEM_COLUMNS
    blocks = -(-(step + size - 1) // step)
    spare = blocks * step - step - padding
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, spare), (0, 0)))
    x = x.reshape(n, height + size - 1, -1, step)
    shifted = [
        jnp.pad(
            kernel, ((0, 0), (column, blocks * step - size - column), (0, 0), (0, 0))
        )
        for column in range(step)
    ]
    kernel = jnp.concatenate(shifted, -1).reshape(size, blocks, step, step * outputs)
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=DIMENSION_NUMBERS
    )
    return y.reshape(n, height, width, outputs)


WAYS_OF_KERNEL = {1: _dot_of_kernel, 3: _stacked_of_kernel}
"""What is faster than XLA's gradient of a kernel without C, by its size."""
