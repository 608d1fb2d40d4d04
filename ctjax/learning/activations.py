"""Names the modules with the largest activations, where numbers are not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

NUM_NAMED = 5

COMPUTING_METHODS = ("__call__", "convolve")
"""Methods of modules whose result is a module's output; blocks call convolutions by
the second."""


def largest_activations(
    model: nn.Module, variables: dict[str, Any], image: Any, train: bool
) -> str:
    """Names the modules whose outputs are largest; of equals the first to compute.

    An output with a single number that is not finite counts as infinite.

    Args:
      model: the network, without an axis.
      variables: its parameters and running statistics, on the host.
      image: as the network takes it, on the host: [B, P, H, W] float32, or sites.
      train: whether normalization takes the minibatch's statistics, as in training.

    Returns:
      One line, "net_core/down_blocks: 1.2e+30, ...".
    """
    names: list[str] = []

    @jax.jit
    def largest(variables, image):
        values = []

        def note(method, arguments, keywords, context):
            outputs = method(*arguments, **keywords)
            if context.method_name in COMPUTING_METHODS:
                names.append("/".join(context.module.path) or "logits")
                found = [_magnitude(leaf) for leaf in jax.tree.leaves(outputs)]
                values.append(_magnitude(jnp.stack(found)))
            return outputs

        with nn.intercept_methods(note):
            mutable = ["batch_stats"] if train else False
            model.apply(variables, image, train=train, mutable=mutable)
        return jnp.stack(values)

    values = np.asarray(largest(variables, image))
    order = np.argsort(-np.nan_to_num(values, nan=np.inf), kind="stable")
    return ", ".join(f"{names[n]}: {values[n]:.3g}" for n in order[:NUM_NAMED])


def _magnitude(array: jax.Array) -> jax.Array:
    """Returns the largest magnitude, float32; NaN where there is any NaN."""
    # Not by the maximum alone: compiled for a CPU, it drops NaN.
    largest = jnp.max(jnp.abs(array)).astype(jnp.float32)
    return jnp.where(jnp.isnan(array).any(), jnp.nan, largest)
