"""The activation of the network's blocks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

SLOPE = 0.01  # of LeakyReLU: torch.nn.functional.leaky_relu's default


def leaky_relu(x: jax.Array, slope: float = SLOPE) -> jax.Array:
    """Applies LeakyReLU; its slope at 0 is that of negative numbers, as in torch.

    The gradient is computed from the result, which the next convolution stores anyway.
    """
    result: Any = _leaky_relu(x, slope)
    return result


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _leaky_relu(x, slope):
    return jnp.where(x > 0, x, slope * x)


def _leaky_relu_forward(x, slope):
    y = _leaky_relu(x, slope)
    return y, y


def _leaky_relu_backward(slope, y, gradient):
    # The result has the sign of x.
    return (jnp.where(y > 0, gradient, slope * gradient),)


_leaky_relu.defvjp(_leaky_relu_forward, _leaky_relu_backward)
