"""The units of UResNet. All take and return [N, H, W, C] with N = events x planes.

The planes of an event lie next to each other along N and share every weight, so one
convolution serves all of them; only the normalization looks at planes apart.
Submodules and parameters follow the names of CosmicTagger's torch network, which lets
`ctjax.torch_weights` convert by renaming alone.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.config import Normalization
from ctjax.models import convolution

LEAKY_RELU_SLOPE = 0.01  # torch.nn.functional.leaky_relu's default
BATCH_NORM_EPSILON = 1e-5  # torch.nn.BatchNorm2d's default
BATCH_NORM_MOMENTUM = 0.1  # likewise; the weight of the new minibatch
LAYER_NORM_EPSILON = 1e-3  # tf.keras.layers.LayerNormalization's default


def leaky_relu(x: jax.Array) -> jax.Array:
    """Applies the activation of every unit; its slope at 0 is 0.01, as in torch."""
    return jnp.where(x > 0, x, LEAKY_RELU_SLOPE * x)


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
    pooled = max_pool(x)
    return pooled, (x, pooled)


def _max_pool_backward(residuals, gradient):
    x, pooled = residuals
    taken = jnp.zeros(pooled.shape, bool)
    parts = []
    for window in _windows(x):
        first = (window == pooled) & ~taken
        parts.append(jnp.where(first, gradient, 0))
        taken |= first
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

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Convolves [N, H, W, C]; returns the output and the bias [features]."""
        kernel = self.param(
            "kernel",
            nn.initializers.xavier_uniform(),
            (self.kernel_size, self.kernel_size, x.shape[-1], self.features),
        )
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
        return y, self._bias()

    def _bias(self):
        if not self.use_bias:
            return None
        return self.param("bias", nn.initializers.zeros_init(), (self.features,))


class TransposedConvolution(Convolution):
    """A 2 x 2 convolution of stride 2, transposed: doubles rows and columns."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Returns the output [N, 2H, 2W, features] and the bias [features]."""
        kernel = self.param(
            "kernel",
            nn.initializers.xavier_uniform(),
            (self.kernel_size, self.kernel_size, x.shape[-1], self.features),
        )
        y = jax.lax.conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=(self.stride, self.stride),
            padding="VALID",
            dimension_numbers=convolution.DIMENSION_NUMBERS,
        )
        return y, self._bias()


class BatchNorm(nn.Module):
    """Batch normalization with statistics of one plane at a time.

    CosmicTagger calls its shared block once a plane: each plane is normalized by its
    own statistics, and the running buffers are updated plane after plane.

    Attributes:
      num_planes: planes folded into the leading axis.
      dtype: type of the output; statistics are float32.
      axis_name: of the mesh over which statistics are taken; None for those of this
        device alone, as under the original's DDP.

    Source:
      torch.nn.BatchNorm2d (biased variance to normalize, unbiased in the buffer).
    """

    num_planes: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array | None, train: bool) -> jax.Array:
        """Normalizes [N, H, W, C]; `bias` [C] is that of the convolution before."""
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (features,))
        shift = self.param("bias", nn.initializers.zeros_init(), (features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        var = self.variable("batch_stats", "var", jnp.ones, (features,))
        offset = jnp.zeros(features) if bias is None else jax.lax.stop_gradient(bias)
        if not train:
            gain = scale * jax.lax.rsqrt(var.value + BATCH_NORM_EPSILON)
            constant = shift + (offset - mean.value) * gain
            return x * gain.astype(self.dtype)[None, None, None] + constant.astype(
                self.dtype
            ).reshape(1, 1, 1, -1)

        planes = x.reshape(-1, self.num_planes, *x.shape[1:])
        wide = planes.astype(jnp.float32)
        count = planes.size // (self.num_planes * features)
        batch_mean = wide.mean((0, 2, 3), keepdims=True)
        if self.axis_name is not None:
            batch_mean = jax.lax.pmean(batch_mean, self.axis_name)
            count *= jax.lax.axis_size(self.axis_name)
        batch_var = jnp.square(wide - batch_mean).mean((0, 2, 3), keepdims=True)
        if self.axis_name is not None:
            batch_var = jax.lax.pmean(batch_var, self.axis_name)
        if not self.is_initializing():
            unbiased = batch_var * (count / max(count - 1, 1))
            for plane in range(self.num_planes):
                for running, new in (
                    (mean, batch_mean[0, plane, 0, 0] + offset),
                    (var, unbiased[0, plane, 0, 0]),
                ):
                    running.value += BATCH_NORM_MOMENTUM * (new - running.value)
        gain = scale.reshape(1, 1, 1, 1, -1) * jax.lax.rsqrt(
            batch_var + BATCH_NORM_EPSILON
        )
        y = (wide - batch_mean) * gain + shift.reshape(1, 1, 1, 1, -1)
        return y.astype(self.dtype).reshape(x.shape)


class Block(nn.Module):
    """Convolution, normalization, activation.

    Attributes:
      features: output features.
      kernel_size: as in `Convolution`.
      stride: as in `Convolution`.
      bias: whether the convolution has a bias.
      normalization: which normalization follows the convolution.
      num_planes: planes folded into the leading axis.
      activation: applied last; None for none.
      convolution: `Convolution` or `TransposedConvolution`.
      upsample: applied between convolution and normalization. A 1 x 1 convolution
        commutes with interpolation (the weights of which sum to 1) and is four times
        cheaper before it; the normalization does not commute.
      dtype: compute type.
      axis_name: as in `BatchNorm`.
    """

    features: int
    kernel_size: int
    bias: bool
    normalization: Normalization
    num_planes: int
    stride: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = leaky_relu
    convolution: type[Convolution] = Convolution
    upsample: Callable[[jax.Array], jax.Array] | None = None
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to [N, H', W', features]."""
        y, bias = self.convolution(
            self.features,
            self.kernel_size,
            self.stride,
            self.bias,
            self.dtype,
            name="conv",
        )(x)
        if self.upsample is not None:
            y = self.upsample(y)
        if self.normalization is Normalization.BATCH:
            y = BatchNorm(self.num_planes, self.dtype, self.axis_name, name="norm")(
                y, bias, train
            )
        elif bias is not None:
            y = y + bias.astype(self.dtype)[None, None, None]
        if self.normalization is Normalization.LAYER:
            y = nn.LayerNorm(LAYER_NORM_EPSILON, dtype=self.dtype, name="norm")(y)
        return y if self.activation is None else self.activation(y)


class ResidualBlock(nn.Module):
    """Two blocks whose sum with their input is activated.

    Attributes:
      block: makes a `Block` of the right width and kernel from its keyword arguments.
    """

    block: Callable[..., Block]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        y = self.block(name="convolution_1")(x, train)
        y = self.block(name="convolution_2", activation=None)(y, train)
        return leaky_relu(y + x)


class BlockSeries(nn.Module):
    """`n_blocks` blocks or residual blocks, one after the other, of constant width.

    Attributes:
      block: as in `ResidualBlock`.
      n_blocks: how many.
      residual: whether they are residual blocks.
    """

    block: Callable[..., Block]
    n_blocks: int
    residual: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        for index in range(self.n_blocks):
            name = f"blocks_{index}"
            if self.residual:
                x = ResidualBlock(self.block, name=name)(x, train)
            else:
                x = self.block(name=name)(x, train)
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
