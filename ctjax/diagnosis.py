"""Where numbers are largest, when they are not finite any more."""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

NUM_NAMED = 5


def largest_activations(
    model: nn.Module, variables: dict[str, Any], image: np.ndarray
) -> str:
    """Names the modules whose outputs are largest; of equals the first to compute.

    An output that is not a number counts as infinite.

    Args:
      model: the network, without an axis.
      variables: its parameters and running statistics, on the host.
      image: [B, P, H, W] float32, as the network sees it.

    Returns:
      One line, "net_core/down_blocks: 1.2e+30, ...".
    """
    paths: list[tuple[str, ...]] = []

    @jax.jit
    def largest(variables, image):
        _, captured = model.apply(
            variables,
            image,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )
        outputs = flax.traverse_util.flatten_dict(captured["intermediates"])
        paths[:] = outputs  # in the order of computing, which a jitted dict loses
        return [
            jnp.stack(
                [jnp.max(jnp.abs(x)).astype(jnp.float32) for x in jax.tree.leaves(kept)]
            )
            for kept in outputs.values()
        ]

    values = jax.device_get(largest(variables, image))
    named = {}
    for path, value in zip(paths, values, strict=True):
        name = "/".join(part for part in path if part != "__call__") or "logits"
        named[name] = float(np.max(value))
    order = sorted(named, key=lambda n: -np.nan_to_num(named[n], nan=np.inf))
    return ", ".join(f"{name}: {named[name]:.3g}" for name in order[:NUM_NAMED])
