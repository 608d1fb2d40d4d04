"""Declares what numbers the network computes in, and scales the loss for float16.

Parameters, statistics, softmax and loss are float32 under every policy.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from ctjax.config.fields import Precision

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps in a row without overflow after which the scale doubles."""

SMALLEST_SCALE = 1.0
"""Where gradients overflow without any help, the training has gone wrong."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """Describes a number format, from the configuration to the loss.

    Attributes:
      compute_type: of convolutions and activations.
      is_scaled: whether the loss is scaled in training. Most gradients of a pixel are
        below float16's smallest number, 6e-8: the loss is a mean over millions.
    """

    compute_type: jnp.dtype
    is_scaled: bool = False


POLICIES = {
    Precision.FLOAT32: Policy(jnp.dtype("float32")),
    Precision.BFLOAT16: Policy(jnp.dtype("bfloat16")),
    Precision.MIXED: Policy(jnp.dtype("float16"), is_scaled=True),
    Precision.FLOAT16: Policy(jnp.dtype("float16")),  # of inference alone
}


@flax.struct.dataclass
class LossScale:
    """Holds the factor on the loss, which gradients are divided by.

    Attributes:
      value: scalar float32, a power of 2; 1 where nothing is scaled.
      good_steps: steps since it changed, scalar int32.
    """

    value: jax.Array
    good_steps: jax.Array


def first_scale(policy: Policy) -> LossScale:
    """Returns the scale of the first step."""
    value = INITIAL_SCALE if policy.is_scaled else 1.0
    return LossScale(jnp.asarray(value, jnp.float32), jnp.zeros((), jnp.int32))


def next_scale(scale: LossScale, is_overflow: jax.Array) -> LossScale:
    """Halves the scale after an overflow, doubles it after many steps without one.

    Args:
      scale: of this step.
      is_overflow: whether this step's gradients were not finite, scalar bool.

    Source:
      Micikevicius et al., Mixed precision training, arXiv:1710.03740.
    """
    good_steps = jnp.where(is_overflow, 0, scale.good_steps + 1)
    is_due = good_steps == GROWTH_INTERVAL
    grown = jnp.where(is_due, scale.value * 2, scale.value)
    value = jnp.where(is_overflow, jnp.maximum(scale.value / 2, SMALLEST_SCALE), grown)
    return LossScale(value, jnp.where(is_due, 0, good_steps))
