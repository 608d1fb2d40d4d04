"""Torch names and layouts, without torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import (
    Connection,
    Downsampling,
    Network,
    Normalization,
    Upsampling,
)
from ctjax.models import UResNet, torch_weights
from tests.support.small_networks import SMALL, random_variables


@pytest.fixture(scope="module")
def variables():
    network = Network(
        **SMALL,
        downsampling=Downsampling.CONVOLUTIONAL,
        upsampling=Upsampling.CONVOLUTIONAL,
    )
    return random_variables(network)


def test_round_trip(variables):
    tensors = torch_weights.from_variables(variables)
    assert len(tensors) == len(jax.tree.leaves(variables))
    back = torch_weights.to_variables(tensors, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_layer_normalization_of_v21_is_passed_over_where_it_does_nothing(variables):
    tensors = torch_weights.from_variables(variables)
    name = "initial_convolution.norm1"
    tensors |= {
        f"{name}.weight": np.ones((2, 4, 4)),
        f"{name}.bias": np.zeros((2,) * 3),
    }
    back = torch_weights.to_variables(tensors, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    tensors[f"{name}.weight"][1, 2, 3] = 1.1
    with pytest.raises(torch_weights.WeightsError, match=rf"^1 .*: {name}.weight"):
        torch_weights.to_variables(tensors, variables)


def test_names_and_layouts(variables):
    tensors = torch_weights.from_variables(variables)
    params = variables["params"]
    kernel = params["initial_convolution"]["conv"]["kernel"]
    weight = tensors["initial_convolution.conv.weight"]
    assert weight.shape == (2, 1, 5, 5) and kernel.shape == (5, 5, 1, 2)
    assert weight[1, 0, 2, 4] == kernel[2, 4, 0, 1]
    block = params["net_core"]["down_blocks"]["blocks_0"]["convolution_1"]
    name = "net_core.down_blocks.blocks.0.convolution_1"
    np.testing.assert_array_equal(
        tensors[f"{name}.norm.weight"], block["norm"]["scale"]
    )
    stats = variables["batch_stats"]["net_core"]["down_blocks"]["blocks_0"]
    np.testing.assert_array_equal(
        tensors[f"{name}.norm.running_var"], stats["convolution_1"]["norm"]["var"]
    )


def test_transposed_convolution_stamps_as_torch():
    # torch.nn.ConvTranspose2d(1, 2, 2, stride=2) of one pixel of value 1 is its own
    # weight, [in, out, kh, kw].
    network = Network(**SMALL, upsampling=Upsampling.CONVOLUTIONAL)
    variables = random_variables(network)
    tensors = torch_weights.from_variables(variables)
    weight = tensors["net_core.upsample.conv.weight"]
    assert weight.shape == (4, 2, 2, 2)
    kernel = variables["params"]["net_core"]["upsample"]["conv"]["kernel"]
    image = jnp.zeros((1, 1, 1, 4)).at[0, 0, 0, 3].set(1.0)
    stamp = jax.lax.conv_transpose(
        image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_array_equal(stamp[0].transpose(2, 0, 1), weight[3])


def test_prefix_and_counters_are_passed_over(variables):
    tensors = {
        f"module.{name}": tensor
        for name, tensor in torch_weights.from_variables(variables).items()
    }
    tensors["module.initial_convolution.norm.num_batches_tracked"] = np.array(7)
    back = torch_weights.to_variables(tensors, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_names_of_before_may_2022(variables):
    """Blocks had `conv1` and `bn1` for what is `convolution_1.conv` and `.norm` now."""
    tensors = {}
    for name, tensor in torch_weights.from_variables(variables).items():
        for number in "12":
            name = name.replace(f"convolution_{number}.conv.", f"conv{number}.")
            name = name.replace(f"convolution_{number}.norm.", f"bn{number}.")
        tensors[name.replace(".norm.", ".bn.")] = tensor
    assert "net_core.down_blocks.blocks.0.bn2.running_var" in tensors
    assert "initial_convolution.conv.weight" in tensors
    assert "initial_convolution.bn.weight" in tensors
    back = torch_weights.to_variables(tensors, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    both = tensors | torch_weights.from_variables(variables)
    with pytest.raises(torch_weights.WeightsError, match=r"blocks\.0\..*given twice"):
        torch_weights.to_variables(both, variables)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("bottleneck.weight", None, "bottleneck.weight: missing"),
        ("bottleneck.bias", np.zeros(4), r"shape \(4,\), expected \(3,\)"),
        ("bottleneck.weight", np.zeros(3), "1 dimensions, not 4"),
        ("extra.weight", np.zeros(3), "extra.weight: not a tensor of this network"),
        ("0.weight", np.zeros(3), "0.weight: not a tensor of this network"),
        ("weight", np.zeros(3), "weight: not a tensor of this network"),
        ("extra.counter", np.zeros(3), "extra.counter: not a tensor of this network"),
    ],
)
def test_tensors_that_do_not_fit(variables, name, tensor, message):
    tensors = torch_weights.from_variables(variables)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    with pytest.raises(torch_weights.WeightsError, match=f"^1 tensors.*{message}"):
        torch_weights.to_variables(tensors, variables)


def test_of_many_tensors_the_first_are_named(variables):
    tensors = torch_weights.from_variables(variables)
    number = len(tensors)
    with pytest.raises(torch_weights.WeightsError) as caught:
        torch_weights.to_variables({}, variables)
    assert str(caught.value).startswith(f"{number} tensors do not fit the network: ")
    assert str(caught.value).count(": missing") == torch_weights.MOST_NAMED < number
    rest = number - torch_weights.MOST_NAMED
    assert str(caught.value).endswith(f"; and {rest} more")


def test_weights_of_another_network(variables):
    other = Network(
        **SMALL, normalization=Normalization.NONE, connections=Connection.SUM
    )
    like = jax.eval_shape(
        UResNet(other).init, jax.random.key(0), jnp.zeros((1, 3, 4, 4))
    )
    with pytest.raises(torch_weights.WeightsError, match=r"norm\.running_mean"):
        torch_weights.to_variables(torch_weights.from_variables(variables), like)
