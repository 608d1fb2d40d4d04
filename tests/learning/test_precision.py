"""Number formats beside float32: on the golden networks, in training, on overflow."""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctjax.config.fields import LossBalanceScheme, Network, Precision
from ctjax.learning import compiled, losses, precision, sharding, steps
from ctjax.learning.minibatch import make_input
from ctjax.learning.precision import POLICIES, LossScale, first_scale, next_scale
from ctjax.learning.state import init_variables, make_state
from ctjax.models import UResNet, torch_weights
from ctjax.runs import train
from tests.support import tiny
from tests.support.finished_runs import read_table
from tests.support.golden import network_of
from tests.support.small_networks import (
    nobody_stops,
    random_minibatch,
    step_options,
)

SHARED = os.environ.get("CTJAX_SHARED")
SHAPE = (8, 16)
NETWORK = Network(
    n_initial_filters=2,
    depth=1,
    blocks_per_layer=1,
    blocks_deepest_layer=1,
    blocks_final=0,
    bottleneck_deepest=4,
)

# Share of the logits' norm; 8.3e-3 and 1.1e-3 are the largest of all golden networks.
LOGIT_MARGINS = {Precision.BFLOAT16: 2e-2, Precision.FLOAT16: 3e-3}


@pytest.mark.skipif(not SHARED, reason="CTJAX_SHARED does not name the shared folder")
@pytest.mark.parametrize(
    "name", ["a21", "scc21_master", pytest.param("uresnet", marks=pytest.mark.slow)]
)
def test_golden_networks_are_close_to_float32(name):
    stem = name.removesuffix("_master")
    with np.load(pathlib.Path(str(SHARED)) / f"golden/network/{stem}.npz") as file:
        golden = dict(file)
    network = network_of(json.loads(str(golden["config"])))
    image = jnp.asarray(golden["input"])
    like = jax.eval_shape(UResNet(network).init, jax.random.key(0), image)
    state = {
        name.removeprefix("state/"): array
        for name, array in golden.items()
        if name.startswith("state/")
    }
    variables = torch_weights.to_variables(state, like)

    def logits(dtype):
        model = UResNet(network, dtype)
        return np.asarray(jax.jit(lambda v: model.apply(v, image))(variables))

    expected = logits(jnp.float32)
    for number_format, margin in LOGIT_MARGINS.items():
        error = np.linalg.norm(logits(POLICIES[number_format].compute_type) - expected)
        assert 0 < error < margin * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize("number_format", ["bfloat16", "mixed"])
@pytest.mark.skipif(not SHARED, reason="CTJAX_SHARED does not name the shared folder")
def test_the_light_events_are_learnt_as_well(one_device, tmp_path, number_format):
    # The mean loss of the last epochs, 5 % beside float32's: less than its own change
    # from epoch to epoch.
    losses_of = {}
    for name in ("float32", number_format):
        config = tiny.make(
            tmp_path / name,
            run__iterations=40,
            run__minibatch_size=5,
            run__precision=name,
            data__synthetic=False,
            data__img_transform=True,
            data__file=f"{SHARED}/data/cosmic_tagging_light.h5",
        )
        train.run(config)
        rows = read_table(tmp_path / name, "train_metrics.csv")
        losses_of[name] = [float(row["loss"]) for row in rows]
    # The transform is what they are learnt with; without, the loss begins elsewhere.
    untransformed = dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, iterations=1),
        data=dataclasses.replace(config.data, img_transform=False),
        output_dir=str(tmp_path / "untransformed"),
    )
    train.run(untransformed)
    (row,) = read_table(tmp_path / "untransformed", "train_metrics.csv")
    assert float(row["loss"]) != pytest.approx(losses_of[number_format][0], rel=0.02)
    first, last = (
        np.mean(losses_of["float32"][part]) for part in (slice(3), slice(-5, None))
    )
    assert last < 0.7 * first
    assert np.mean(losses_of[number_format][-5:]) == pytest.approx(last, rel=0.05)


def minibatch(events=4, seed=0):
    return random_minibatch(SHAPE, events, seed)


def arguments(batch=None):
    """The arguments of a training step after its state."""
    batch = minibatch() if batch is None else batch
    return batch, nobody_stops(batch)


def make_step(axis_name=None, spoil=False, **options):
    """A step of float16; `spoil` multiplies the gradient of one event's image."""
    policy = POLICIES[Precision.MIXED]
    model = UResNet(NETWORK, policy.compute_type, axis_name)
    rule = optax.sgd(0.1)
    loss_fn = losses.make_loss(LossBalanceScheme.LIGHT, axis_name=axis_name)

    def spoilt(logits, label, mask, image, sites):
        # A logit's gradient beyond float16 for the last event, the loss unchanged.
        loss = loss_fn(logits, label, mask, image, sites)
        large = (logits[-1] * 1e6).sum()
        here = jnp.max(image[-1]) > 100
        return loss + jnp.where(here, large - jax.lax.stop_gradient(large), 0.0)

    step = steps.make_train_step(
        model=model,
        optimizer=rule,
        schedule=lambda step: 0.1,
        options=step_options(
            SHAPE,
            axis_name=axis_name,
            loss_fn=spoilt if spoil else loss_fn,
            network_input=make_input(SHAPE, True),
            is_scaled=True,
            **options,
        ),
    )
    return make_state(init_variables(model, 0), rule, policy), step


