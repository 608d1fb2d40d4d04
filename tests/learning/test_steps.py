"""The training step and the evaluation step, on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ctjax.config.fields import LossBalanceScheme, Network, Normalization
from ctjax.learning import steps
from ctjax.learning.state import init_variables, make_state
from ctjax.models import UResNet
from tests.support.small_networks import (
    nobody_stops,
    random_minibatch,
    step_options,
)

SHAPE = (16, 24)


def network(**changes):
    values = {
        "n_initial_filters": 2,
        "depth": 2,
        "blocks_per_layer": 1,
        "blocks_deepest_layer": 1,
        "blocks_final": 0,
        "bottleneck_deepest": 4,
        **changes,
    }
    return Network(**values)


def minibatch(events=2, seed=0):
    return random_minibatch(SHAPE, events, seed)


def make(model_network, accumulation=1, rule=None):
    model = UResNet(model_network)
    rule = rule or optax.sgd(0.1)
    state = make_state(init_variables(model, 0), rule)
    step = steps.make_train_step(
        model=model,
        optimizer=rule,
        schedule=lambda step: 0.1,
        options=step_options(SHAPE, accumulation=accumulation),
    )
    step = jax.jit(step)
    return model, state, lambda state, batch: step(state, batch, nobody_stops(batch))


def largest_difference(a, b):
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_steps_lower_the_loss_and_count():
    _, state, step = make(network(), rule=optax.adam(1e-2))
    batch = minibatch()
    losses_seen = []
    for _ in range(10):
        state, results = step(state, batch)
        losses_seen.append(float(results["loss"]))
    assert losses_seen[-1] < 0.9 * losses_seen[0]
    assert int(state.step) == 10
    assert float(results["grad_norm"]) > 0


def test_accumulation_equals_one_large_minibatch_without_normalization():
    # Scheme light divides by the sum of weights, which differs between the halves:
    # the same labels in both make the two ways equal.
    config = network(normalization=Normalization.NONE)
    batch = minibatch(2)
    twice = jax.tree.map(lambda x: np.concatenate([x, x[::-1]]), batch)
    _, state, large = make(config)
    _, _, parts = make(config, accumulation=2)
    state_large, results_large = large(state, twice)
    state_parts, results_parts = parts(state, twice)
    assert largest_difference(state_large.params, state.params) > 1e-3
    assert largest_difference(state_large.params, state_parts.params) < 1e-6
    np.testing.assert_allclose(
        results_large["metrics"], results_parts["metrics"], rtol=1e-5
    )


@pytest.mark.slow
def test_accumulation_carries_running_statistics_on():
    _, state, parts = make(network(), accumulation=2)
    _, _, single = make(network(), rule=optax.sgd(0.0))
    halves = [minibatch(2, seed) for seed in (0, 1)]
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), *halves)
    after, _ = parts(state, both)
    expected = state
    for half in halves:
        expected, _ = single(expected, half)
    assert largest_difference(after.batch_stats, state.batch_stats) > 1e-2
    assert largest_difference(after.batch_stats, expected.batch_stats) < 1e-5


def test_masked_events_change_nothing_in_evaluation():
    model, state, _ = make(network())
    evaluate = jax.jit(
        steps.make_eval_step(
            model=model,
            options=step_options(SHAPE, LossBalanceScheme.FOCAL),
            with_scores=False,
        )
    )
    batch = minibatch(3)
    padded = batch._replace(mask=np.array([1, 1, 0], np.float32))
    shorter = jax.tree.map(lambda x: x[:2], batch)
    full, short = (evaluate(state.variables, b) for b in (padded, shorter))
    np.testing.assert_allclose(full["loss"], short["loss"], rtol=1e-5)
    np.testing.assert_allclose(full["metrics"][:2], short["metrics"], rtol=1e-5)
    assert full["prediction"].dtype == jnp.uint8
    assert full["prediction"].shape == (3, 3, *SHAPE)


class _Spoilt(nn.Module):
    """Gives a charge as all three scores, with no number where it is 7."""

    @nn.compact
    def __call__(self, image, train):
        scores = jnp.where(image == 7, jnp.nan, image)
        return jnp.stack([scores] * 3, -1)


@pytest.mark.parametrize("with_loss", [True, False])
def test_an_event_without_numbers_has_no_metrics(with_loss):
    options = step_options(SHAPE)
    step = steps.make_eval_step(
        model=_Spoilt(), options=options, with_scores=False, with_loss=with_loss
    )
    batch = minibatch(3)
    batch.image[1, 2, 3, 0] = 7
    results = jax.jit(step)({}, batch)
    assert results["is_finite"].tolist() == [1, 0, 1]
    assert np.isnan(results["metrics"]).all(1).tolist() == [False, True, False]
    assert ("loss" in results) == with_loss


def test_train_step_donates_its_state():
    _, state, _ = make(network())
    model = UResNet(network())
    step = jax.jit(
        steps.make_train_step(
            model=model,
            optimizer=optax.sgd(0.1),
            schedule=lambda step: 0.1,
            options=step_options(SHAPE),
        ),
        donate_argnums=0,
    )
    step(state, minibatch(), nobody_stops(minibatch()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_empty_pixels_are_background_where_masked():
    logits = jnp.zeros((1, 1, 1, 2, 3)).at[..., 2].set(1.0)
    charge = jnp.array([[[[0.0, 5.0]]]])
    assert steps.predicted_class(logits, charge, False).tolist() == [[[[2, 2]]]]
    assert steps.predicted_class(logits, charge, True).tolist() == [[[[0, 2]]]]


def test_requests_to_stop_are_summed():
    rule = optax.sgd(0.1)
    model = UResNet(network())
    step = steps.make_train_step(
        model=model,
        optimizer=rule,
        schedule=lambda step: 0.1,
        options=step_options(SHAPE),
    )
    state = make_state(init_variables(model, 0), rule)
    stop = np.array([1, 0, 1], np.float32)
    _, results = jax.jit(step)(state, minibatch(3), stop)
    assert float(results["stop"]) == 2
