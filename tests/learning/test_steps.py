import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctjax.config.fields import LossBalanceScheme, Network, Normalization
from ctjax.learning import losses, steps
from ctjax.learning.state import init_variables, make_state
from ctjax.models import UResNet
from tests.support.small_networks import random_minibatch

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
    state = make_state(init_variables(model, model_network.depth, 0), rule)
    step = steps.make_train_step(
        model,
        rule,
        lambda step: 0.1,
        losses.make_loss(LossBalanceScheme.LIGHT),
        steps.make_input(SHAPE, False),
        accumulation,
    )
    return model, state, jax.jit(step)


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
            model,
            losses.make_loss(LossBalanceScheme.FOCAL),
            steps.make_input(SHAPE, False),
        )
    )
    batch = minibatch(3)
    padded = {**batch, "mask": np.array([1, 1, 0], np.float32)}
    shorter = jax.tree.map(lambda x: x[:2], batch)
    full, short = (evaluate(state.variables, b) for b in (padded, shorter))
    np.testing.assert_allclose(full["loss"], short["loss"], rtol=1e-5)
    np.testing.assert_allclose(full["metrics"][:2], short["metrics"], rtol=1e-5)
    assert full["prediction"].dtype == jnp.uint8
    assert full["prediction"].shape == (3, 3, *SHAPE)


def test_img_transform_feeds_the_logarithm():
    image = np.array([[[[0.0, np.e - 1]]]], np.float32)
    batch = {"image": image, "label": np.zeros(image.shape, np.uint8)}
    raw, charge, _ = steps.make_input((1, 2), False)(batch)
    logged, same_charge, _ = steps.make_input((1, 2), True)(batch)
    np.testing.assert_array_equal(raw, image)
    np.testing.assert_array_equal(charge, same_charge)
    np.testing.assert_allclose(logged, [[[[0.0, 1.0]]]], rtol=1e-6)


def test_initial_parameters_depend_on_the_seed_and_match_flax_in_spread():
    config = network(n_initial_filters=16)
    model = UResNet(config)
    first, again, other = (init_variables(model, 2, seed) for seed in (0, 0, 1))
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


def test_train_step_donates_its_state():
    _, state, _ = make(network())
    model = UResNet(network())
    step = jax.jit(
        steps.make_train_step(
            model,
            optax.sgd(0.1),
            lambda step: 0.1,
            losses.make_loss(LossBalanceScheme.LIGHT),
            steps.make_input(SHAPE, False),
        ),
        donate_argnums=0,
    )
    step(state, minibatch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_empty_pixels_are_background_where_masked():
    logits = jnp.zeros((1, 1, 1, 2, 3)).at[..., 2].set(1.0)
    charge = jnp.array([[[[0.0, 5.0]]]])
    assert steps.predicted_class(logits, charge, False).tolist() == [[[[2, 2]]]]
    assert steps.predicted_class(logits, charge, True).tolist() == [[[[0, 2]]]]


def test_loss_of_charged_pixels_leaves_the_others_out():
    batch = minibatch(2)
    charge = jnp.asarray(batch["image"])
    random = np.random.default_rng(1)
    logits = jnp.asarray(random.normal(size=(*charge.shape, 3)), jnp.float32)
    label, mask = jnp.asarray(batch["label"]), jnp.ones(2)
    noise = jnp.where(charge[..., None] == 0, 7.0 * logits[..., ::-1], logits)
    for scheme in LossBalanceScheme:
        only = losses.make_loss(scheme, charged_pixels_only=True)
        every = losses.make_loss(scheme)
        a, b = only(logits, label, mask, charge), only(noise, label, mask, charge)
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert not np.allclose(every(logits, label, mask), every(noise, label, mask))
        assert not np.allclose(a, every(logits, label, mask))
    empty = losses.make_loss(LossBalanceScheme.LIGHT, charged_pixels_only=True)
    assert float(empty(logits, label, mask, jnp.zeros_like(charge))) == 0.0
