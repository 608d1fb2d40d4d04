"""Each field of `network.classification`, changed, changes what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.config.fields import Network
from ctjax.config.heads import Classification, active_heads
from ctjax.learning.head_losses import make_head_loss
from ctjax.learning.heads import Outputs
from tests.support.head_gradients import IMAGE, gradient
from tests.support.head_labels import random_labels
from tests.support.small_networks import SMALL

SMALL_HEAD = {"active": True, "n_filters": 3, "n_layers": 1}


def shapes(**changes):
    """Shapes of the parameters, and of what the network returns."""
    head = Classification(**SMALL_HEAD | changes)
    model = models.make(Network(**SMALL, classification=head))
    found = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    returned = jax.eval_shape(model.apply, found, IMAGE)
    return jax.tree.map(lambda leaf: leaf.shape, (found["params"], returned))


def loss(weight):
    head = Classification(**SMALL_HEAD, weight=weight)
    active = active_heads(Network(**SMALL, classification=head))
    outputs = Outputs(jnp.zeros((2, 3, 8, 16, 3)), jnp.zeros((2, 4)))
    found = make_head_loss(active)(outputs, random_labels(2, (8, 16)), jnp.ones(2))
    return float(found["event_label"])


def test_active():
    params, returned = shapes(active=False)
    assert not any("classif" in name for name in params)
    assert returned == (2, 3, 8, 16, 3)
    params, returned = shapes()
    # All planes' features enter, where the network is deepest.
    assert params["classifier_input"]["kernel"] == (1, 1, 3 * 4, 3)
    assert {"classifier", "bottleneck_classifer"} <= set(params)
    assert returned == ((2, 3, 8, 16, 3), (2, 4), None)


def test_n_filters():
    assert shapes(n_filters=5)[0]["bottleneck_classifer"]["kernel"] == (1, 1, 5, 4)


def test_n_layers():
    assert set(shapes(n_layers=2)[0]["classifier"]) == {"blocks_0", "blocks_1"}


def test_weight():
    assert loss(weight=0.03) == pytest.approx(0.03 * np.log(4), rel=1e-5)


@pytest.mark.slow
def test_detach():
    own, others = gradient(Classification(**SMALL_HEAD), "classification")
    assert own > 0 and others == 0
    head = Classification(**SMALL_HEAD, detach=False)
    own, others = gradient(head, "classification")
    assert own > 0 and others > 0
