"""The networks beside UResNet: what their layers compute, and what all of them keep."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.base.detector import Detector
from ctjax.base.errors import ConfigError
from ctjax.base.sites import Sites
from ctjax.config import networks, resolve
from ctjax.config.architecture import Architecture
from ctjax.config.fields import Normalization, Remat
from ctjax.learning.state import init_variables
from ctjax.models import cvt, segformer, uresnet3d
from ctjax.models.attention import attend
from ctjax.models.torch_weights import from_variables, to_variables
from ctjax.runs import parts
from tests.support.small_networks import (
    OTHERS,
    SMALL,
    as_input,
    other_network,
    random_variables,
)

ALL = pytest.mark.parametrize("architecture", list(OTHERS), ids=lambda a: a.value)

IMAGE = np.random.default_rng(1).exponential(size=(2, 3, 32, 48)).astype(np.float32)

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def apply(network, variables, image=IMAGE, train=False, dtype=jnp.float32):
    model = models.make(network, dtype)
    taken, to_images = as_input(network, image)

    @jax.jit
    def run(variables, taken):
        logits, _ = model.apply(variables, taken, train=train, mutable=["batch_stats"])
        return logits

    return np.asarray(to_images(run(variables, taken)))


def evenly_random_variables(network):
    """Random variables whose kernels keep the size of what they multiply.

    Larger ones take the products of CvT's queries and keys to 10,000, the exponential
    of which magnifies the rounding of float32 as much.
    """

    def shrunk(path, leaf):
        inputs = math.prod(leaf.shape[:-1])
        return leaf / (0.3 * math.sqrt(inputs)) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(shrunk, random_variables(network))


def test_every_architecture_is_small_here():
    assert set(models.NETWORKS) == {Architecture.URESNET, *OTHERS}


def test_neighbours_by_hand():
    x = jnp.arange(1.0, 7).reshape(6, 1, 1, 1)  # two events of three planes
    before, itself, behind = (part.ravel() for part in uresnet3d.neighbours(x, 3))
    np.testing.assert_array_equal(before, [0, 1, 2, 0, 4, 5])
    np.testing.assert_array_equal(itself, [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(behind, [2, 3, 0, 5, 6, 0])


def test_plane_convolution_is_one_of_three_dimensions():
    x, kernel = normal(6, 2, 3, 4), normal(3, 1, 1, 4, 5, seed=1)
    module = uresnet3d.PlaneConvolution(5, 1, use_bias=False)
    variables = {"params": {"kernel": kernel}}
    found, _ = module.apply(variables, uresnet3d.neighbours(jnp.asarray(x), 3))
    expected = jax.lax.conv_general_dilated(
        x.reshape(2, 3, 2, 3, 4),
        kernel,
        (1, 1, 1),
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


def test_nearest_by_hand():
    x = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    found = uresnet3d.upsample_nearest(x)[0, :, :, 0]
    np.testing.assert_array_equal(found, expected)


def test_depthwise_convolution_is_one_in_groups():
    x, kernel = normal(2, 4, 5, 3), normal(3, 3, 1, 3, seed=1)
    variables = {"params": {"kernel": kernel, "bias": np.arange(3.0)}}
    found = segformer.DepthwiseConvolution(jnp.float32).apply(variables, x)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS, feature_group_count=3
    )
    np.testing.assert_allclose(found, np.asarray(expected) + np.arange(3), atol=1e-5)


def test_transposed_convolution_stamps_its_kernel_in_groups():
    # As of torch: [in, out / groups, kh, kw]; a pixel of a feature is seen by the
    # outputs of its group, and two rows and columns of the stamp are cut off.
    tensor = normal(4, 3, 6, 6)
    like = {"params": {"ctu": {"conv": {"kernel": np.zeros((6, 6, 4, 3))}}}}
    kernel = to_variables({"ctu.conv.weight": tensor}, like)["params"]["ctu"]["conv"]
    module = cvt.TransposedConvolution(6, 6, 2, 2, 2, jnp.float32)
    variables = {"params": {**kernel, "bias": np.zeros(6, np.float32)}}
    x = jnp.zeros((1, 3, 3, 4)).at[0, 1, 1, 2].set(1.0)  # the second group's first
    y = module.apply(variables, x)
    assert y.shape == (1, 6, 6, 6)
    np.testing.assert_array_equal(y[..., :3], 0)
    np.testing.assert_allclose(y[0, :, :, 3:].transpose(2, 0, 1), tensor[2], atol=1e-6)


def largest(tree, name):
    return float(np.abs(from_variables({"params": tree})[name]).max())


def test_initial_parameters_are_those_of_torch():
    def drawn(architecture, **changes):
        model = models.make(other_network(architecture, **changes))
        return init_variables(model, 0)["params"]

    flat = drawn(Architecture.URESNET3D, n_initial_filters=8)
    for leaf in ("weight", "bias"):
        found = largest(flat, f"net_core.down_blocks.block_0.convolution_1.conv.{leaf}")
        assert 0.6 < found * math.sqrt(3 * 3 * 8) < 1
    across = largest(flat, "net_core.main_module.main_module.merger.conv.weight")
    assert 0.9 < across * math.sqrt(3 * 16) < 1
    former = drawn(Architecture.SEGFORMER)
    depthwise = largest(former, "encoder.block_2.0.mlp.dwconv.weight")
    assert 0.9 < depthwise * math.sqrt(9) < 1
    assert largest(former, "encoder.block_2.0.norm1.weight") == 1
    attention = drawn(Architecture.CVT)
    name = "net_core.main_module.encoder_layers_down.0.attn"
    assert 0.9 < largest(attention, f"{name}.in_proj_weight") / math.sqrt(6 / 32) < 1
    assert largest(attention, f"{name}.in_proj_bias") == 0
    assert largest(attention, f"{name}.out_proj.bias") == 0
    assert 0.9 < largest(attention, f"{name}.out_proj.weight") * math.sqrt(8) < 1
    # torch counts the outputs of a group for a transposed convolution: 2 of 8 x 4.
    widened = largest(attention, "net_core.main_module.ctu.conv.weight")
    assert 0.9 < widened * math.sqrt(36) < 1


@pytest.mark.parametrize(
    "architecture",
    [known for known in OTHERS if known is not Architecture.URESNET_SPARSE],
    ids=lambda a: a.value,
)
def test_image_that_does_not_fit(architecture):
    model = models.make(other_network(architecture))
    divisor, smallest, field = model.image_rule()
    for shape in ((3, smallest + 1, smallest), (2, smallest, smallest)):
        with pytest.raises(
            ValueError, match=rf"divisible by {divisor} \(network.{field}"
        ):
            model.init(jax.random.key(0), jnp.zeros((1, *shape)))


def test_stages_of_a_segformer_need_pixels_to_reduce():
    model = models.make(other_network(Architecture.SEGFORMER, sr_ratios=(8, 2, 4, 1)))
    assert model.image_rule() == (4, 52, "sr_ratios")
    network = other_network(Architecture.CVT)
    assert models.make(network).image_rule() == (16, 16, "layer_embed")


def test_a_sparse_network_takes_images_of_any_size():
    """Half of what is odd is rounded up, as its lists of sites are."""
    values = OTHERS[Architecture.URESNET_SPARSE] | {"depth": 3}
    values |= {"architecture": "uresnet_sparse"}
    config = resolve.resolve({"network": values, "data": {"downsample": 3}})
    model, _ = parts.make_network(config, (20, 33))
    assert model.image_rule() == (1, 1, "depth")


@pytest.mark.parametrize("num_planes, num_classes", [(1, 2), (6, 16)])
@pytest.mark.parametrize("architecture", models.NETWORKS, ids=lambda a: a.value)
def test_planes_and_classes_of_other_detectors(architecture, num_planes, num_classes):
    names = tuple(f"class{number}" for number in range(num_classes))
    detector = Detector(num_planes=num_planes, classes=names)
    options = (OTHERS | {Architecture.URESNET: SMALL})[architecture]
    network = networks.SECTIONS[architecture](**options)
    model = models.make(network, detector=detector)
    example = model.example_input()
    logits, _ = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), example)
    )
    assert logits.shape[-1] == num_classes
    if isinstance(example, Sites):
        assert example.empty.shape == (1, num_planes, num_classes)
        assert example.steps[-1].parts.shape[-1] == num_planes
    else:
        assert logits.shape[:-1] == example.shape and example.shape[1] == num_planes


@pytest.mark.slow
@ALL
def test_events_are_independent_and_planes_meet_where_they_should(architecture):
    network = other_network(architecture)
    variables = evenly_random_variables(network)
    logits = apply(network, variables)
    assert logits.shape == (*IMAGE.shape, 3) and logits.dtype == np.float32
    second = apply(network, variables, IMAGE[1:])
    np.testing.assert_allclose(second[0], logits[1], atol=1e-5)
    other = IMAGE.copy()
    other[:, 2] = 0
    difference = np.abs(apply(network, variables, other) - logits).max((0, 2, 3, 4))
    assert difference[2] > 1e-3
    meet = architecture is not Architecture.SEGFORMER
    assert (difference[:2].max() > 1e-4) if meet else (difference[:2].max() == 0)


@pytest.mark.slow
@ALL
def test_bfloat16_is_close_to_float32(architecture):
    network = other_network(architecture)
    variables = evenly_random_variables(network)
    expected = apply(network, variables)
    logits = apply(network, variables, dtype=jnp.bfloat16)
    assert logits.dtype == np.float32
    error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < 3e-2


@pytest.mark.slow
@pytest.mark.parametrize("remat", [Remat.BLOCK, Remat.STAGE])
@ALL
def test_what_is_computed_twice_changes_nothing(architecture, remat):
    network = other_network(architecture)
    if hasattr(network, "normalization"):
        network = dataclasses.replace(network, normalization=Normalization.NONE)
    variables = random_variables(network)
    weight = normal(*IMAGE.shape, 3)
    taken, to_images = as_input(network, IMAGE)

    def program(remat):
        model = models.make(network, remat=remat)

        def loss(params):
            logits = model.apply({"params": params}, taken, train=True)
            return (to_images(logits) * weight).sum()

        return jax.jit(jax.value_and_grad(loss))

    texts = [
        str(program(option).trace(variables["params"]).jaxpr)
        for option in (Remat.NONE, remat)
    ]
    assert "prevent_cse=True" not in texts[0]
    assert texts[1].count("prevent_cse=True") >= 4
    expected, found = (
        program(option)(variables["params"]) for option in (Remat.NONE, remat)
    )
    for value, reference in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        size = max(np.abs(reference).max(), 1e-3)
        np.testing.assert_allclose(value, reference, atol=1e-5 * size)


def test_a_run_says_which_images_its_network_takes():
    values = {"network": {"architecture": "segformer"}, "data": {"downsample": 5}}
    with pytest.raises(ConfigError) as error:
        parts.make_network(resolve.resolve(values), (40, 64))
    assert str(error.value) == (
        "network.sr_ratios=(8, 2, 4, 1): expected an image of at least 52 x 52 and "
        "divisible by 4, got 40 x 64 with data.downsample=5"
    )


@pytest.mark.parametrize("heads", [2, 4])  # of two features, and of one
def test_attention_in_half_precision_on_this_platform(heads):
    query, key, value = (normal(1, 24, 4, seed=seed) for seed in range(3))

    def total(dtype, *arrays):
        y = attend(*(x.astype(dtype) for x in arrays), heads)
        return y.astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(total, argnums=3), static_argnums=0)
    expected = gradient(jnp.float32, query, key, value)
    for dtype in (jnp.float16, jnp.bfloat16):
        found = gradient(dtype, query, key, value)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-2)
