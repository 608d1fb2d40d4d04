"""Defines the layers of UResNet that hold no statistics.

All take and return [N, H, W, C] with N = events x planes.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.models.kernels import convolution, cpu
from ctjax.models.kernels.block import Images


@jax.custom_vjp
def upsample_bilinear(x: jax.Array) -> jax.Array:
    """Doubles rows and columns by bilinear interpolation at half-pixel centres.

    Written as shifted sums: `jax.image.resize` contracts each axis with a dense matrix,
    half of the network's arithmetic at full resolution. Nothing is concatenated, which
    XLA would compute apart from what follows, and the gradient is such a sum, too.

    Args:
      x: [N, H, W, C].

    Returns:
      [N, 2H, 2W, C]; beyond the edge the edge pixel is repeated, as by
      torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False).
    """
    if not cpu.serve_passes(x):
        return _interpolate(x)
    return convolution.on_cpu(cpu.upsample, _interpolate)(x)


def _interpolate(x):
    for axis in (1, 2):
        before = jnp.where(_is_at(x, axis, 0), x, _shifted(x, axis, 1))
        after = jnp.where(_is_at(x, axis, -1), x, _shifted(x, axis, -1))
        size = x.shape[axis]
        pair = (*x.shape[: axis + 1], 2, *x.shape[axis + 1 :])
        x, before, after = (
            jnp.broadcast_to(jnp.expand_dims(part, axis + 1), pair)
            for part in (x, before, after)
        )
        nearest = jnp.where(_is_at(x, axis + 1, 0), before, after)
        x = 0.75 * x + 0.25 * nearest
        x = x.reshape(*pair[:axis], 2 * size, *pair[axis + 2 :])
    return x


def _upsample_forward(x):
    return upsample_bilinear(x), None


def _upsample_backward(_, gradient):
    if not cpu.serve_passes(gradient):
        return (_interpolation_gradient(gradient),)
    on_cpu = convolution.on_cpu(cpu.upsample_gradient, _interpolation_gradient)
    return (on_cpu(gradient),)


upsample_bilinear.defvjp(_upsample_forward, _upsample_backward)


def _interpolation_gradient(gradient):
    for axis in (2, 1):
        shape = gradient.shape
        pair = (*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :])
        first, second = (
            jax.lax.index_in_dim(gradient.reshape(pair), i, axis + 1, keepdims=False)
            for i in (0, 1)
        )
        # Of the next pixel's first and of the one before's second, which took a quarter
        # of this one; at the edges of its own.
        after = jnp.where(_is_at(first, axis, -1), second, _shifted(first, axis, -1))
        before = jnp.where(_is_at(first, axis, 0), first, _shifted(second, axis, 1))
        gradient = 0.75 * (first + second) + 0.25 * (before + after)
    return gradient


def _shifted(x, axis, by):
    """Moves the values of an axis; zeros come in."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


def _is_at(x, axis, index):
    """Says of every value whether it lies at this index of an axis."""
    here = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return here == index % x.shape[axis]


