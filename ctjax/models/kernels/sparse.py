"""Computes convolutions of lists of active sites; base/sites.py describes their tables.

What is summed is gathered, on the way back too, since the tables say for every site
where it is needed: nothing is scattered. Sums are float32. Of N sites, number N is no
site and counts as zeros; places of a list without a site are never referred to. Where
cpu.c could be built, its functions compute on CPUs what they take.
"""

import functools

import jax
import jax.numpy as jnp

from ctjax.models.kernels import cpu_sparse
from ctjax.models.kernels.convolution import on_cpu

SLOPE = 1 / 3  # of LeakyReLU: SparseConvNet's default; cpu_sparse.h has it, too

MAX_ROW = 128  # features of all neighbours that are worth gathering at once on CPUs


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array, neighbours: jax.Array) -> jax.Array:
    """Convolves the sites with those around them.

    Args:
      x: [N, C].
      kernel: [T, C, F]; it is rounded to the type of `x`. Where it is differentiated
        under `shard_map`, it must be each device's own, see `sharding.varying`.
      neighbours: [N, T] int32, mutual, see `sites.Level`.

    Returns:
      [N, F], of the type of `x`.
    """
    return _product(x, kernel, neighbours)


def _convolve_forward(x, kernel, neighbours):
    return convolve(x, kernel, neighbours), (x, kernel, neighbours)


def _convolve_backward(residuals, gradient):
    x, kernel, neighbours = residuals
    of_x = convolve(gradient, _transposed(kernel[::-1]), neighbours)
    of_kernel = _outer_product(x, gradient, neighbours)
    return of_x, of_kernel.astype(kernel.dtype), None


convolve.defvjp(_convolve_forward, _convolve_backward)


@jax.custom_vjp
def convolve_biased(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    neighbours: jax.Array,
) -> jax.Array:
    """Convolves, adds a bias and perhaps other features, and activates.

    Args:
      x: [N, C].
      kernel: as in `convolve`.
      bias: [F] float32.
      residual: [N, F], or None.
      neighbours: as in `convolve`.

    Returns:
      [N, F], of the type of `x`.
    """
    if cpu_sparse.serve(x, kernel.shape[2]):
        biased = on_cpu(cpu_sparse.product_biased, _plain_biased)
        return biased(x, kernel, bias, residual, neighbours)
    return _plain_biased(x, kernel, bias, residual, neighbours)


def _plain_biased(x, kernel, bias, residual, neighbours):
    y = _float_product(x, kernel, neighbours) + bias[None]
    if residual is not None:
        y = y + residual
    return jnp.where(y > 0, y, SLOPE * y).astype(x.dtype)


def _biased_forward(x, kernel, bias, residual, neighbours):
    y = convolve_biased(x, kernel, bias, residual, neighbours)
    return y, (x, kernel, y, residual is not None, neighbours)


def _biased_backward(residuals, gradient):
    x, kernel, y, has_residual, neighbours = residuals
    # The result has the sign of what was activated.
    gradient = jnp.where(y > 0, gradient, SLOPE * gradient)
    of_x, of_kernel, _ = _convolve_backward((x, kernel, neighbours), gradient)
    of_bias = gradient.sum(0, jnp.float32)
    return of_x, of_kernel, of_bias, gradient if has_residual else None, None


convolve_biased.defvjp(_biased_forward, _biased_backward)


@jax.custom_vjp
def coarsen(
    x: jax.Array, kernel: jax.Array, parts: jax.Array, place: jax.Array
) -> jax.Array:
    """Makes the sites of the next level of those that are part of each.

    Args:
      x: [N, C].
      kernel: [T, C, F], as in `convolve`.
      parts: [M, T] int32, see `sites.Coarsening`.
      place: [N] int32, likewise.

    Returns:
      [M, F], of the type of `x`.
    """
    del place  # of the gradient alone
    return _product(x, kernel, parts)


def _coarsen_forward(x, kernel, parts, place):
    return coarsen(x, kernel, parts, place), (x, kernel, parts, place)


def _coarsen_backward(residuals, gradient):
    x, kernel, parts, place = residuals
    of_x = refine(gradient, _transposed(kernel), parts, place)
    of_kernel = _outer_product(x, gradient, parts)
    return of_x, of_kernel.astype(kernel.dtype), None, None


coarsen.defvjp(_coarsen_forward, _coarsen_backward)


@jax.custom_vjp
def refine(
    x: jax.Array, kernel: jax.Array, parts: jax.Array, place: jax.Array
) -> jax.Array:
    """Makes the sites of a level of the one of the next that each is part of.

    Args:
      x: [M, C].
      kernel: [T, C, F], as in `convolve`.
      parts: [M, T] int32, see `sites.Coarsening`.
      place: [N] int32, likewise.

    Returns:
      [N, F], of the type of `x`; zeros for places without a site.
    """
    del parts  # of the gradient alone
    if cpu_sparse.serve(x, kernel.shape[2]):
        refine = functools.partial(cpu_sparse.product, is_refined=True)
        return on_cpu(refine, _plain_refine)(x, kernel, place)
    return _plain_refine(x, kernel, place)