@pytest.mark.slow
def test_gradients_do_not_depend_on_the_scale():
    state, step = make_step()
    step = jax.jit(step)
    norms = {}
    for value in (2.0**-12, 2.0**10, 2.0**16):
        scale = LossScale(jnp.asarray(value), jnp.zeros((), jnp.int32))
        scaled = dataclasses.replace(state, loss_scale=scale)
        _, results = step(scaled, *arguments())
        assert results["is_finite"] and results["loss_scale"] == value
        norms[value] = float(results["grad_norm"])
    assert norms[2.0**10] == pytest.approx(norms[2.0**16], rel=1e-3)
    # Where they are small, those of single pixels are rounded.
    assert norms[2.0**-12] != pytest.approx(norms[2.0**16], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("options", [{}, {"skip_nonfinite": True}])
def test_an_overflow_skips_the_step_on_all_devices_together(num_devices, options):
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    state, step = make_step(sharding.EVENT_AXIS, spoil=True, **options)
    state = sharding.replicate(state, mesh)
    before = jax.device_get(state)
    step = compiled.compile_train_step(step, mesh)
    bad = minibatch()
    bad.image[-1, 0, 0, 0] = 200  # of one event: of one device alone
    state, results = step(state, *sharding.distribute(arguments(bad), mesh))
    assert results["is_overflow"] and not results["is_finite"]
    assert np.isfinite(results["loss"])
    after = jax.device_get(state)
    assert int(after.step) == 1 and not after.halted
    assert float(after.loss_scale.value) == precision.INITIAL_SCALE / 2
    for name in ("params", "batch_stats", "opt_state"):
        for old, new in zip(
            jax.tree.leaves(getattr(before, name)),
            jax.tree.leaves(getattr(after, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(new, old)
    state, results = step(state, *sharding.distribute(arguments(), mesh))
    assert results["is_finite"] and not results["is_overflow"]
    assert int(state.step) == 2
    moved = jax.tree.map(np.array_equal, jax.device_get(state.params), before.params)
    assert not all(jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil, value", [("image", precision.INITIAL_SCALE), ("scale", 1.0)]
)
def test_what_no_scale_mends_stops_the_run(spoil, value):
    # A loss that is not finite itself, and gradients that overflow unscaled.
    state, step = make_step(spoil=True)
    scale = LossScale(jnp.asarray(value), jnp.zeros((), jnp.int32))
    state = dataclasses.replace(state, loss_scale=scale)
    batch = minibatch()
    batch.image[-1, 0, 0, 0] = np.inf if spoil == "image" else 200
    new, results = jax.jit(step)(state, *arguments(batch))
    assert not results["is_overflow"] and not results["is_finite"]
    assert new.halted and int(new.step) == 0
    assert float(new.loss_scale.value) == value


def test_the_scale_halves_after_an_overflow_and_doubles_in_time():
    scale = first_scale(POLICIES[Precision.MIXED])
    assert float(scale.value) == precision.INITIAL_SCALE
    for _ in range(5):
        scale = next_scale(scale, jnp.asarray(False))
    scale = next_scale(scale, jnp.asarray(True))
    assert float(scale.value) == precision.INITIAL_SCALE / 2
    assert int(scale.good_steps) == 0
    due = dataclasses.replace(
        scale, good_steps=jnp.asarray(precision.GROWTH_INTERVAL - 1, jnp.int32)
    )
    grown = next_scale(due, jnp.asarray(False))
    assert float(grown.value) == precision.INITIAL_SCALE
    assert int(grown.good_steps) == 0
    smallest = LossScale(jnp.asarray(precision.SMALLEST_SCALE), jnp.asarray(3))
    assert float(next_scale(smallest, jnp.asarray(True)).value) == 1.0
    assert float(first_scale(POLICIES[Precision.BFLOAT16]).value) == 1.0


@pytest.mark.slow
def test_the_scale_goes_on_with_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 4)
    fields = {"run__precision": "mixed", "mode__checkpoint_iteration": 3}
    unbroken = train.run(tiny.make(tmp_path / "a", run__iterations=6, **fields))
    train.run(tiny.make(tmp_path / "b", run__iterations=3, **fields))
    resumed = train.run(tiny.make(tmp_path / "b", run__iterations=6, **fields))
    assert float(unbroken.loss_scale.value) == 2 * precision.INITIAL_SCALE
    assert int(unbroken.loss_scale.good_steps) == 2
    for a, b in zip(jax.tree.leaves(unbroken), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    # In another number format the run goes on with that one's scale.
    changed = train.run(tiny.make(tmp_path / "b", run__iterations=7))
    assert float(changed.loss_scale.value) == 1.0


def test_float16_infers_but_does_not_train(tmp_path):
    with pytest.raises(ValueError, match=r"run\.precision=float16 is for inference"):
        tiny.make(tmp_path, run__precision="float16")
    config = tiny.make(tmp_path, run__precision="float16", mode__name="inference")
    assert config.run.precision is Precision.FLOAT16
