"""The units of UResNet. All take and return [N, H, W, C] with N = events x planes.

The planes of an event lie next to each other along N and share every weight, so one
convolution serves all of them; only the normalization looks at planes apart.
Submodules and parameters follow the names of CosmicTagger's torch network, which lets
`ctjax.torch_weights` convert by renaming alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config import Normalization
from ctjax.models import convolution, fused

LEAKY_RELU_SLOPE = convolution.SLOPE
BATCH_NORM_EPSILON = 1e-5  # torch.nn.BatchNorm2d's default
BATCH_NORM_MOMENTUM = 0.1  # likewise; the weight of the new minibatch
LAYER_NORM_EPSILON = 1e-3  # tf.keras.layers.LayerNormalization's default

Images = jax.Array | tuple[jax.Array, ...]
"""[N, H, W, C], or several whose features belong one after the other."""


@jax.custom_vjp
def leaky_relu(x: jax.Array) -> jax.Array:
    """Applies the activation of every unit; its slope at 0 is 0.01, as in torch.

    Kept for the gradient is the result, which the next convolution keeps anyway.
    """
    return jnp.where(x > 0, x, LEAKY_RELU_SLOPE * x)


def _leaky_relu_forward(x):
    y = leaky_relu(x)
    return y, y


def _leaky_relu_backward(y, gradient):
    # The result has the sign of x.
    return (jnp.where(y > 0, gradient, LEAKY_RELU_SLOPE * gradient),)


leaky_relu.defvjp(_leaky_relu_forward, _leaky_relu_backward)


def upsample_bilinear(x: jax.Array) -> jax.Array:
    """Doubles rows and columns by bilinear interpolation at half-pixel centres.

    Written as shifted sums: `jax.image.resize` contracts with a dense matrix an axis,
    half of the network's arithmetic at full resolution.

    Args:
      x: [N, H, W, C].

    Returns:
      [N, 2H, 2W, C]; beyond the edge the edge pixel is repeated, as by
      torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False).
    """
    for axis in (1, 2):
        size = x.shape[axis]
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(x, size - 1, size, axis=axis)
        before = jnp.concatenate(
            [first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis
        )
        after = jnp.concatenate(
            [jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis
        )
        pair = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def _windows(x: jax.Array) -> list[jax.Array]:
    """The four pixels of every 2 x 2 window in row-major order, [N, H/2, W/2, C]."""
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
    a, b, c, d = _windows(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_pool_forward(x):
    return max_pool(x), x


def _max_pool_backward(x, gradient):
    # A knockout, not a comparison with the stored maximum: the compiler may compute x
    # anew and round it otherwise, and no pixel would equal its window's maximum.
    a, b, c, d = _windows(x)
    left, right = a >= b, c >= d
    upper = jnp.where(left, a, b) >= jnp.where(right, c, d)
    masks = (upper & left, upper & ~left, ~upper & right, ~upper & ~right)
    parts = [jnp.where(mask, gradient, 0) for mask in masks]
    upper, lower = (
        jnp.stack(pair, axis=3)[:, :, None] for pair in (parts[:2], parts[2:])
    )
    return (jnp.concatenate([upper, lower], axis=2).reshape(x.shape),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


class Convolution(nn.Module):
    """A 2D convolution that hands its bias back instead of adding it.

    Whoever calls decides where the bias goes: in training with batch normalization it
    has no effect but on the running mean, and a pass over the output is saved.

    Attributes:
      features: output features.
      kernel_size: rows and columns of the kernel; padding keeps the image's size.
      stride: 1, or the kernel's size, which then pads nothing.
      use_bias: whether there is a bias.
      dtype: compute type; parameters stay float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    def __call__(self, x: Images) -> tuple[jax.Array, jax.Array | None]:
        """Convolves [N, H, W, C]; returns the output and the bias [features]."""
        if isinstance(x, tuple):
            kernel, bias = self.parameters(sum(part.shape[-1] for part in x))
            parts = [part.astype(self.dtype) for part in x]
            return convolution.convolve_parts(parts, kernel.astype(self.dtype)), bias
        kernel, bias = self.parameters(x.shape[-1])
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.stride == 1:
            y = convolution.convolve(x, kernel)
        else:
            y = jax.lax.conv_general_dilated(
                x,
                kernel,
                window_strides=(self.stride, self.stride),
                padding="VALID",
                dimension_numbers=convolution.DIMENSION_NUMBERS,
            )
        return y, bias

    @nn.compact
    def parameters(self, inputs: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [k, k, inputs, features] and the bias, float32."""
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
    """A 2 x 2 convolution of stride 2, transposed: doubles rows and columns."""

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns the output [N, 2H, 2W, features] and the bias [features]."""
        kernel, bias = self.parameters(x.shape[-1])
        y = jax.lax.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.stride, self.stride),
            padding="VALID",
            dimension_numbers=convolution.DIMENSION_NUMBERS,
        )
        return y, bias


