"""Holds what training carries from step to step."""

from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctjax.config.fields import Precision
from ctjax.learning.precision import POLICIES, LossScale, Policy, first_scale


@flax.struct.dataclass
class TrainState:
    """Holds all that a checkpoint must hold to go on exactly.

    Attributes:
      step: updates done, scalar int32.
      params: trainable parameters, float32.
      batch_stats: running statistics, float32; empty without batch normalization.
      opt_state: of the optax transformation.
      loss_scale: of the next step.
      halted: whether an update that was not finite has stopped all later ones; scalar
        bool, false in every checkpoint.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    loss_scale: LossScale
    halted: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """Returns the network's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model: Any, seed: int) -> dict[str, Any]:
    """Draws the initial parameters on the host.

    Drawn by `model.init`, a full-size network would take a minute to compile, for
    hundreds of draws in one program; here the program is only traced for its shapes.

    Args:
      model: the network, one of `ctjax.models`.
      seed: of the random numbers.

    Returns:
      "params" and "batch_stats" (empty without batch normalization), float32: uniform
      within the network's `initial_bounds`, as the original draws them; otherwise
      scales and variances 1, biases and means 0.
    """
    example = model.example_input()
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), example)
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(shapes)
    bounds = model.initial_bounds({path: leaf.shape for path, leaf in flat.items()})
    drawn = {}
    for index, path in enumerate(sorted(flat)):
        shape = flat[path].shape
        if path in bounds:
            generator = np.random.default_rng([seed, index])
            value = generator.uniform(-bounds[path], bounds[path], shape)
        else:
            value = np.full(shape, path[-1] in ("scale", "var"))
        drawn[path] = jnp.asarray(value, jnp.float32)
    variables = flax.traverse_util.unflatten_dict(drawn)
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }


def make_state(
    variables: dict[str, Any],
    optimizer: optax.GradientTransformation,
    policy: Policy = POLICIES[Precision.FLOAT32],
) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.jit(optimizer.init)(variables["params"]),
        loss_scale=first_scale(policy),
        halted=jnp.zeros((), bool),
    )


def count_parameters(params: Any) -> int:
    """Returns the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
