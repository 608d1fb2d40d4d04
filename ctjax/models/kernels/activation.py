"""The activation of the network's blocks."""

import jax
import jax.numpy as jnp

SLOPE = 0.01  # of LeakyReLU: torch.nn.functional.leaky_relu's default


@jax.custom_vjp
def leaky_relu(x: jax.Array) -> jax.Array:
    """Applies LeakyReLU; its slope at 0 is 0.01, as in torch.

    The gradient is computed from the result, which the next convolution stores anyway.
    """
    return jnp.where(x > 0, x, SLOPE * x)


def _leaky_relu_forward(x):
    y = leaky_relu(x)
    return y, y


def _leaky_relu_backward(y, gradient):
    # The result has the sign of x.
    return (jnp.where(y > 0, gradient, SLOPE * gradient),)


leaky_relu.defvjp(_leaky_relu_forward, _leaky_relu_backward)