class BatchNorm(nn.Module):
    """Batch normalization with statistics of one plane at a time.

    CosmicTagger calls its shared block once a plane: each plane is normalized by its
    own statistics, and the running buffers are updated plane after plane.

    Attributes:
      features: of what is normalized.
      num_planes: planes folded into the leading axis.
      axis_name: of the mesh over which statistics are taken; None for those of this
        device alone, as under the original's DDP.

    Source:
      torch.nn.BatchNorm2d (biased variance to normalize, unbiased in the buffer).
    """

    features: int
    num_planes: int
    axis_name: str | None = None

    def setup(self) -> None:
        """Makes the parameters and the running statistics, [features] each."""
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones_init(), shape)
        self.shift = self.param("bias", nn.initializers.zeros_init(), shape)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape)

    def __call__(
        self, x: jax.Array, bias: jax.Array | None, slope: float = 1.0
    ) -> jax.Array:
        """Normalizes [N, H, W, C] by its own statistics, and updates the running ones.

        Args:
          x: output of a convolution without its bias.
          bias: [C] the bias, of which only the running mean sees anything.
          slope: of the activation that follows, where its input is negative.

        Returns:
          [N, H, W, C], of the type of `x`.
        """
        planes = x.reshape(-1, self.num_planes, *x.shape[1:])
        results: Any = normalize(planes, self.scale, self.shift, slope, self.axis_name)
        y, batch_mean, batch_var = results
        count = planes.size // (self.num_planes * self.features)
        self._update(batch_mean, batch_var, count, bias)
        return y.reshape(x.shape)

    def affine_of_sums(
        self, sums: fused.Statistics, count: int, bias: jax.Array | None
    ) -> fused.Affine:
        """Returns what normalizing by sums comes to, and updates the running ones.

        Args:
          sums: of values and of their squares, [P, C] each.
          count: pixels of a plane that were summed.
          bias: as above.

        Returns:
          Gain and offset of each plane, [P, C].
        """
        mean, square = (_mean_of_devices(x / count, self.axis_name) for x in sums)
        # Rounding may make the variance of a constant negative.
        var = jnp.maximum(square - mean * mean, 0.0)
        stopped = jax.lax.stop_gradient((mean, var))
        self._update(*stopped, count, bias)
        gain = self.scale[None] * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        return gain, self.shift[None] - mean * gain

    def _update(self, batch_mean, batch_var, count, bias):
        """Moves the running statistics, plane after plane."""
        if self.is_initializing():
            return
        if self.axis_name is not None:
            count *= jax.lax.axis_size(self.axis_name)
        unbiased = batch_var * (count / max(count - 1, 1))
        offset = 0.0 if bias is None else jax.lax.stop_gradient(bias)
        for plane in range(self.num_planes):
            for running, new in (
                (self.mean, batch_mean[plane] + offset),
                (self.var, unbiased[plane]),
            ):
                running.value += BATCH_NORM_MOMENTUM * (new - running.value)

    def affine(self, bias: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Returns what normalizing by the running statistics comes to.

        Args:
          bias: as above.

        Returns:
          Gain and constant, [C] each: x becomes gain * x + constant.
        """
        gain = self.scale * jax.lax.rsqrt(self.var.value + BATCH_NORM_EPSILON)
        offset = 0.0 if bias is None else bias
        return gain, self.shift + (offset - self.mean.value) * gain


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    slope: float,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes every plane by its own statistics and activates the result.

    The gradient needs `x` and the statistics alone and computes the rest anew:
    differentiated piece by piece, two more arrays of that size would be kept.

    Args:
      x: [B, P, H, W, C].
      scale: [C].
      shift: [C].
      slope: of the activation where its input is negative; 1 for none.
      axis_name: as in `BatchNorm`.

    Returns:
      The result, of shape and type of `x`, and its means and biased variances, [P, C]
      float32, through which no gradient passes.
    """
    wide = x.astype(jnp.float32)
    mean = _mean_of_devices(wide.mean((0, 2, 3)), axis_name)
    var = jnp.square(wide - _of_planes(mean)).mean((0, 2, 3))
    var = _mean_of_devices(var, axis_name)
    _, y = _normalized(x, mean, var, scale, shift)
    return _activated(y, y, slope).astype(x.dtype), mean, var


def _of_planes(statistics):
    """[P, C] or [C] against [B, P, H, W, C]."""
    return statistics.reshape(1, -1, 1, 1, statistics.shape[-1])


def _mean_of_devices(x, axis_name):
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def _activated(y, x, slope):
    """`x`, times the slope where `y` is negative."""
    return x if slope == 1.0 else jnp.where(y > 0, x, slope * x)


def _normalized(x, mean, var, scale, shift):
    """The normalized array before and after scale and shift, float32."""
    inverse = jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
    centred = x.astype(jnp.float32) - _of_planes(mean)
    gain = scale[None] * inverse
    return (
        centred * _of_planes(inverse),
        centred * _of_planes(gain) + _of_planes(shift),
    )


def _normalize_forward(x, scale, shift, slope, axis_name):
    results: Any = normalize(x, scale, shift, slope, axis_name)
    return results, (x, scale, shift, *results[1:])


def _normalize_backward(slope, axis_name, residuals, cotangents):
    x, scale, shift, mean, var = residuals
    normalized, y = _normalized(x, mean, var, scale, shift)
    gradient = _activated(y, cotangents[0].astype(jnp.float32), slope)
    count = x.size // mean.size
    of_shift = gradient.sum((0, 2, 3))
    of_scale = (gradient * normalized).sum((0, 2, 3))
    # The statistics' own part. Over several devices they belong to all losses.
    through_mean, through_var = (
        _of_planes(_mean_of_devices(total / count, axis_name))
        for total in (of_shift, of_scale)
    )
    inverse = jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
    of_x = _of_planes(scale[None] * inverse) * (
        gradient - through_mean - normalized * through_var
    )
    return of_x.astype(x.dtype), of_scale.sum(0), of_shift.sum(0)


normalize.defvjp(_normalize_forward, _normalize_backward)


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
            and fused.fits(
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
        on_cpu = convolution.takes_bias(x, kernel)
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
            return convolution.convolve_biased(x, kernel, bias, residual)
        return fused.biased(x, kernel, bias, residual, True)

    def pending(
        self, x: jax.Array, affine: fused.Affine | None
    ) -> tuple[jax.Array, fused.Affine]:
        """Training with batch normalization, which is left to whoever comes next.

        Args:
          x: [N, H, W, C]; see `has_kernel`.
          affine: what is left to do with `x`, see `fused.normalized`.

        Returns:
          The convolution [N, H, W, features], and what is left to do with it.
        """
        kernel, bias = self.conv.parameters(x.shape[-1])
        results: Any = fused.normalized(
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


def fold_planes_into_features(x: jax.Array, num_planes: int) -> jax.Array:
    """[B x P, H, W, C] to [B, H, W, P x C], planes in order along the features."""
    _, height, width, features = x.shape
    x = x.reshape(-1, num_planes, height, width, features)
    return x.transpose(0, 2, 3, 1, 4).reshape(-1, height, width, num_planes * features)


def unfold_planes_from_features(x: jax.Array, num_planes: int) -> jax.Array:
    """[B, H, W, P x C] back to [B x P, H, W, C]."""
    events, height, width, _ = x.shape
    x = x.reshape(events, height, width, num_planes, -1)
    return x.transpose(0, 3, 1, 2, 4).reshape(
        events * num_planes, height, width, x.shape[-1]
    )
