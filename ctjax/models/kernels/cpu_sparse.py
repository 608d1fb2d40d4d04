"""Calls the convolutions of lists of sites of cpu.c (cpu_sparse.h), where it was built.

Of the neighbours, C multiplies those that exist.
"""

import jax
import jax.numpy as jnp

from ctjax.models.kernels import cpu


def serve(x: jax.Array, outputs: int) -> bool:
    """Says whether the functions here compute a convolution.

    Args:
      x: [N, C].
      outputs: features of the output.
    """
    return (
        x.dtype in (jnp.float32, jnp.bfloat16)
        and x.shape[1] % cpu.LANES == outputs % cpu.LANES == 0
        and jax.default_backend() == "cpu"
        and cpu.are_usable()
    )


def product(
    x: jax.Array, kernel: jax.Array, table: jax.Array, is_refined: bool = False
) -> jax.Array:
    """Sums over t what x [N, C] has at table[m, t] times kernel[t].

    Args:
      x: [N, C].
      kernel: [T, C, F] float32, rounded to the type of `x`.
      table: [M, T] int32; or [M], where `is_refined`: place m is part table[m] % T of
        site table[m] // T.
      is_refined: see `table`.

    Returns:
      [M, F], of the type of `x`.
    """
    return _convolve(cpu.CONVOLVE_SITES, x, kernel, table, is_refined=is_refined)


def product_biased(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    table: jax.Array,
) -> jax.Array:
    """Computes `product`, adds a bias [F] and perhaps [M, F], and activates the sum."""
    if residual is None:
        return _convolve(cpu.CONVOLVE_SITES_BIASED, x, kernel, table, bias)
    return _convolve(cpu.CONVOLVE_SITES_ADDED, x, kernel, table, bias, residual)


def _convolve(name, x, kernel, table, bias=None, residual=None, is_refined=False):
    products = cpu.how_to_compute(x, *([] if residual is None else [residual]))
    neighbours, inputs, outputs = kernel.shape
    shape = table.shape[0], outputs
    sizes = (x.shape[0], table.shape[0], neighbours, int(is_refined), inputs, outputs)
    numbers = (*sizes, cpu.vector_lanes(), products)
    operands = [table, x, kernel.astype(jnp.float32)]
    operands += [] if bias is None else [bias.astype(jnp.float32)]
    operands += [] if residual is None else [residual]
    return cpu.call(name, [shape], operands, numbers, like=x)[0]


def outer_product(x: jax.Array, gradient: jax.Array, table: jax.Array) -> jax.Array:
    """Sums over m what x has at table[m, t] times gradient[m].

    Args:
      x: [N, C].
      gradient: [M, F].
      table: [M, T] int32.

    Returns:
      [T, C, F] float32.
    """
    products = cpu.how_to_compute(x, gradient)
    (places, neighbours), inputs, outputs = table.shape, x.shape[1], gradient.shape[1]
    shape = (neighbours, inputs, outputs), jnp.float32
    sizes = (x.shape[0], places, neighbours, 0, inputs, outputs)
    numbers = (*sizes, cpu.vector_lanes(), products)
    operands = [table, x, gradient]
    return cpu.call(cpu.SITES_KERNEL_GRADIENT, [shape], operands, numbers, like=x)[0]
