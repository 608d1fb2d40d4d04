"""Each field of the section `network.vertex`, changed, changes what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.config.fields import Network
from ctjax.config.heads import Vertex, active_heads
from ctjax.learning.head_losses import make_head_loss
from ctjax.learning.heads import Outputs
from tests.support.head_gradients import IMAGE, gradient
from tests.support.head_labels import random_labels
from tests.support.small_networks import SMALL

SMALL_HEAD = {"active": True, "n_filters": 3, "n_layers": 1, "depth": 1}


def network(**changes):
    return Network(**SMALL, vertex=Vertex(**SMALL_HEAD | changes))


def shapes(**changes):
    """Shapes of the parameters, and of what the network returns."""
    model = models.make(network(**changes))
    found = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    returned = jax.eval_shape(model.apply, found, IMAGE)
    return jax.tree.map(lambda leaf: leaf.shape, (found["params"], returned))


def losses(**changes):
    active = active_heads(network(**changes))
    outputs = Outputs(jnp.zeros((2, 3, 8, 16, 3)), None, jnp.zeros((2, 3, 8, 16, 3)))
    found = make_head_loss(active)(outputs, random_labels(2, (8, 16)), jnp.ones(2))
    return np.array([found["vertex/detection"], found["vertex/localization"]])


def test_active():
    params, returned = shapes(active=False)
    assert not any("vertex" in name for name in params)
    assert returned == (2, 3, 8, 16, 3)
    params, returned = shapes()
    assert {"vertex_input", "vertex_layers", "bottleneck_vertex"} <= set(params)
    assert returned == ((2, 3, 8, 16, 3), None, (2, 3, 8, 16, 3))


def test_depth():
    params, returned = shapes(depth=0)
    assert returned[2] == (2, 3, 4, 8, 3)
    assert params["vertex_input"]["kernel"] == (1, 1, 4, 3)


def test_n_filters():
    assert shapes(n_filters=5)[0]["bottleneck_vertex"]["kernel"] == (1, 1, 5, 3)


def test_n_layers():
    assert set(shapes(n_layers=2)[0]["vertex_layers"]) == {"blocks_0", "blocks_1"}
    assert "vertex_layers" not in shapes(n_layers=0)[0]


def test_weight():
    np.testing.assert_allclose(losses(weight=3.0), 3 * losses(), rtol=1e-6)


def test_l_det():
    np.testing.assert_allclose(losses(l_det=0.3) / losses(), [3, 1], rtol=1e-5)


def test_l_coord():
    np.testing.assert_allclose(losses(l_coord=0.3) / losses(), [1, 3], rtol=1e-5)


@pytest.mark.slow
def test_detach():
    own, others = gradient(Vertex(**SMALL_HEAD), "vertex")
    assert own > 0 and others == 0
    own, others = gradient(Vertex(**SMALL_HEAD, detach=False), "vertex")
    assert own > 0 and others > 0
