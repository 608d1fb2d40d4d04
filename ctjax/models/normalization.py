"""Defines batch normalization with the statistics of each plane."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctjax.models.own_pixels import OwnPixels

BATCH_NORM_EPSILON = 1e-5  # torch.nn.BatchNorm2d's default
BATCH_NORM_MOMENTUM = 0.1  # likewise; the weight of the new minibatch
LAYER_NORM_EPSILON = 1e-3  # tf.keras.layers.LayerNormalization's default


class BatchNorm(nn.Module):
    """Normalizes each plane by its own statistics.

    CosmicTagger calls its shared block once a plane: each plane is normalized by its
    own statistics, and the running buffers are updated plane after plane.

    Attributes:
      features: of what is normalized.
      num_planes: planes folded into the leading axis.
      axis_name: of the mesh over which statistics are taken; None for those of this
        device alone, as under the original's DDP.
      epsilon: added to variances.
      momentum: weight of the new minibatch in the running statistics.
      own: the pixels that count; None for all.

    Source:
      torch.nn.BatchNorm2d (biased variance to normalize, unbiased in the buffer).
    """

    features: int
    num_planes: int
    axis_name: str | None = None
    epsilon: float = BATCH_NORM_EPSILON
    momentum: float = BATCH_NORM_MOMENTUM
    own: OwnPixels | None = None

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
          x: output of a convolution without its bias; [N, H, W / s, s C] where columns
            are features (`kernels.columns`).
          bias: [C] the bias, of which only the running mean sees anything.
          slope: of the activation that follows, where its input is negative.

        Returns:
          Of the shape and type of `x`.
        """
        planes = x.reshape(-1, self.num_planes, *x.shape[1:])
        results: Any = normalize(
            *(planes, self.scale, self.shift, slope),
            *(self.axis_name, self.epsilon, self.own),
        )
        y, batch_mean, batch_var = results
        count = _count(planes, self.features, self.own)
        self._update(batch_mean, batch_var, count, bias)
        return y.reshape(x.shape)

    def _update(self, batch_mean, batch_var, count, bias):
        """Updates the running statistics, plane after plane."""
        if self.is_initializing():
            return
        if self.axis_name is not None:
            count *= jax.lax.axis_size(self.axis_name)
        unbiased = batch_var * (count / np.maximum(count - 1, 1))
        offset = 0.0 if bias is None else jax.lax.stop_gradient(bias)
        for plane in range(self.num_planes):
            for running, new in (
                (self.mean, batch_mean[plane] + offset),
                (self.var, unbiased[plane]),
            ):
                running.value += self.momentum * (new - running.value)

    def affine(self, bias: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Returns the affine map that normalizes by the running statistics.

        Args:
          bias: as above.

        Returns:
          Gain and constant, [C] each: x becomes gain * x + constant.
        """
        gain = self.scale * jax.lax.rsqrt(self.var.value + self.epsilon)
        offset = 0.0 if bias is None else bias
        return gain, self.shift + (offset - self.mean.value) * gain


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def normalize(
    x: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    slope: float,
    axis_name: str | None = None,
    epsilon: float = BATCH_NORM_EPSILON,
    own: OwnPixels | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes every plane by its own statistics and activates the result.

    The gradient needs `x` and the statistics alone and computes the rest anew:
    differentiated piece by piece, two more arrays of that size would be kept.

    Args:
      x: [B, P, H, W, C], or [B, P, H, W / s, s C].
      scale: [C].
      shift: [C].
      slope: of the activation where its input is negative; 1 for none.
      axis_name: as in `BatchNorm`.
      epsilon: likewise.
      own: likewise; pixels that do not count are normalized as the others.

    Returns:
      The result, of shape and type of `x`, and its means and biased variances, [P, C]
      float32, through which no gradient passes.
    """
    wide = x.astype(jnp.float32)
    features = scale.size
    mean = _mean_of_devices(_mean(wide, features, own), axis_name)
    squares = jnp.square(wide - _of_planes(mean, x))
    var = _mean_of_devices(_mean(squares, features, own), axis_name)
    _, y = _normalized(x, mean, var, scale, shift, epsilon)
    return _activated(y, y, slope).astype(x.dtype), mean, var


def _mean(x, features, own):
    """Returns the means of the pixels that count, [P, C]."""
    if own is None:
        return _joined(x.mean((0, 2, 3)), features, jnp.mean)
    total = jnp.where(_mask(x, features, own), x, 0).sum((0, 2, 3))
    return _joined(total, features, jnp.sum) / _count(x, features, own)


def _mask(x, features, own):
    """Says which pixels count, to be broadcast against `x`."""
    mask = own.mask((x.shape[0] * x.shape[1], *x.shape[2:]), features)
    return mask.reshape(-1, x.shape[1], *mask.shape[1:])


def _count(x, features, own):
    """Returns how many do of each plane: a number, or [P, 1] or [P, C]."""
    if own is None:
        return x.size // (x.shape[1] * features)
    count = own.count((x.shape[0] * x.shape[1], *x.shape[2:]), features)
    return count.reshape(-1, x.shape[1], count.shape[-1]).sum(0)


def _of_planes(statistics, x):
    """Reshapes [P, C] or [C] for broadcasting against `x`, as `normalize` takes it."""
    columns = x.shape[-1] // statistics.shape[-1]
    if columns > 1:
        statistics = jnp.concatenate([statistics] * columns, -1)
    return statistics.reshape(1, -1, 1, 1, statistics.shape[-1])


def _joined(sums, features, join):
    """Joins the sums or means of columns that are features: [P, s C] to [P, C]."""
    if sums.shape[-1] == features:
        return sums
    return join(sums.reshape(sums.shape[0], -1, features), 1)


def _mean_of_devices(x, axis_name):
    return x if axis_name is None else jax.lax.pmean(x, axis_name)


def _activated(y, x, slope):
    """Returns `x`, multiplied by the slope where `y` is negative."""
    return x if slope == 1.0 else jnp.where(y > 0, x, slope * x)


def _normalized(x, mean, var, scale, shift, epsilon):
    """Returns the normalized array before and after scale and shift, float32."""
    inverse = jax.lax.rsqrt(var + epsilon)
    centred = x.astype(jnp.float32) - _of_planes(mean, x)
    gain = scale[None] * inverse
    return (
        centred * _of_planes(inverse, x),
        centred * _of_planes(gain, x) + _of_planes(shift, x),
    )


def _normalize_forward(x, scale, shift, slope, axis_name, epsilon, own):
    results: Any = normalize(x, scale, shift, slope, axis_name, epsilon, own)
    return results, (x, scale, shift, *results[1:])


def _normalize_backward(slope, axis_name, epsilon, own, residuals, cotangents):
    x, scale, shift, mean, var = residuals
    normalized, y = _normalized(x, mean, var, scale, shift, epsilon)
    gradient = _activated(y, cotangents[0].astype(jnp.float32), slope)
    count = _count(x, scale.size, own)
    of_shift = _joined(gradient.sum((0, 2, 3)), scale.size, jnp.sum)
    of_scale = _joined((gradient * normalized).sum((0, 2, 3)), scale.size, jnp.sum)
    # The statistics' own part. Over several devices they belong to all losses.
    through_mean, through_var = (
        _of_planes(_mean_of_devices(total / count, axis_name), x)
        for total in (of_shift, of_scale)
    )
    if own is not None:
        mask = _mask(x, scale.size, own)
        through_mean = jnp.where(mask, through_mean, 0)
        through_var = jnp.where(mask, through_var, 0)
    inverse = jax.lax.rsqrt(var + epsilon)
    of_x = _of_planes(scale[None] * inverse, x) * (
        gradient - through_mean - normalized * through_var
    )
    return of_x.astype(x.dtype), of_scale.sum(0), of_shift.sum(0)


normalize.defvjp(_normalize_forward, _normalize_backward)
