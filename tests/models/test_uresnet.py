"""UResNet: what its options change, what they leave alone, and its number formats."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Network,
    Normalization,
    Remat,
    Upsampling,
)
from ctjax.models import UResNet
from tests.support.small_networks import SMALL, random_variables

NORMALIZATIONS = [one for one in Normalization if one is not Normalization.GROUP]
"""Those that this network has."""

BASE = Network(**SMALL)
IMAGE = np.random.default_rng(1).exponential(size=(2, 3, 8, 12)).astype(np.float32)


def apply(network, variables, image=IMAGE, train=False, dtype=jnp.float32):
    @jax.jit
    def run(variables, image):
        logits, updated = UResNet(network, dtype).apply(
            variables, image, train=train, mutable=["batch_stats"]
        )
        return logits, updated.get("batch_stats", {})

    return jax.tree.map(np.asarray, run(variables, image))


def shapes(network):
    image = jnp.zeros((1, 3, 2**network.depth, 2**network.depth))
    variables = jax.eval_shape(UResNet(network).init, jax.random.key(0), image)
    return jax.tree.map(lambda leaf: leaf.shape, variables)


@pytest.mark.parametrize(
    "change",
    [
        {"bias": False},
        {"normalization": Normalization.NONE},
        {"normalization": Normalization.LAYER},
        {"residual": False},
        {"block_concat": True},
        {"connections": Connection.SUM},
        {"connections": Connection.NONE},
        {"growth_rate": GrowthRate.MULTIPLICATIVE, "depth": 2},
        {"downsampling": Downsampling.CONVOLUTIONAL},
        {"upsampling": Upsampling.CONVOLUTIONAL},
        {"n_initial_filters": 3},
        {"depth": 2},
        {"blocks_per_layer": 2},
        {"blocks_deepest_layer": 2},
        {"blocks_final": 0},
        {"filter_size_deepest": 5},
        {"bottleneck_deepest": 4},
    ],
    ids=str,
)
def test_option_changes_the_variables(change):
    base = dataclasses.replace(
        BASE, depth=change.get("depth", 1) if len(change) > 1 else 1
    )
    assert shapes(dataclasses.replace(base, **change)) != shapes(base)


def test_connections_without_and_by_sum_differ():
    # Both have the same variables.
    variables = random_variables(dataclasses.replace(BASE, connections=Connection.SUM))
    by_sum, without = (
        apply(dataclasses.replace(BASE, connections=connection), variables)[0]
        for connection in (Connection.SUM, Connection.NONE)
    )
    assert np.abs(by_sum - without).max() > 1e-2


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("train", [False, True])
def test_logits_of_every_normalization(normalization, train):
    network = dataclasses.replace(BASE, normalization=normalization)
    variables = random_variables(network)
    logits, stats = apply(network, variables, train=train)
    assert logits.shape == (2, 3, 8, 12, 3) and logits.dtype == np.float32
    assert np.isfinite(logits).all() and logits.std() > 1e-3
    assert bool(stats) == (normalization is Normalization.BATCH)
    if stats:
        same = jax.tree.map(np.array_equal, stats, variables["batch_stats"])
        assert not any(jax.tree.leaves(same)) if train else all(jax.tree.leaves(same))


@pytest.mark.parametrize("train", [False, True])
def test_swapping_planes_swaps_logits_where_planes_stay_apart(train):
    order = np.array([2, 0, 1])
    for block_concat in (True, False):
        network = dataclasses.replace(BASE, block_concat=block_concat)
        variables = random_variables(network)
        logits, _ = apply(network, variables, train=train)
        swapped, _ = apply(network, variables, IMAGE[:, order], train=train)
        difference = np.abs(swapped - logits[:, order]).max()
        # Without block_concat the deepest level mixes them.
        assert (difference < 1e-5) if block_concat else (difference > 1e-3)


def test_events_are_independent_in_evaluation():
    variables = random_variables(BASE)
    both, _ = apply(BASE, variables)
    second, _ = apply(BASE, variables, IMAGE[1:])
    np.testing.assert_allclose(second[0], both[1], atol=1e-5)
    in_training, _ = apply(BASE, variables, train=True)
    alone, _ = apply(BASE, variables, IMAGE[1:], train=True)
    assert np.abs(alone[0] - in_training[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 3, 9, 12), "divisible by 2 "),
        ((1, 3, 8, 11), "divisible by 2 "),
        ((1, 2, 8, 12), r"expected \[B, 3"),
    ],
)
def test_image_that_does_not_fit(shape, expected):
    with pytest.raises(ValueError, match=expected):
        UResNet(BASE).init(jax.random.key(0), jnp.zeros(shape))


def convolution_types(network, dtype):
    """Operand types of every convolution in the traced program."""
    variables = random_variables(network)
    jaxpr = jax.make_jaxpr(
        lambda variables: UResNet(network, dtype).apply(
            variables, IMAGE, train=True, mutable=["batch_stats"]
        )
    )(variables)
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                found.extend(str(v.aval.dtype) for v in equation.invars)
                found.append(str(equation.outvars[0].aval.dtype))
            for parameter in equation.params.values():
                if hasattr(parameter, "jaxpr"):
                    walk(parameter.jaxpr)
                elif hasattr(parameter, "eqns"):
                    walk(parameter)

    walk(jaxpr.jaxpr)
    return found


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("upsampling", list(Upsampling))
def test_bfloat16_convolutions(normalization, upsampling):
    network = dataclasses.replace(
        BASE, normalization=normalization, upsampling=upsampling
    )
    found = convolution_types(network, jnp.bfloat16)
    # initial, 2 + 2 residual blocks, down, up, skip, bottleneck, final, ...
    assert len(found) >= 3 * 10
    assert set(found) == {"bfloat16"}
    assert set(convolution_types(network, jnp.float32)) == {"float32"}


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_is_close_to_float32(train):
    variables = random_variables(BASE)
    expected, expected_stats = apply(BASE, variables, train=train)
    logits, stats = apply(BASE, variables, train=train, dtype=jnp.bfloat16)
    assert logits.dtype == np.float32
    error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    # bfloat16 keeps 8 bits, 4e-3 a rounding, over some fifteen layers in turn; batch
    # normalization over the 8 x 12 pixels of two events amplifies it.
    assert 1e-4 < error < (6e-2 if train else 3e-2)
    for value, reference in zip(
        jax.tree.leaves(stats), jax.tree.leaves(expected_stats), strict=True
    ):
        assert value.dtype == np.float32
        # Of every layer's statistics alike; 4.7e-3 is the largest.
        change = np.linalg.norm(value - reference) / np.linalg.norm(reference)
        assert (0 < change < 1e-2) if train else change == 0


def gradient_program(network, remat):
    """A function of the variables: loss, gradient and running statistics."""
    model = UResNet(network, remat=remat)

    def loss(params, stats):
        logits, updated = model.apply(
            {"params": params, "batch_stats": stats},
            IMAGE,
            train=True,
            mutable=["batch_stats"],
        )
        weight = np.random.default_rng(2).normal(size=logits.shape)
        return (logits * weight.astype(np.float32)).sum(), updated

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("remat", "residual"),
    [(Remat.BLOCK, True), (Remat.BLOCK, False), (Remat.STAGE, True)],
)
def test_what_is_computed_twice_changes_nothing(remat, residual):
    network = dataclasses.replace(BASE, residual=residual, blocks_per_layer=2)
    variables = random_variables(network)
    again = jax.eval_shape(
        UResNet(network, remat=remat).init, jax.random.key(0), jnp.asarray(IMAGE)
    )
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    arguments = variables["params"], variables["batch_stats"]
    texts, results = [], []
    for option in (Remat.NONE, remat):
        program = gradient_program(network, option)
        texts.append(str(program.trace(*arguments).jaxpr))
        results.append(jax.tree.map(np.asarray, program(*arguments)))
    # Two levels and the final layer: five blocks down, up and below, or three series
    # and that below, each once in the gradient.
    expected = {Remat.BLOCK: 2 + 1 + 2 + 1, Remat.STAGE: 1 + 1 + 1 + 1}[remat]
    assert "remat" not in texts[0]
    assert texts[1].count("prevent_cse=True") >= expected
    for value, reference in zip(
        jax.tree.leaves(results[1]), jax.tree.leaves(results[0]), strict=True
    ):
        largest = max(np.abs(reference).max(), 1e-3)
        # What is computed again is fused otherwise, and sums over all pixels round.
        np.testing.assert_allclose(value, reference, atol=5e-6 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("residual", [True, False])
def test_gradient_where_a_level_has_no_blocks(residual):
    """What is pooled is skipped, too; compiled with the forward pass or apart."""
    network = dataclasses.replace(
        BASE,
        n_initial_filters=4,
        depth=2,
        blocks_per_layer=0,
        residual=residual,
        normalization=Normalization.NONE,
    )
    params = random_variables(network)["params"]
    # Mostly without charge, where pixels of a window tie.
    image = np.random.default_rng(1).exponential(size=(2, 3, 32, 32))
    image = (image * (image > 1.5)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=(*image.shape, 3)).astype(np.float32)

    def logits(params):
        return UResNet(network).apply({"params": params}, image, train=True)

    together = jax.jit(jax.grad(lambda params: jnp.sum(logits(params) * weight)))
    _, pullback = jax.jit(lambda params: jax.vjp(logits, params))(params)
    (expected,) = jax.jit(lambda pullback: pullback(weight))(pullback)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for value, reference in zip(
        jax.tree.leaves(together(params)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(value, reference, atol=1e-5 * largest)
