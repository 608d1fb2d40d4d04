"""Computes convolutions of few features by taking columns of the image as features.

An image [N, H, W, C] is the same memory as one [N, H, W / s, s C] whose features are
those of s neighbouring columns. A k x k convolution of the first is a k x 3 convolution
of the second, with a kernel that is the first one's, shifted, and zeros. It multiplies
s times as much, but its features fill the tiles of a GPU's matrix units, of which 16 or
32 leave most to padding. Bias, activation, sum and statistics are computed in the same
form; going from one form to the other moves nothing.
"""

import jax
import jax.numpy as jnp

from ctjax.models.kernels.convolution import DIMENSION_NUMBERS

MEASURED = ((5, 1, 16), (3, 16, 16), (3, 32, 32), (1, 16, 3))
"""Size, features and outputs of the kernels that are faster so on a GPU.

docs/compute.md has the times, which chose the numbers below too."""

WIDTH = 64  # features to make of few
COUNTS = (16, 8, 4, 2)  # columns that may be features, the first that fits


def count(
    shape: tuple[int, ...], kernel_shape: tuple[int, ...], is_wanted: bool | None
) -> int:
    """Says how many columns become features in a convolution of stride 1.

    Args:
      shape: of the images, [N, H, W, C].
      kernel_shape: [k, k, C, F].
      is_wanted: whether any do where they can; None for those that were measured to
        be faster so, on GPUs.

    Returns:
      s, which divides W and is at least half of k; 1 to leave the images as they are.
    """
    size, _, features, outputs = kernel_shape
    if is_wanted is None:
        is_measured = (size, features, outputs) in MEASURED
        is_wanted = is_measured and jax.default_backend() == "gpu"
    columns = most(shape) if is_wanted else 1
    return columns if size // 2 <= columns else 1


def most(shape: tuple[int, ...]) -> int:
    """Returns how many columns of images [N, H, W, C] make features that are wide."""
    fitting = (s for s in COUNTS if s * shape[3] <= WIDTH and shape[2] % s == 0)
    return next(fitting, 1)


def fold(x: jax.Array, columns: int) -> jax.Array:
    """Takes columns as features: [N, H, W, C] to [N, H, W / s, s C]."""
    n, height, width, features = x.shape
    return x.reshape(n, height, width // columns, columns * features)


def unfold(x: jax.Array, columns: int) -> jax.Array:
    """Takes features as columns: [N, H, W / s, s C] to [N, H, W, C]."""
    n, height, width, features = x.shape
    return x.reshape(n, height, width * columns, features // columns)


def spread(kernel: jax.Array, columns: int) -> jax.Array:
    """Returns the kernel of the same convolution with columns as features.

    Args:
      kernel: [k, k, C, F], k odd.
      columns: s, at least (k - 1) / 2.

    Returns:
      [k, 3, s C, s F]: column j of the output takes column a of block t of the input
      by the kernel's column (t - 1) s + a - j + (k - 1) / 2, by 0 where there is none.
      Of a kernel of one pixel, which reaches no other block, [1, 1, s C, s F].
    """
    size, _, features, outputs = kernel.shape
    if size == 1:
        blocks = jnp.einsum("aj,cf->acjf", jnp.eye(columns), kernel[0, 0])
        return blocks.reshape(1, 1, columns * features, columns * outputs)
    first = columns - size // 2
    shifted = [
        jnp.pad(
            kernel,
            ((0, 0), (first + j, 3 * columns - size - first - j), (0, 0), (0, 0)),
        )
        for j in range(columns)
    ]
    return jnp.stack(shifted, 3).reshape(size, 3, columns * features, columns * outputs)


def convolve(x: jax.Array, kernel: jax.Array, columns: int) -> jax.Array:
    """Convolves with stride 1 and zeros beyond the edges, with columns as features.

    Args:
      x: [N, H, W / s, s C].
      kernel: [k, k, C, F] float32. It is spread before it is rounded to the type of
        `x`, so that the parts of its gradient are summed in float32.
      columns: s.

    Returns:
      [N, H, W / s, s F], of the type of `x`.
    """
    matrices = spread(kernel, columns).astype(x.dtype)
    if kernel.shape[0] == 1:
        return jnp.einsum("nhwc,cf->nhwf", x, matrices[0, 0])
    padding = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        matrices,
        window_strides=(1, 1),
        padding=[(padding, padding), (1, 1)],
        dimension_numbers=DIMENSION_NUMBERS,
    )


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias [F] float32 to images [N, H, W / s, s F].

    Its gradient is summed in float32, by the pass that makes the images' gradient.
    """
    repeated = jnp.concatenate([bias] * (y.shape[-1] // bias.shape[-1]))
    return y + repeated.astype(y.dtype)[None, None, None]


def _add_bias_forward(y, bias):
    return add_bias(y, bias), bias


def _add_bias_backward(bias, gradient):
    sums = gradient.astype(jnp.float32).sum((0, 1, 2))
    return gradient, sums.reshape(-1, *bias.shape).sum(0)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
