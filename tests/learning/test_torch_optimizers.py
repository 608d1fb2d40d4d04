"""Twenty steps of every rule that torch has, beside torch's own, to a millionth.

Tests of the lowest and newest packages leave this file out: they have no torch. The
first steps of the rules are worked by hand in test_optimizer.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import Optimizer, OptimizerName
from ctjax.learning import optimizer

STEPS = 20
RATE = 3e-4

RULES = {
    OptimizerName.ADAM: ("Adam", {}),
    OptimizerName.RMSPROP: ("RMSprop", {"eps": 1e-4}),
    OptimizerName.SGD: ("SGD", {}),
    OptimizerName.ADAGRAD: ("Adagrad", {}),
    OptimizerName.ADADELTA: ("Adadelta", {"eps": 1e-6}),
}
"""As CosmicTagger makes them: src/utils/torch/trainer.py of master and of v2.1."""


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="extra [torch] is not installed")


def gradients(size):
    """Twenty gradients of three tensors whose numbers are of this size or smaller."""
    random = np.random.default_rng(5)
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,), "scale": ()}
    return [
        {
            name: np.float32(size * random.normal(size=shape) * random.random())
            for name, shape in shapes.items()
        }
        for _ in range(STEPS)
    ]


def steps_of_torch(torch, name, given):
    """Sums of the steps; parameters begin at 0, where no digit of a step is lost."""
    params = {
        name: torch.zeros(np.shape(first), requires_grad=True)
        for name, first in given[0].items()
    }
    rule, options = RULES[name]
    update = getattr(torch.optim, rule)(list(params.values()), RATE, **options)
    for gradient in given:
        for name, param in params.items():
            param.grad = torch.tensor(gradient[name])
        update.step()
        yield {name: param.detach().numpy().copy() for name, param in params.items()}


def steps_of_ctjax(name, given):
    config = Optimizer(name=name, learning_rate=RATE)
    rule = optimizer.make_optimizer(config, lambda step: RATE, 0.0)
    params = jax.tree.map(jnp.zeros_like, given[0])
    state = rule.init(params)

    # Fused multiplications, as in users' programs; tests/conftest.py goes without.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def step(params, state, gradient):
        updates, state = rule.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for gradient in given:
        params, state = step(params, state, gradient)
        yield jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("size", [1e-5, 1e-1])
@pytest.mark.parametrize("name", RULES)
def test_steps_are_torchs(torch, name, size):
    given = gradients(size)
    expected = list(steps_of_torch(torch, name, given))
    found = list(steps_of_ctjax(name, given))
    for tensor, first in expected[0].items():
        # Where steps there and back cancel, what is left has none of their digits.
        lost = 1e-6 * np.abs(first).max()
        assert lost > 0
        for theirs, ours in zip(expected, found, strict=True):
            np.testing.assert_allclose(
                ours[tensor], theirs[tensor], rtol=1e-6, atol=lost
            )


def test_every_rule_that_torch_has_is_compared():
    """torch has neither of the other two; lamb is worked by hand."""
    assert set(OptimizerName) - set(RULES) == {OptimizerName.LAMB, OptimizerName.LARS}