def _plain_refine(x, kernel, place):
    num_parts, inputs, outputs = kernel.shape
    wide = kernel.astype(x.dtype).swapaxes(0, 1).reshape(inputs, num_parts * outputs)
    of_parts = _dot(x, wide).astype(x.dtype).reshape(len(x) * num_parts, outputs)
    return _gather(of_parts, place)


def _refine_forward(x, kernel, parts, place):
    return refine(x, kernel, parts, place), (x, kernel, parts, place)


def _refine_backward(residuals, gradient):
    x, kernel, parts, place = residuals
    of_x = coarsen(gradient, _transposed(kernel), parts, place)
    of_kernel = _transposed(_outer_product(gradient, x, parts))
    return of_x, of_kernel.astype(kernel.dtype), None, None


refine.defvjp(_refine_forward, _refine_backward)


@jax.custom_vjp
def lay_out(x: jax.Array, site: jax.Array, place: jax.Array) -> jax.Array:
    """Puts the sites of a level where they are in its images.

    Args:
      x: [N, F].
      site: [M] int32, the site in each pixel of all images, see `sites.Cells`.
      place: [N] int32, likewise.

    Returns:
      [M, F], of the type of `x`; zeros where there is no site.
    """
    del place  # of the gradient alone
    return _gather(x, site)


def _lay_out_forward(x, site, place):
    return lay_out(x, site, place), place


def _lay_out_backward(place, gradient):
    return _gather(gradient, place), None, None


lay_out.defvjp(_lay_out_forward, _lay_out_backward)


def _product(x, kernel, table):
    """Sums over t what x [N, C] has at table[m, t] times kernel[t], [M, F]."""
    if cpu_sparse.serve(x, kernel.shape[2]):
        return on_cpu(cpu_sparse.product, _plain_product)(x, kernel, table)
    return _plain_product(x, kernel, table)


def _plain_product(x, kernel, table):
    return _float_product(x, kernel, table).astype(x.dtype)


def _float_product(x, kernel, table):
    """Computes the same by XLA, not rounded to the type of x."""
    kernel = kernel.astype(x.dtype)
    if _is_short(x, table):
        return _whole_product(x, kernel, table)
    return on_cpu(_product_by_neighbour, _whole_product)(x, kernel, table)


def _is_short(x, table):
    return table.shape[1] * x.shape[1] <= MAX_ROW


def _whole_product(x, kernel, table):
    """Gathers all neighbours: one product, but all are in memory."""
    num_neighbours, inputs, outputs = kernel.shape
    rows = _gather(x, table).reshape(table.shape[0], num_neighbours * inputs)
    return _dot(rows, kernel.reshape(num_neighbours * inputs, outputs))


def _product_by_neighbour(x, kernel, table):
    """Gathers one neighbour of all sites after the other."""

    def add(total, one):
        kernel, column = one
        return total + _dot(_gather(x, column), kernel), None

    # Like x: on several devices, its own on each.
    shape = (table.shape[0], kernel.shape[2])
    zeros = jnp.zeros_like(x, jnp.float32, shape=shape)
    return jax.lax.scan(add, zeros, (kernel, table.T))[0]


def _outer_product(x, gradient, table):
    """Sums over m what x has at table[m, t] times gradient[m], [T, C, F] float32."""
    if cpu_sparse.serve(x, gradient.shape[1]):
        in_c = cpu_sparse.outer_product
        return on_cpu(in_c, _plain_outer_product)(x, gradient, table)
    return _plain_outer_product(x, gradient, table)


def _plain_outer_product(x, gradient, table):
    if _is_short(x, table):
        return _whole_outer_product(x, gradient, table)
    by_neighbour = _outer_product_by_neighbour
    return on_cpu(by_neighbour, _whole_outer_product)(x, gradient, table)


def _whole_outer_product(x, gradient, table):
    num_neighbours, inputs = table.shape[1], x.shape[1]
    rows = _gather(x, table).reshape(table.shape[0], num_neighbours * inputs)
    product = _dot(rows, gradient, over=0)
    return product.reshape(num_neighbours, inputs, gradient.shape[1])


def _outer_product_by_neighbour(x, gradient, table):
    return jax.lax.map(
        lambda column: _dot(_gather(x, column), gradient, over=0), table.T
    )


def _gather(x, places):
    """Returns the rows of x at some places, zeros where there is none."""
    return x.at[places].get(mode="fill", fill_value=0)


def _dot(x, y, over=1):
    """Contracts an axis of x with the first of y, to float32."""
    return jax.lax.dot_general(
        x, y, (((over,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )


def _transposed(kernel):
    return kernel.swapaxes(1, 2)
