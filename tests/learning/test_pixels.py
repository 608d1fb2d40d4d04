"""Losses and counts over sites are those over the images that the sites are of."""

import jax
import numpy as np
import pytest

from ctjax.config.choices import LossAverage, LossBalanceScheme
from ctjax.config.networks import UResNetSparse
from ctjax.learning import losses, metrics, pixels
from tests.support.site_minibatches import random_events, site_minibatch, to_images

SHAPE = (6, 8)
NETWORK = UResNetSparse(depth=1, filter_size_deepest=1)


@pytest.fixture(scope="module")
def minibatch():
    """Four events in two parts, of which one does not count and one has no site.

    Some sites have no charge, and some pixels beyond the sites are no background.
    """
    charge, label, is_site = random_events(SHAPE, 4, density=0.3)
    is_site[2] = False
    charge = np.where(is_site, charge, 0)
    charge[0, 0, ::2] = 0
    mask = np.array([1, 0, 1, 1], np.float32)
    made, ids = site_minibatch(charge, label, is_site, NETWORK, parts=2, mask=mask)
    logits = np.random.default_rng(1).normal(size=(*ids.shape, 3)).astype(np.float32)

    def dense(values):
        return to_images(values, made.sites, ids, SHAPE)

    return made.sites, logits, mask, dense, label


FAST = {(LossBalanceScheme.FOCAL, False), (LossBalanceScheme.EVEN, True)}
LOSSES = [
    pytest.param(
        *(scheme, only, average),
        marks=[]
        if (scheme, only) in FAST and average is LossAverage.WEIGHTS
        else pytest.mark.slow,
    )
    for scheme in LossBalanceScheme
    for only in (False, True)
    for average in LossAverage
]


@pytest.mark.parametrize(("scheme", "only", "average"), LOSSES)
def test_losses_and_their_gradients(minibatch, scheme, only, average):
    sites, logits, mask, dense, label = minibatch
    loss = losses.make_loss(scheme, only, average=average)

    def of_sites(logits):
        return loss(logits, sites.label, mask, sites.charge, sites)

    def of_images(logits):
        return loss(dense(logits), label, mask, dense(sites.charge))

    found, gradient = jax.jit(jax.value_and_grad(of_sites))(logits)
    expected, other = jax.jit(jax.value_and_grad(of_images))(logits)
    assert found == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, other, atol=1e-6)
    assert np.abs(other).max() > 1e-4


def test_the_labels_beyond_the_sites_are_counted(minibatch):
    *_, dense, label = minibatch
    sites = minibatch[0]
    assert np.any(label != dense(sites.label))
    assert sites.empty[..., 1:].any()


def test_counts_are_those_of_images(minibatch):
    sites, logits, _, dense, label = minibatch
    prediction = logits.argmax(-1).astype(np.uint8)
    found = jax.jit(pixels.count_site_classes)(prediction, sites.label, sites)
    expected = jax.jit(metrics.confusion)(dense(prediction), label)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    assert np.asarray(expected).all((0, 1)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_of_its_event(minibatch, value):
    sites, logits, *_ = minibatch
    are_finite = jax.jit(pixels.are_finite)
    for part, event in ((0, 0), (0, 1), (1, 1)):
        bad = logits.copy()
        bad[part, np.flatnonzero(sites.levels[0].image[part] // 3 == event)[0], 1] = (
            value
        )
        # What a place without a site has is nobody's.
        bad[:, -1] = value
        found = np.asarray(are_finite(bad, sites)).tolist()
        assert found == [number != 2 * part + event for number in range(4)]
