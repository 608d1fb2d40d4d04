import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import LearningRateSchedule, Optimizer, OptimizerName
from ctjax.learning import optimizer

PARAMS = {
    "conv": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5])},
}
GRADS = {"conv": {"kernel": jnp.array([[0.1, 0.2]]), "bias": jnp.array([-0.3])}}


def first_update(name, weight_decay=0.0, rate=0.1, grads=GRADS):
    config = Optimizer(name=name, learning_rate=rate)
    update = optimizer.make_optimizer(config, lambda step: rate, weight_decay)
    updates, _ = update.update(grads, update.init(PARAMS), PARAMS)
    return jax.tree.map(np.asarray, updates)["conv"]


def test_sgd_is_minus_rate_times_gradient():
    updates = first_update(OptimizerName.SGD)
    np.testing.assert_allclose(updates["kernel"], [[-0.01, -0.02]], rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [0.03], rtol=1e-6)


def test_first_adam_step_is_the_sign_of_the_gradient():
    np.testing.assert_allclose(
        first_update(OptimizerName.ADAM)["kernel"], [[-0.1, -0.1]], rtol=1e-5
    )


def test_rmsprop_adds_epsilon_outside_of_the_root_as_torch():
    # square_avg = 0.01 g^2 after one step of torch.optim.RMSprop.
    expected = -0.1 * 0.2 / (np.sqrt(0.01 * 0.2**2) + 1e-4)
    np.testing.assert_allclose(
        first_update(OptimizerName.RMSPROP)["kernel"][0, 1], expected, rtol=1e-5
    )


def test_adagrad_divides_by_the_root_of_the_sum_of_squares():
    np.testing.assert_allclose(
        first_update(OptimizerName.ADAGRAD)["kernel"], [[-0.1, -0.1]], rtol=1e-5
    )


def test_adagrad_has_torchs_epsilon_beside_the_root():
    """At a gradient of 1e-10 the epsilon is as large as the root: half a step."""
    small = jax.tree.map(lambda g: jnp.full_like(g, 1e-10), GRADS)
    np.testing.assert_allclose(
        first_update(OptimizerName.ADAGRAD, grads=small)["kernel"],
        [[-0.05, -0.05]],
        rtol=1e-5,
    )


def lamb_by_hand(param, gradients, rate):
    """torch_optimizer.Lamb: means that are not corrected, 1e-6, lengths up to 10."""
    param = np.array(param, np.float64)
    mean = square = np.zeros_like(param)
    for gradient in gradients:
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (np.sqrt(square) + 1e-6)
        length = min(np.linalg.norm(param), 10.0)
        trust = length / np.linalg.norm(step) if length else 1.0
        param = param - rate * trust * step
    return param


@pytest.mark.parametrize("size", [1e-5, 0.1])
@pytest.mark.parametrize("start", [0.0, 1.0, 8.0])
def test_twenty_steps_of_lamb(start, size):
    random = np.random.default_rng(1)
    param = start * (1 + random.random((2, 3)))
    gradients = size * random.normal(size=(20, 2, 3))
    rule = optimizer.make_optimizer(
        Optimizer(name=OptimizerName.LAMB), lambda step: 0.01, 0.0
    )
    params = {"kernel": jnp.asarray(param, jnp.float32)}
    state = rule.init(params)
    for gradient in gradients:
        grads = {"kernel": jnp.asarray(gradient, jnp.float32)}
        updates, state = rule.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    expected = lamb_by_hand(param, gradients, 0.01)
    assert np.linalg.norm(param) > 10 or start < 8
    np.testing.assert_allclose(params["kernel"], expected, rtol=5e-6)


def test_lamb_moves_each_tensor_by_rate_times_its_norm():
    kernel = first_update(OptimizerName.LAMB)["kernel"]
    norm = float(jnp.linalg.norm(PARAMS["conv"]["kernel"]))
    np.testing.assert_allclose(np.linalg.norm(kernel), 0.1 * norm, rtol=1e-4)


def test_lars_moves_each_tensor_by_a_thousandth_of_its_norm():
    kernel = first_update(OptimizerName.LARS)["kernel"]
    norm = float(jnp.linalg.norm(PARAMS["conv"]["kernel"]))
    np.testing.assert_allclose(np.linalg.norm(kernel), 0.1 * 0.001 * norm, rtol=1e-4)


@pytest.mark.parametrize("name", list(OptimizerName))
def test_every_rule_goes_downhill(name):
    updates = first_update(name)
    assert np.all(np.sign(updates["kernel"]) == -np.sign(GRADS["conv"]["kernel"]))


@pytest.mark.parametrize("name", list(OptimizerName))
def test_weight_decay_touches_kernels_alone(name):
    without, with_decay = first_update(name), first_update(name, weight_decay=0.5)
    assert not np.allclose(without["kernel"], with_decay["kernel"])
    np.testing.assert_allclose(without["bias"], with_decay["bias"], rtol=1e-6)


def test_decoupled_decay_of_adam():
    change = (
        first_update(OptimizerName.ADAM, weight_decay=0.5)["kernel"]
        - first_update(OptimizerName.ADAM)["kernel"]
    )
    np.testing.assert_allclose(change, [[-0.05, 0.1]], rtol=1e-4)


def original_schedule(step, steps_per_epoch, rate):
    """CosmicTagger's piecewise rule, by hand, in epochs."""
    epoch = step / steps_per_epoch
    if epoch < 1:
        return 1e-4 + (rate - 1e-4) * epoch
    if epoch < 21:
        return rate
    return (rate - 1e-4) * np.exp(-0.999 * (epoch - 21)) + 1e-4


@pytest.mark.parametrize("steps_per_epoch", [4, 10])
def test_warmup_flat_decay_is_cosmictaggers(steps_per_epoch):
    config = Optimizer(
        learning_rate=3e-3, lr_schedule=LearningRateSchedule.WARMUP_FLAT_DECAY
    )
    schedule = optimizer.make_schedule(config, steps_per_epoch, 1000)
    for step in range(30 * steps_per_epoch):
        expected = original_schedule(step, steps_per_epoch, 3e-3)
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-4)


def test_flat_and_one_cycle():
    flat = optimizer.make_schedule(
        Optimizer(learning_rate=0.5, lr_schedule=LearningRateSchedule.FLAT), 10, 100
    )
    assert float(flat(0)) == float(flat(99)) == 0.5
    cycle = optimizer.make_schedule(
        Optimizer(learning_rate=0.5, lr_schedule=LearningRateSchedule.ONE_CYCLE),
        10,
        100,
    )
    values = [float(cycle(step)) for step in range(100)]
    assert max(values) == pytest.approx(0.5)
    assert values[0] < 0.05 and values[-1] < 0.001
    assert 20 < int(np.argmax(values)) < 40
