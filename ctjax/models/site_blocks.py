"""Defines the layers of a network on active sites: convolutions, norms, blocks.

All take and return features [N, C] of the sites of a level, as `base.sites` lists them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctjax.base.sites import Coarsening, Level, Sites
from ctjax.config.choices import Normalization, Remat
from ctjax.models.kernels import sparse
from ctjax.models.kernels.activation import leaky_relu
from ctjax.models.pixel_network import apply_in_turn

BATCH_NORM_EPSILON = 1e-4  # SparseConvNet's default
BATCH_NORM_MOMENTUM = 0.1  # likewise; the weight of the new minibatch


class SiteImages(NamedTuple):
    """Says which image each site is of.

    Attributes:
      image: [N] int32, as in `sites.Level`.
      number: of images; places without a site are of image `number`.
    """

    image: jax.Array
    number: int


class Map(NamedTuple):
    """Says how a convolution goes from sites to sites.

    Attributes:
      convolve: `(x [N, C], kernel [T, C, F]) -> [M, F]`.
      area: shape of T, such as (3, 3).
      images: of the resulting sites.
      neighbours: [N, T] where the sites stay the same, else None.
    """

    convolve: Callable[[jax.Array, jax.Array], jax.Array]
    area: tuple[int, ...]
    images: SiteImages
    neighbours: jax.Array | None = None


def around(table: jax.Array, images: SiteImages) -> Map:
    """Returns the map from sites to themselves by their neighbours [N, k * k]."""
    side = round(table.shape[-1] ** 0.5)
    convolve = functools.partial(sparse.convolve, neighbours=table)
    return Map(convolve, (side, side), images, table)


def down(step: Coarsening, area: tuple[int, ...], images: SiteImages) -> Map:
    """Returns the map to the next level, whose images are given."""
    convolve = functools.partial(sparse.coarsen, parts=step.parts, place=step.place)
    return Map(convolve, area, images)


def up(step: Coarsening, area: tuple[int, ...], images: SiteImages) -> Map:
    """Returns the map from the next level, to the one whose images are given."""
    convolve = functools.partial(sparse.refine, parts=step.parts, place=step.place)
    return Map(convolve, area, images)


def images_of(level: Level, sites: Sites, is_merged: bool = False) -> SiteImages:
    """Names the images of a level; where planes are merged an event has one."""
    number = sites.empty.shape[-2]
    if is_merged:
        number //= sites.steps[-1].parts.shape[-1]
    return SiteImages(level.image, number)


class SiteNorm(nn.Module):
    """Normalizes features over sites; places without one do not count.

    Attributes:
      kind: BATCH, over all sites of the minibatch, the planes together, with running
        statistics; or INSTANCE, over the sites of each image.
      axis_name: of the mesh over which statistics of a minibatch are taken; None for
        those of this device alone.
    """

    kind: Normalization
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, images: SiteImages, bias: jax.Array | None, train: bool
    ) -> jax.Array:
        """Normalizes [N, C]; the result is of the type of `x`.

        Args:
          x: output of a convolution without its bias.
          images: of its sites.
          bias: [C] the bias, of which only the running mean sees anything.
          train: whether batch normalization takes the minibatch's statistics.
        """
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        shift = self.param("bias", nn.initializers.zeros_init(), shape)
        wide = x.astype(jnp.float32)
        if self.kind is Normalization.INSTANCE:
            centred, var = _by_image(wide, images)
        elif train:
            centred, var = self._by_minibatch(wide, images, bias)
        else:
            mean, var = self._running(shape)
            offset = 0.0 if bias is None else bias
            centred, var = wide + (offset - mean.value)[None], var.value[None]
        gain = scale[None] * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        if train and self.kind is Normalization.BATCH:
            scaled = _scale(centred, gain, _are_sites(images))
        else:
            scaled = centred * gain
        return (scaled + shift[None]).astype(x.dtype)

    def _running(self, shape) -> tuple[Any, Any]:
        """Returns the running mean and variance."""
        return (
            self.variable("batch_stats", "mean", jnp.zeros, shape),
            self.variable("batch_stats", "var", jnp.ones, shape),
        )

    def _by_minibatch(self, x, images, bias):
        """Centres by the minibatch; returns the variance [1, C] and updates others."""
        is_site = _are_sites(images)
        total = functools.partial(_sum_over_devices, axis_name=self.axis_name)
        count = total(jnp.sum(is_site, dtype=jnp.float32))
        mean = total(jnp.sum(jnp.where(is_site, x, 0), 0)) / jnp.maximum(count, 1)
        centred = x - mean[None]
        squares = jnp.where(is_site, jnp.square(centred), 0)
        var = total(jnp.sum(squares, 0)) / jnp.maximum(count, 1)
        running_mean, running_var = self._running(mean.shape)
        if not self.is_initializing():
            # A minibatch without a site says nothing.
            momentum = BATCH_NORM_MOMENTUM * (count > 0)
            offset = 0.0 if bias is None else jax.lax.stop_gradient(bias)
            unbiased = var * (count / jnp.maximum(count - 1, 1))
            for running, new in (
                (running_mean, mean + offset),
                (running_var, unbiased),
            ):
                running.value += momentum * (new - running.value)
        return centred, var[None]


def _are_sites(images):
    return (images.image < images.number)[:, None]


@jax.custom_vjp
def _scale(centred: jax.Array, gain: jax.Array, is_site: jax.Array) -> jax.Array:
    """Multiplies [N, C] by a gain [1, C]; is_site is [N, 1], for the gradient."""
    del is_site
    return centred * gain


def _scale_forward(centred, gain, is_site):
    return _scale(centred, gain, is_site), (centred, gain, is_site)


def _scale_backward(residuals, gradient):
    centred, gain, is_site = residuals
    # Places without a site have the gradient 0, so that the choice changes nothing. But
    # XLA sums plain products by a library, for which it keeps `centred` of all layers;
    # it computes a choice itself, and `centred` anew.
    products = jnp.where(is_site, gradient * centred, 0)
    return gradient * gain, jnp.sum(products, 0, keepdims=True), None


_scale.defvjp(_scale_forward, _scale_backward)


def _sum_over_devices(x, axis_name):
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def _by_image(x, images):
    """Centres each image's sites; returns them with the variance of each, [N, C]."""
    is_of = jax.nn.one_hot(images.image, images.number)
    count = jnp.maximum(is_of.sum(0), 1)[:, None]

    def mean_of_image(values):
        # Products, since sums by image would be a scatter.
        return _product(is_of, _product(is_of.T, values) / count)

    centred = x - mean_of_image(x)
    return centred, mean_of_image(jnp.square(centred))


