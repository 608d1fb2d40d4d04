"""Many devices against one and against each alone, on simulated devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctjax.config.fields import LossBalanceScheme, Network, Normalization
from ctjax.data.order import local_entries
from ctjax.learning import compiled as learning_compiled
from ctjax.learning import losses, sharding, steps
from ctjax.learning.state import count_parameters, init_variables, make_state
from ctjax.models import UResNet
from tests.support.small_networks import (
    nobody_stops,
    random_minibatch,
    step_options,
)

SHAPE = (16, 24)
NUM_STEPS = 20
RATE = 0.01
AXIS = sharding.EVENT_AXIS


def network(**changes):
    values = {
        "n_initial_filters": 2,
        "depth": 1,
        "blocks_per_layer": 1,
        "blocks_deepest_layer": 1,
        "blocks_final": 0,
        "bottleneck_deepest": 4,
        **changes,
    }
    return Network(**values)


def minibatch(events, seed):
    return random_minibatch(SHAPE, events, seed)


def make_step(
    config, scheme, accumulation=1, axis_name=AXIS, rule=None, bfloat16=False
):
    model = UResNet(config, axis_name=axis_name)
    rule = rule or optax.sgd(RATE)
    state = make_state(init_variables(model, 0), rule)
    step = steps.make_train_step(
        model=model,
        optimizer=rule,
        schedule=lambda step: RATE,
        options=step_options(
            SHAPE,
            scheme,
            axis_name,
            accumulation=accumulation,
            bfloat16_gradients=bfloat16,
        ),
    )
    return state, step


@functools.cache
def train(config, scheme, num_devices, accumulation=1, num_steps=NUM_STEPS):
    """Losses and last state of some steps on 8 events, on so many devices."""
    first, advance = make_advance(config, scheme, num_devices, accumulation)
    state, loss, norm = first, [], []
    for index in range(num_steps):
        state, results = advance(state, index)
        loss.append(float(results["loss"]))
        norm.append(float(results["grad_norm"]))
    return (
        {"loss": np.array(loss), "norm": np.array(norm)},
        state,
        np.asarray(results["metrics"]),
    )


def make_advance(config, scheme, num_devices, accumulation=1):
    """A first state, and `(state, index) -> (state, results)` on so many devices."""
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    first, step = make_step(config, scheme, accumulation)
    step = learning_compiled.compile_train_step(step, mesh)
    order = local_entries(np.arange(8), 0, 1, num_devices, accumulation)

    def advance(state, index):
        batch = jax.tree.map(lambda x: x[order], minibatch(8, index))
        arrays = distribute(batch, mesh)
        state, results = step(sharding.replicate(state, mesh), *arrays)
        return jax.device_get(state), results

    return first, advance


def distribute(batch, mesh):
    """The arguments of a training step after its state."""
    return sharding.distribute((batch, nobody_stops(batch)), mesh)


def largest_difference(a, b):
    return max(
        float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("num_devices", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "scheme, accumulation",
    [
        (LossBalanceScheme.LIGHT, 1),
        pytest.param(LossBalanceScheme.EVEN, 1, marks=pytest.mark.slow),
        pytest.param(LossBalanceScheme.FOCAL, 2, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_devices_trains_alike(scheme, accumulation, num_devices):
    config = network(normalization=Normalization.NONE)
    one = train(config, scheme, 1, accumulation)
    many = train(config, scheme, num_devices, accumulation)
    np.testing.assert_allclose(many[0]["loss"], one[0]["loss"], rtol=1e-5)
    np.testing.assert_allclose(many[0]["norm"][0], one[0]["norm"][0], rtol=1e-5)
    np.testing.assert_allclose(many[2], one[2], atol=1e-3)
    assert largest_difference(many[1], one[1]) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "scheme, accumulation", [(LossBalanceScheme.LIGHT, 1), (LossBalanceScheme.FOCAL, 2)]
)
def test_synchronous_statistics_are_those_of_one_device(
    scheme, accumulation, num_devices
):
    # Every step from the state of the one device. Trainings of their own would part:
    # with batch normalization some activation comes within rounding of its kink, and
    # falls on either side of it, every few steps. One alone moves a parameter by 3e-5
    # (jax 0.11), statistics of each device alone by 2e-3 and more.
    config = network(sync_batch_norm=True)
    state, alone = make_advance(config, scheme, 1, accumulation)
    _, together = make_advance(config, scheme, num_devices, accumulation)
    for index in range(NUM_STEPS):
        many, many_results = together(state, index)
        before = state
        state, results = alone(state, index)
        assert float(many_results["loss"]) == pytest.approx(
            float(results["loss"]), rel=1e-5
        )
        np.testing.assert_allclose(
            many_results["metrics"], np.asarray(results["metrics"]), atol=1e-3
        )
        assert largest_difference(state.params, before.params) > 1e-4
        assert largest_difference(many, state) < 1e-4


@pytest.mark.slow
def test_local_statistics_do_depend_on_the_devices():
    # Otherwise the test above would not show that sync_batch_norm does anything.
    config = network()
    one, many = (train(config, LossBalanceScheme.LIGHT, n, num_steps=2) for n in (1, 4))
    assert np.abs(many[0]["loss"] / one[0]["loss"] - 1).max() > 1e-4


@pytest.mark.slow
def test_local_statistics_equal_each_device_computed_alone():
    config, scheme, num_devices = network(), LossBalanceScheme.LIGHT, 4
    batch = minibatch(8, 0)
    _, after, _ = train(config, scheme, num_devices, num_steps=1)

    # The reference: each part through the network by itself, one sum over all.
    model = UResNet(config)
    start, _ = make_step(config, scheme, axis_name=None)
    weights = np.array([1.0, 1.5, 10.0])[batch.label]
    norms = jnp.asarray(weights.sum((0, 2, 3)), jnp.float32)
    parts = [
        jax.tree.map(lambda x, n=n: x[2 * n : 2 * n + 2], batch)
        for n in range(num_devices)
    ]

    def loss(params):
        total, statistics = 0.0, []
        for part in parts:
            logits, updated = model.apply(
                {"params": params, "batch_stats": start.batch_stats},
                part.image,
                train=True,
                mutable=["batch_stats"],
            )
            weight = jnp.asarray([1.0, 1.5, 10.0])[part.label]
            entropy = losses.pixel_cross_entropy(logits, part.label)
            total += jnp.sum(jnp.sum(weight * entropy, (0, 2, 3)) / norms)
            statistics.append(updated["batch_stats"])
        mean = jax.tree.map(lambda *x: sum(x) / num_devices, *statistics)
        return total, mean

    grads, statistics = jax.jit(jax.grad(loss, has_aux=True))(start.params)
    expected = jax.tree.map(lambda p, g: p - RATE * g, start.params, grads)
    assert largest_difference(start.params, expected) > 1e-3
    assert largest_difference(after.params, expected) < 1e-6
    assert largest_difference(after.batch_stats, statistics) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    # A bias before a normalization has no gradient to be summed.
    "changes",
    [{"normalization": Normalization.NONE}, {"bias": False}],
)
def test_the_only_collectives_are_those_of_gradients_and_metrics(changes):
    found, state = compiled_collectives(network(**changes))
    assert {name for name, _ in found} == {"all-reduce"}
    num_bytes = sum(size for _, size in found)
    numbers = count_parameters(state.params) + count_parameters(state.batch_stats)
    # Besides: 3 norms of the loss; the loss, 20 metrics, their count, a stop request.
    extra = num_bytes - 4 * numbers
    assert extra == 4 * (3 + 1 + 20 + 1 + 1)


@pytest.mark.slow
def test_sync_batch_norm_costs_collectives_of_its_own():
    local, _ = compiled_collectives(network())
    synchronous, _ = compiled_collectives(network(sync_batch_norm=True))
    assert len(synchronous) > len(local) + 10


def compiled_collectives(config):
    mesh = sharding.make_mesh()
    state, step = make_step(config, LossBalanceScheme.LIGHT)
    state = sharding.replicate(state, mesh)
    arrays = distribute(minibatch(4, 0), mesh)
    lowered = learning_compiled.compile_train_step(step, mesh).lower(state, *arrays)
    return sharding.collectives(lowered.compile().as_text()), state


@pytest.mark.slow
def test_bfloat16_gradients_halve_the_bytes():
    # Read before compilation: the CPU's compiler sums bfloat16 as float32.
    mesh = sharding.make_mesh()
    arrays = distribute(minibatch(4, 0), mesh)
    summed = {}
    for bfloat16 in (False, True):
        state, step = make_step(network(), LossBalanceScheme.LIGHT, bfloat16=bfloat16)
        state = sharding.replicate(state, mesh)
        compiled = learning_compiled.compile_train_step(step, mesh)
        text = compiled.lower(state, *arrays).as_text()
        summed[bfloat16] = re.findall(r"\) -> tensor<[\dx]*(f32|bf16)>", text)
        new, _ = compiled(state, *arrays)
        summed[bfloat16, "params"] = jax.device_get(new.params)
    assert "bf16" not in summed[False] and "bf16" in summed[True]
    difference = largest_difference(summed[False, "params"], summed[True, "params"])
    assert 0 < difference < 2**-8


def test_arrays_of_a_type_are_summed_as_one():
    tree = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": jnp.arange(3),
        "c": (jnp.float32(7), jnp.ones((0, 4))),
    }
    seen = []

    def double(x):
        seen.append((x.dtype.name, x.shape))
        return 2 * x

    doubled = sharding._joined(double, tree)
    assert seen == [("float32", (7,)), ("int32", (3,))]
    jax.tree.map(np.testing.assert_array_equal, doubled, jax.tree.map(double, tree))


def test_on_a_cpu_the_gradients_are_one_array():
    mesh = sharding.make_mesh()
    state, step = make_step(network(), LossBalanceScheme.LIGHT)
    state = sharding.replicate(state, mesh)
    arrays = distribute(minibatch(4, 0), mesh)
    program = (
        learning_compiled.compile_train_step(step, mesh).lower(state, *arrays).as_text()
    )
    # The three norms of the loss, and all the rest.
    assert len(re.findall("all_reduce", program)) == 2


@pytest.mark.parametrize("donated", [True, False])
def test_a_step_writes_its_results_over_a_state_that_is_donated(donated):
    mesh = sharding.make_mesh(jax.devices()[:1])
    drawn = {"kernel": jnp.ones((64, 1024)), "bias": jnp.zeros(1024)}
    state = sharding.replicate(drawn, mesh, donated=donated)
    step = sharding.over_events(
        lambda state, rate: jax.tree.map(lambda x: x + rate, state),
        *(mesh, (sharding.REPLICATED, sharding.REPLICATED), sharding.REPLICATED),
        donate=True,
    )
    before = jax.tree.map(lambda x: x.unsafe_buffer_pointer(), state)
    after = jax.tree.map(lambda x: x.unsafe_buffer_pointer(), step(state, 0.5))
    assert (before == after) == donated
    np.testing.assert_array_equal(drawn["kernel"], np.ones((64, 1024)))


def test_compiler_options_are_those_that_xla_knows(monkeypatch):
    sharding._compiler_options.cache_clear()
    assert sharding._compiler_options("gpu") == {}
    # Fails where a newer XLA has lost one of them: the steps are slower there.
    assert sharding._compiler_options("cpu") == sharding.CPU_COMPILER_OPTIONS
    sharding._compiler_options.cache_clear()
    monkeypatch.setattr(sharding, "CPU_COMPILER_OPTIONS", {"xla_no_such_option": True})
    assert sharding._compiler_options("cpu") == {}
    sharding._compiler_options.cache_clear()


def test_collectives_are_read_off_a_program():
    program = """
      %a = f32[2,3]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
      %b = (f32[4]{0}, bf16[2]{0}) all-reduce-start(%y, %z), channel_id=2
      %c = f32[8]{0} add(%a, %all-reduce.1)
      %d = u8[16]{0} all-gather(%w), dimensions={0}
      %e = f32[] all-reduce(%s), channel_id=4
    """
    assert sharding.collectives(program) == [
        ("all-reduce", 24),
        ("all-reduce", 20),
        ("all-gather", 16),
        ("all-reduce", 4),
    ]


def test_evaluation_gives_all_metrics_to_all_and_each_its_own_pixels():
    config = network()
    model = UResNet(config)
    variables = init_variables(model, 0)
    batch = minibatch(8, 0)
    results = []
    for num_devices in (1, 4):
        mesh = sharding.make_mesh(jax.devices()[:num_devices])
        step = steps.make_eval_step(
            model=model,
            options=step_options(SHAPE, LossBalanceScheme.EVEN, AXIS),
            with_scores=True,
        )
        compiled = learning_compiled.compile_eval_step(step, mesh, with_scores=True)
        results.append(
            compiled(
                sharding.replicate(variables, mesh),
                sharding.distribute(batch, mesh),
            )
        )
    one, many = results
    assert many["metrics"].sharding.is_fully_replicated
    assert not many["score"].sharding.is_fully_replicated
    np.testing.assert_allclose(many["loss"], one["loss"], rtol=1e-5)
    for name in ("metrics", "prediction", "label", "image", "score"):
        np.testing.assert_allclose(
            np.asarray(many[name]), np.asarray(one[name]), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_array_equal(sharding.local(many["score"]), many["score"])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_processes_and_devices_see_the_same_events_at_each_accumulation(accumulation):
    entries = np.arange(8 * accumulation)
    for num_processes, num_devices in ((1, 1), (1, 4), (2, 2), (2, 4), (4, 8)):
        dealt = np.concatenate(
            [
                local_entries(entries, n, num_processes, num_devices, accumulation)
                for n in range(num_processes)
            ]
        )
        parts = dealt.reshape(num_devices, accumulation, -1)
        for index in range(accumulation):
            np.testing.assert_array_equal(
                np.sort(parts[:, index].ravel()), np.arange(8) + 8 * index
            )
