"""The first state of a training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import Network
from ctjax.learning.state import init_variables
from ctjax.models import UResNet


def largest_difference(a, b):
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.slow
def test_initial_parameters_depend_on_the_seed_and_match_flax_in_spread():
    config = Network(
        n_initial_filters=16,
        depth=2,
        blocks_per_layer=1,
        blocks_deepest_layer=1,
        blocks_final=0,
        bottleneck_deepest=4,
    )
    model = UResNet(config)
    first, again, other = (init_variables(model, seed) for seed in (0, 0, 1))
    assert largest_difference(first, again) == 0
    assert largest_difference(first, other) > 0.01
    flax_drawn = model.init(jax.random.key(0), jnp.zeros((1, 3, 8, 8)))
    assert jax.tree.structure(first) == jax.tree.structure(
        {"params": flax_drawn["params"], "batch_stats": flax_drawn["batch_stats"]}
    )
    path = ("net_core", "down_blocks", "blocks_0", "convolution_1", "conv", "kernel")
    ours, theirs = first["params"], flax_drawn["params"]
    for name in path:
        ours, theirs = ours[name], theirs[name]
    assert float(jnp.std(ours)) == pytest.approx(float(jnp.std(theirs)), rel=0.05)
    assert float(jnp.abs(ours).max()) == pytest.approx(
        float(jnp.abs(theirs).max()), rel=0.02
    )
