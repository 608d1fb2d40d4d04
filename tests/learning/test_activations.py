"""The module to blame for numbers that are not finite."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.learning import activations
from ctjax.learning.state import init_variables
from ctjax.models import UResNet
from tests.support import tiny


def test_the_first_module_without_a_number_is_named_first():
    config = tiny.make("unused").network
    model = UResNet(config)
    variables = init_variables(model, 0)
    kernel = variables["params"]["net_core"]["down_blocks"]["blocks_0"]
    kernel["convolution_2"]["conv"]["kernel"] *= np.nan
    image = np.ones((1, 3, 8, 8), np.float32)
    for train in (True, False):
        words = activations.largest_activations(model, variables, image, train)
        name = "net_core/down_blocks/blocks_0/convolution_2/conv"
        assert words.startswith(f"{name}: nan, ")


def test_running_statistics_count_in_evaluation_alone():
    config = tiny.make("unused").network
    model = UResNet(config)
    variables = init_variables(model, 0)
    blocks = variables["batch_stats"]["net_core"]["down_blocks"]["blocks_0"]
    blocks["convolution_2"]["norm"]["mean"] *= np.nan
    image = np.ones((1, 3, 8, 8), np.float32)
    words = activations.largest_activations(model, variables, image, True)
    assert "nan" not in words
    words = activations.largest_activations(model, variables, image, False)
    assert words.startswith("net_core/down_blocks/blocks_0/convolution_2")


class _Scale(nn.Module):
    factor: float

    def __call__(self, x):
        return self.factor * x


class _Spoil(nn.Module):
    """Puts a value in one place among many."""

    value: float

    def __call__(self, x):
        return x.at[0, 1, 2, 3].set(self.value)


class _Spread(nn.Module):
    """Makes everything infinite where anything is not finite."""

    def __call__(self, x):
        return jnp.where(jnp.isfinite(x.sum()), x, jnp.inf)


class _Chain(nn.Module):
    value: float
    dtype: str

    @nn.compact
    def __call__(self, x, train):
        x = _Scale(10.0, name="scale")(x.astype(self.dtype))
        x = _Spoil(self.value, name="spoil")(x)
        return _Spread(name="spread")(x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_number_that_is_not_finite_is_blamed_on_its_module(value, dtype):
    # Large enough for a CPU's compiled maximum to drop NaN, as it does in float32.
    image = np.ones((1, 3, 40, 64), np.float32)
    words = activations.largest_activations(_Chain(value, dtype), {}, image, train=True)
    assert words == f"spoil: {value}, spread: inf, logits: inf, scale: 10"