def _windows(x: jax.Array) -> list[jax.Array]:
    """Returns the four pixels of each 2 x 2 window in row-major order."""
    n, height, width, features = x.shape
    tiles = x.reshape(n, height // 2, 2, width // 2, 2, features)
    return [tiles[:, :, row, :, column] for row in (0, 1) for column in (0, 1)]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of every 2 x 2 window.

    Most windows of these images tie (constant background), so the rule for ties is
    part of the result: the whole gradient goes to the first maximum in row-major
    order, as in torch and in XLA's select-and-scatter, which is far slower.

    Args:
      x: [N, H, W, C], H and W even.

    Returns:
      [N, H/2, W/2, C].
    """
    if cpu.serve_passes(x):
        return convolution.on_cpu(cpu.pool, _max_of_windows)(x)
    return _max_of_windows(x)


def _max_of_windows(x):
    a, b, c, d = _windows(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_pool_forward(x):
    return max_pool(x), x


def _max_pool_backward(x, gradient):
    if cpu.serve_passes(x):
        return (convolution.on_cpu(cpu.pool_gradient, _to_maxima)(x, gradient),)
    return (_to_maxima(x, gradient),)


def _to_maxima(x, gradient):
    # A knockout, not a comparison with the stored maximum: the compiler may compute x
    # anew and round it otherwise, and no pixel would equal its window's maximum.
    a, b, c, d = _windows(x)
    left, right = a >= b, c >= d
    upper = jnp.where(left, a, b) >= jnp.where(right, c, d)
    return _at_maxima(gradient, upper, jnp.where(upper, left, right))


def _at_maxima(gradient, upper, left):
    """Puts gradients [N, H, W, C] where the maxima of windows are, zeros elsewhere.

    Pixel by pixel. Where four masked parts were put together, XLA's CPU backend got
    gradients wrong by percents (jaxlib 0.10.2, where the pooled image had another
    reader), and its GPU backend wrote and read the whole again before the activation's.
    """
    n, height, width, features = gradient.shape
    windows = (n, height, 2, width, 2, features)
    row, column = (jax.lax.broadcasted_iota(jnp.int32, windows, i) for i in (2, 4))
    upper, left, gradient = (
        jnp.broadcast_to(part[:, :, None, :, None], windows)
        for part in (upper, left, gradient)
    )
    is_maximum = (upper == (row == 0)) & (left == (column == 0))
    return jnp.where(is_maximum, gradient, 0).reshape(n, 2 * height, 2 * width, -1)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


class Convolution(nn.Module):
    """Convolves images and returns its bias instead of adding it.

    The caller decides where the bias goes: in training with batch normalization it
    has no effect but on the running mean, and a pass over the output is saved.

    Attributes:
      features: output features.
      kernel_size: rows and columns of the kernel; padding keeps the image's size.
      stride: 1, or the kernel's size, which then pads nothing.
      use_bias: whether there is a bias.
      dtype: compute type; parameters stay float32.
      is_over_all_features: whether outputs see every feature; others than XLA compute
        no other convolutions.
    """

    is_over_all_features: ClassVar[bool] = True

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    def __call__(self, x: Images) -> tuple[jax.Array, jax.Array | None]:
        """Convolves [N, H, W, C]; returns the output and the bias [features]."""
        kernel, bias = self.parameters(x)
        return self.convolve(x, kernel), bias

    def convolve(self, x: Images, kernel: jax.Array) -> jax.Array:
        """Convolves [N, H, W, C] with a kernel as `parameters` returns it."""
        if isinstance(x, tuple):
            parts = [part.astype(self.dtype) for part in x]
            return convolution.convolve_parts(parts, kernel)
        if self.stride == 1:
            return convolution.convolve(x.astype(self.dtype), kernel)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding="VALID",
            dimension_numbers=convolution.DIMENSION_NUMBERS,
        )

    @nn.compact
    def parameters(self, x: Images) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [k, k, C, features] for `x` and the bias, float32."""
        parts = x if isinstance(x, tuple) else (x,)
        inputs = sum(part.shape[-1] for part in parts)
        kernel = self.param(
            "kernel",
            nn.initializers.xavier_uniform(),
            (self.kernel_size, self.kernel_size, inputs, self.features),
        )
        if not self.use_bias:
            return kernel, None
        zeros = nn.initializers.zeros_init()
        return kernel, self.param("bias", zeros, (self.features,))


class TransposedConvolution(Convolution):
    """Doubles rows and columns by a transposed 2 x 2 convolution of stride 2."""

    def convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Returns [N, 2H, 2W, features]."""
        return jax.lax.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.stride, self.stride),
            padding="VALID",
            dimension_numbers=convolution.DIMENSION_NUMBERS,
        )


def fold_planes_into_features(x: jax.Array, num_planes: int) -> jax.Array:
    """Turns [B x P, H, W, C] into [B, H, W, P x C], plane after plane."""
    _, height, width, features = x.shape
    x = x.reshape(-1, num_planes, height, width, features)
    return x.transpose(0, 2, 3, 1, 4).reshape(-1, height, width, num_planes * features)


def unfold_planes_from_features(x: jax.Array, num_planes: int) -> jax.Array:
    """Turns [B, H, W, P x C] back into [B x P, H, W, C]."""
    events, height, width, _ = x.shape
    x = x.reshape(events, height, width, num_planes, -1)
    return x.transpose(0, 3, 1, 2, 4).reshape(
        events * num_planes, height, width, x.shape[-1]
    )
