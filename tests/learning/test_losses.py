"""The loss: by hand on 2 x 2 images, and where classes or events are absent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.choices import LossAverage, LossBalanceScheme
from ctjax.learning.losses import make_loss, pixel_cross_entropy
from tests.support import small_networks

SCHEMES = list(LossBalanceScheme)


def random_minibatch(events=3, side=4, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(events, 3, side, side, 3)).astype(np.float32)
    label = random.integers(0, 3, (events, 3, side, side))
    return jnp.asarray(logits), jnp.asarray(label)


def one_plane_of_four_pixels():
    """Labels 0, 0, 1, 2 on every plane; each pixel's own class has probability 1/2."""
    label = jnp.broadcast_to(jnp.array([[0, 0], [1, 2]]), (1, 3, 2, 2))
    probability = jnp.where(jax.nn.one_hot(label, 3) == 1, 0.5, 0.25)
    return jnp.log(probability), label


@pytest.mark.parametrize("scheme", SCHEMES)
def test_uniform_logits_cost_log_three_per_plane(scheme):
    _, label = random_minibatch()
    logits = jnp.full((*label.shape, 3), 7.0)
    loss = make_loss(scheme)(logits, label, jnp.ones(3))
    np.testing.assert_allclose(loss, 3 * np.log(3), rtol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "weights"),
    [
        (LossBalanceScheme.NONE, [1, 1, 1, 1]),
        (LossBalanceScheme.LIGHT, [1, 1, 1.5, 10]),
        (LossBalanceScheme.EVEN, [1 / 3, 1 / 3, 1 / 2, 1 / 2]),  # 1 / (pixels + 1)
        (LossBalanceScheme.FOCAL, [0.64, 0.04, 0.01, 0.49]),  # (1 - probability)^2
    ],
)
def test_weights_by_hand(scheme, weights):
    _, label = one_plane_of_four_pixels()
    own = np.array([0.2, 0.8, 0.9, 0.3])
    probability = np.repeat((1 - own)[:, None] / 2, 3, 1)
    probability[range(4), [0, 0, 1, 2]] = own
    logits = jnp.broadcast_to(
        jnp.log(probability).reshape(1, 1, 2, 2, 3), (1, 3, 2, 2, 3)
    ).astype(jnp.float32)
    loss = make_loss(scheme)(logits, label, jnp.ones(1))
    expected = 3 * np.average(-np.log(own), weights=weights)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "weights"),
    [
        (LossBalanceScheme.LIGHT, [1, 1, 1.5, 10]),
        (LossBalanceScheme.FOCAL, [1 / 12] * 4),  # (1 - probability)^2 / 3
    ],
)
def test_average_over_pixels_by_hand(scheme, weights):
    logits, label = one_plane_of_four_pixels()
    loss = make_loss(scheme, average=LossAverage.PIXELS)
    expected = 3 * np.mean(weights) * np.log(2)
    np.testing.assert_allclose(loss(logits, label, jnp.ones(1)), expected, rtol=1e-5)
    # An event of mask 0 is none of the pixels.
    doubled = [jnp.concatenate([part, part]) for part in (logits, label)]
    masked = loss(*doubled, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(masked, expected, rtol=1e-5)


def test_cross_entropy_by_hand():
    logits, label = one_plane_of_four_pixels()
    np.testing.assert_allclose(
        pixel_cross_entropy(logits, label), np.full((1, 3, 2, 2), np.log(2)), rtol=1e-6
    )


def test_cross_entropy_of_huge_logits_is_finite():
    logits = jnp.array([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]])
    np.testing.assert_allclose(
        pixel_cross_entropy(logits, jnp.array([0, 0])), [0.0, 2e4]
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_masked_events_do_not_count(scheme):
    logits, label = random_minibatch()
    loss = jax.value_and_grad(make_loss(scheme))
    kept, kept_gradient = loss(logits[:2], label[:2], jnp.ones(2))
    # The masked event must not even be counted among the pixels of a class.
    value, gradient = loss(logits, label.at[2].set(0), jnp.array([1.0, 1.0, 0.0]))
    unmasked = make_loss(scheme)(logits, label.at[2].set(0), jnp.ones(3))
    np.testing.assert_allclose(value, kept, rtol=1e-6)
    np.testing.assert_allclose(gradient[:2], kept_gradient, rtol=1e-5, atol=1e-8)
    assert not np.any(gradient[2])
    assert abs(unmasked - kept) > 1e-3


@pytest.mark.parametrize("absent", [0, 1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_absent_class_is_finite(scheme, absent):
    logits, label = random_minibatch()
    label = jnp.where(label == absent, (absent + 1) % 3, label)
    value, gradient = jax.value_and_grad(make_loss(scheme))(logits, label, jnp.ones(3))
    assert np.isfinite(value) and value > 0
    assert np.isfinite(gradient).all() and np.any(gradient)


def test_focal_weights_are_constant_in_the_gradient():
    logits, label = random_minibatch(events=1)
    mask = jnp.ones(1)
    own = jax.nn.one_hot(label, 3)
    weights = jnp.square(1 - jnp.sum(own * jax.nn.softmax(logits), -1))
    weights = weights / weights.sum((0, 2, 3), keepdims=True)
    expected = weights[..., None] * (jax.nn.softmax(logits) - own)
    gradient = jax.grad(make_loss(LossBalanceScheme.FOCAL))(logits, label, mask)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_schemes_differ():
    logits, label = random_minibatch()
    values = [float(make_loss(s)(logits, label, jnp.ones(3))) for s in SCHEMES]
    assert len({round(value, 4) for value in values}) == len(SCHEMES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_charged_pixels_only(scheme):
    logits, label = random_minibatch()
    image = jnp.asarray(np.random.default_rng(5).integers(0, 2, label.shape))
    mask = jnp.ones(3)
    loss = make_loss(scheme, charged_pixels_only=True)
    value = loss(logits, label, mask, image)
    # What lies under pixels without charge is of no account, and elsewhere it is.
    empty = image[..., None] == 0
    np.testing.assert_allclose(
        loss(jnp.where(empty, 3 * logits, logits), label, mask, image), value, rtol=1e-6
    )
    np.testing.assert_allclose(
        loss(logits, jnp.where(image == 0, 0, label), mask, image), value, rtol=1e-6
    )
    assert (
        abs(loss(jnp.where(empty, logits, 3 * logits), label, mask, image) - value)
        > 0.1
    )
    assert abs(make_loss(scheme)(logits, label, mask, image) - value) > 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_plane_without_charge_contributes_nothing(scheme):
    logits, label = random_minibatch()
    image = jnp.ones(label.shape).at[:, 1].set(0)
    loss = make_loss(scheme, charged_pixels_only=True)
    value, gradient = jax.value_and_grad(loss)(logits, label, jnp.ones(3), image)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert not np.any(gradient[:, 1]) and np.any(gradient[:, 0])


def test_loss_of_charged_pixels_leaves_the_others_out():
    batch = small_networks.random_minibatch((16, 24), 2)
    charge = jnp.asarray(batch.image)
    random = np.random.default_rng(1)
    logits = jnp.asarray(random.normal(size=(*charge.shape, 3)), jnp.float32)
    label, mask = jnp.asarray(batch.label), jnp.ones(2)
    noise = jnp.where(charge[..., None] == 0, 7.0 * logits[..., ::-1], logits)
    for scheme in LossBalanceScheme:
        only = make_loss(scheme, charged_pixels_only=True)
        every = make_loss(scheme)
        a, b = only(logits, label, mask, charge), only(noise, label, mask, charge)
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert not np.allclose(every(logits, label, mask), every(noise, label, mask))
        assert not np.allclose(a, every(logits, label, mask))
    empty = make_loss(LossBalanceScheme.LIGHT, charged_pixels_only=True)
    assert float(empty(logits, label, mask, jnp.zeros_like(charge))) == 0.0
