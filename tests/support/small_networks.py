"""A network small enough to compile in a second, and weights without symmetries."""

import jax
import jax.numpy as jnp
import numpy as np

from ctjax import models
from ctjax.config.architecture import Architecture
from ctjax.config.fields import LossBalanceScheme
from ctjax.config.networks import SECTIONS, UResNetSparse
from ctjax.learning import losses
from ctjax.learning.minibatch import DenseMinibatch, make_input
from ctjax.learning.steps import StepOptions
from tests.support.site_minibatches import site_minibatch, to_images

SMALL = {
    "n_initial_filters": 2,
    "depth": 1,
    "blocks_per_layer": 1,
    "blocks_deepest_layer": 1,
    "blocks_final": 1,
    "bottleneck_deepest": 3,
    "filter_size_deepest": 3,
}

OTHERS = {
    Architecture.URESNET_V21: {
        name: value for name, value in SMALL.items() if name != "filter_size_deepest"
    },
    Architecture.URESNET3D: SMALL,
    Architecture.URESNET_TENSORFLOW: SMALL,
    Architecture.SEGFORMER: {
        "in_dims": (4, 8, 10, 16),
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 5, 8),
        "sr_ratios": (4, 2, 1, 1),
        "mlp_ratios": (2, 2, 2, 2),
        "decoder_dim": 6,
    },
    Architecture.URESNET_SPARSE: SMALL,
    Architecture.CVT: {
        "layer_embed": (4, 8),
        "blocks": (1, 1),
        "num_heads": (2, 4),
        "deepest_width": 8,
        "deepest_heads": 2,
    },
}
"""Options of the other networks, as small."""


def other_network(architecture, **changes):
    """Options of a small network of another architecture, with changes."""
    return SECTIONS[architecture](**(OTHERS[architecture] | changes))


def as_input(network, image, is_site=None):
    """What a network takes of images, and what makes images of its scores.

    Args:
      network: its options.
      image: [B, P, H, W] float32.
      is_site: [B, P, H, W] bool, of a sparse network; None for pixels with charge.

    Returns:
      The input, and `logits -> [B, P, H, W, K]`, 0 where there is no site.
    """
    if not isinstance(network, UResNetSparse):
        return image, lambda logits: logits
    label = np.zeros(image.shape, np.uint8)
    is_site = image != 0 if is_site is None else is_site
    minibatch, ids = site_minibatch(image, label, is_site, network)
    sites, shape = jax.tree.map(jnp.asarray, minibatch.sites), image.shape[2:]
    return sites, lambda logits: to_images(logits, minibatch.sites, ids, shape)


def random_variables(network, seed=0):
    """Variables with random biases and statistics too, positive where scales are."""
    model = models.make(network)
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.example_input())
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
