"""A network small enough to compile in a second, and weights without symmetries."""

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.models import UResNet

SMALL = {
    "n_initial_filters": 2,
    "depth": 1,
    "blocks_per_layer": 1,
    "blocks_deepest_layer": 1,
    "blocks_final": 1,
    "bottleneck_deepest": 3,
    "filter_size_deepest": 3,
}


def random_variables(network, seed=0):
    """Variables with random biases and statistics too, positive where scales are."""
    image = jnp.zeros((1, 3, 2**network.depth, 2**network.depth))
    shapes = jax.eval_shape(UResNet(network).init, jax.random.key(0), image)
    random = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key in ("var", "scale"):
            values = random.uniform(0.5, 1.5, leaf.shape)
        else:
            values = random.normal(0, 0.3, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def random_minibatch(shape, events, seed=0):
    """Events of random classes [B, P, *shape], charged but for background."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, (events, 3, *shape)).astype(np.uint8)
    return {
        "image": (label * random.uniform(1, 3, label.shape)).astype(np.float32),
        "label": label,
        "mask": np.ones(events, np.float32),
        "stop": np.zeros(events, np.float32),
    }