def sum_by_image(x: jax.Array, images: SiteImages) -> tuple[jax.Array, jax.Array]:
    """Sums features [N, C] float32 over the sites of each image.

    Returns:
      [images, C] and the number of its sites, [images, 1], 1 where there is none.
    """
    is_of = jax.nn.one_hot(images.image, images.number)
    # A product, since sums by image would be a scatter.
    return _product(is_of.T, x), jnp.maximum(is_of.sum(0), 1)[:, None]


def _product(x, y):
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


class SiteKernel(nn.Module):
    """Declares a kernel and a bias.

    Attributes:
      features: of the output.
      use_bias: whether there is a bias.
    """

    features: int
    use_bias: bool

    @nn.compact
    def declare(
        self, area: tuple[int, ...], inputs: int
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the kernel [T, inputs, features], stored [*area, ...], and bias."""
        zeros = nn.initializers.zeros_init()
        kernel = self.param("kernel", zeros, (*area, inputs, self.features))
        kernel = kernel.reshape(-1, inputs, self.features)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", zeros, (self.features,))


class PointwiseConvolution(nn.Module):
    """Multiplies the features of each site by a kernel, [1, 1, C, features]."""

    features: int
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, C] to [N, features]."""
        declared = SiteKernel(self.features, self.bias, name="conv")
        kernel, bias = declared.declare((1, 1), x.shape[-1])
        return _add_bias(x @ kernel[0].astype(x.dtype), bias)


class SiteBlock(nn.Module):
    """Convolves, normalizes and activates.

    Attributes:
      features: of the output.
      bias: whether the convolution has a bias.
      normalization: which normalization follows the convolution.
      axis_name: as in `SiteNorm`.
      is_plain: whether neither norm nor activation follows.
    """

    features: int
    bias: bool
    normalization: Normalization
    axis_name: str | None = None
    is_plain: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        sites: Map,
        train: bool,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Maps [N, C] to [M, features].

        Args:
          x: features of sites.
          sites: from which to which.
          train: as in `SiteNorm`.
          residual: like the result, added before the activation.
        """
        declared = SiteKernel(self.features, self.bias, name="conv")
        kernel, bias = declared.declare(sites.area, x.shape[-1])
        if self.is_plain:
            return _add_bias(sites.convolve(x, kernel), bias)
        if self.normalization is Normalization.NONE:
            if sites.neighbours is not None:
                if bias is None:
                    bias = jnp.zeros_like(kernel, shape=kernel.shape[-1:])
                return sparse.convolve_biased(
                    x, kernel, bias, residual, sites.neighbours
                )
            y = _add_bias(sites.convolve(x, kernel), bias)
        else:
            norm = SiteNorm(self.normalization, self.axis_name, name="norm")
            y = norm(sites.convolve(x, kernel), sites.images, bias, train)
        y = y if residual is None else y + residual
        return leaky_relu(y, sparse.SLOPE)


def _add_bias(y, bias):
    return y if bias is None else (y + bias[None]).astype(y.dtype)


class SiteResidualBlock(nn.Module):
    """Adds its input to the result of two blocks and activates the sum.

    The second convolution has no bias, as in the original.
    """

    block: Callable[..., SiteBlock]

    @nn.compact
    def __call__(self, x: jax.Array, sites: Map, train: bool) -> jax.Array:
        """Maps [N, C] to the same shape."""
        y = self.block(name="convolution_1")(x, sites, train)
        return self.block(bias=False, name="convolution_2")(y, sites, train, x)


class SiteSeries(nn.Module):
    """Applies blocks of constant width to the same sites, one after the other.

    Attributes:
      block: makes a block from its keyword arguments.
      n_blocks: how many.
      residual: whether they are residual blocks.
      remat: what the backward pass recomputes instead of storing it.
    """

    block: Callable[..., SiteBlock]
    n_blocks: int
    residual: bool
    remat: Remat

    @nn.compact
    def __call__(self, x: jax.Array, sites: Map, train: bool) -> jax.Array:
        """Maps [N, C] to the same shape."""

        def make(name):
            if self.residual:
                unit: Any = SiteResidualBlock(self.block, name=name)
            else:
                unit = self.block(name=name)
            return lambda x: unit(x, sites, train)

        names = [f"blocks_{index}" for index in range(self.n_blocks)]
        return apply_in_turn(self, x, make, names, self.remat)
