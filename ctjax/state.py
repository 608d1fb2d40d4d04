"""What training carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ctjax.constants import NUM_PLANES


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint must hold to go on exactly.

    Attributes:
      step: updates done, scalar int32.
      params: trainable parameters, float32.
      batch_stats: running statistics, float32; empty without batch normalization.
      opt_state: of the optax transformation.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The network's variables, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(
    model: nn.Module, image_shape: tuple[int, int], seed: int
) -> dict[str, Any]:
    """Draws the initial parameters.

    Args:
      model: the network.
      image_shape: (H, W) of its images.
      seed: of the random numbers.

    Returns:
      "params" and "batch_stats" (empty without batch normalization).
    """
    image = jax.ShapeDtypeStruct((1, NUM_PLANES, *image_shape), jnp.float32)

    # Compiled, the forward pass is dead code and only the draws remain.
    @jax.jit
    def init(key):
        return model.init(key, jnp.zeros(image.shape, image.dtype))

    variables = init(jax.random.key(seed))
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }


def make_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.jit(optimizer.init)(variables["params"]),
    )


def count_parameters(params: Any) -> int:
    """Returns the number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
