"""A network small enough to compile in a second, and weights without symmetries."""

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.config.fields import LossBalanceScheme
from ctjax.learning import losses
from ctjax.learning.minibatch import DenseMinibatch, make_input
from ctjax.learning.steps import StepOptions
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
    image = (label * random.uniform(1, 3, label.shape)).astype(np.float32)
    return DenseMinibatch(image, label, np.ones(events, np.float32))


def nobody_stops(minibatch):
    """Requests to stop [B] of a training step, none."""
    return np.zeros(len(minibatch.mask), np.float32)


def step_options(shape, scheme=LossBalanceScheme.LIGHT, axis_name=None, **changes):
    """Options of the plainest steps, with changes."""
    values = {
        "loss_fn": losses.make_loss(scheme, axis_name=axis_name),
        "network_input": make_input(shape, False),
        "mask_empty_pixels": False,
        "axis_name": axis_name,
        "accumulation": 1,
        "bfloat16_gradients": False,
        "skip_nonfinite": False,
        "is_scaled": False,
        **changes,
    }
    return StepOptions(**values)
