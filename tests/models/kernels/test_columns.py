"""Columns of the image as features: the same numbers as without, in every network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Kernels,
    Network,
    Normalization,
    Remat,
    Upsampling,
)
from ctjax.learning import sharding
from ctjax.models import UResNet, blocks
from ctjax.models.kernels import columns, convolution
from tests.support.small_networks import SMALL, random_variables

# (N, H, W), kernel size, features in and out, columns that become features.
SHAPES = [
    ((3, 6, 16), 3, 16, 16, 4),
    ((3, 4, 8), 3, 32, 32, 2),
    ((3, 7, 32), 5, 1, 16, 16),
    ((2, 5, 8), 3, 2, 5, 8),  # one block, both edges
    ((1, 3, 12), 5, 3, 4, 2),
    ((1, 2, 8), 7, 2, 3, 4),  # lower than the kernel
    ((2, 3, 8), 1, 16, 3, 4),  # reaches no other block
]

BASE = Network(**SMALL)


def operands(shape, size, features, outputs, dtype=jnp.float32):
    random = np.random.default_rng(0)
    shapes = (*shape, features), (size, size, features, outputs), (*shape, outputs)
    return [jnp.asarray(random.normal(size=s), dtype) for s in shapes]


def products(function, *operands):
    """The convolution and its gradients with respect to input and kernel."""

    @jax.jit
    def run(x, kernel, cotangent):
        value, pullback = jax.vjp(function, x, kernel)
        return value, *pullback(cotangent)

    return run(*operands)


def by_columns(count):
    def convolve(x, kernel):
        y = columns.convolve(columns.fold(x, count), kernel, count)
        return columns.unfold(y, count)

    return convolve


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_is_the_same_convolution(options):
    *shapes, count = options
    arguments = operands(*shapes)
    found = products(by_columns(count), *arguments)
    expected = products(convolution.plain, *arguments)
    for ours, theirs in zip(found, expected, strict=True):
        scale = np.abs(theirs).max()
        # A rounding for each of the products that are summed, in another order.
        np.testing.assert_allclose(ours, theirs, atol=3e-6 * scale, rtol=0)


@pytest.mark.parametrize("options", SHAPES[:3], ids=str)
def test_bfloat16_is_rounded_once(options):
    *shapes, count = options
    x, kernel, cotangent = operands(*shapes)
    x, cotangent = (part.astype(jnp.bfloat16) for part in (x, cotangent))
    rounded = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    found = products(by_columns(count), x, rounded, cotangent)
    wide = [part.astype(jnp.float32) for part in (x, rounded, cotangent)]
    expected = products(convolution.plain, *wide)
    # The kernel's gradient is summed over the columns in float32.
    assert [part.dtype for part in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for ours, theirs in zip(found, expected, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(
            ours.astype(jnp.float32), theirs, atol=2**-8 * scale, rtol=0
        )


def test_a_spread_kernel_has_each_value_in_every_column():
    kernel = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    spread = np.asarray(columns.spread(kernel, 2))
    assert spread.shape == (3, 3, 2, 2)
    # Row 0: of the blocks before, here and after, columns in and out.
    np.testing.assert_array_equal(
        spread[0], [[[0, 0], [1, 0]], [[2, 1], [3, 2]], [[0, 3], [0, 0]]]
    )


def test_gradient_of_a_bias_is_summed_in_float32():
    # In bfloat16 a sum of ones stays at 256.
    gradient = jnp.ones((1, 8, 64, 8), jnp.bfloat16)
    _, pullback = jax.vjp(columns.add_bias, gradient, jnp.zeros(2))
    through, sums = pullback(gradient)
    assert sums.dtype == jnp.float32
    np.testing.assert_array_equal(sums, [8 * 64 * 4] * 2)
    np.testing.assert_array_equal(through, gradient)


@pytest.mark.parametrize(
    ("shape", "kernel", "wanted", "measured"),
    [
        ((3, 1280, 2048, 16), (3, 3, 16, 16), 4, 4),
        ((3, 640, 1024, 32), (3, 3, 32, 32), 2, 2),
        ((3, 1280, 2048, 1), (5, 5, 1, 16), 16, 16),
        ((3, 640, 1024, 8), (3, 3, 8, 8), 8, 1),
        ((3, 320, 512, 48), (3, 3, 48, 48), 1, 1),
        ((3, 320, 510, 16), (3, 3, 16, 16), 2, 2),  # not a multiple of 4
        ((3, 320, 511, 16), (3, 3, 16, 16), 1, 1),
        ((3, 1280, 2048, 16), (1, 1, 16, 3), 4, 4),
        ((3, 320, 512, 16), (1, 1, 16, 16), 4, 1),
        ((3, 320, 512, 32), (7, 7, 32, 32), 1, 1),  # reaches over a block
    ],
)
def test_the_rule(shape, kernel, wanted, measured, monkeypatch):
    assert columns.count(shape, kernel, True) == wanted
    assert columns.count(shape, kernel, False) == 1
    assert columns.count(shape, kernel, None) == 1  # this is no GPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert columns.count(shape, kernel, None) == measured
    assert columns.count(shape, kernel, False) == 1


def test_only_gpus_choose_it_by_themselves(monkeypatch):
    image = jnp.zeros((1, 3, 4, 8))

    def program(kernels):
        network = dataclasses.replace(BASE, n_initial_filters=16, kernels=kernels)
        model = UResNet(network)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        return str(jax.make_jaxpr(lambda v: model.apply(v, image))(variables))

    plain = program(Kernels.XLA)
    assert program(Kernels.AUTO) == plain != program(Kernels.COLUMNS)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert program(Kernels.AUTO) != plain == program(Kernels.XLA)


def results(network, train, dtype=jnp.float32, remat=Remat.NONE):
    """Loss, logits, running statistics and gradients with random variables."""
    image = np.random.default_rng(1).exponential(size=(2, 3, 8, 12))
    variables = random_variables(network)
    model = UResNet(network, dtype, remat=remat)

    def loss(params, image):
        logits, updated = model.apply(
            {**variables, "params": params}, image, train=train, mutable=["batch_stats"]
        )
        weight = np.random.default_rng(2).normal(size=logits.shape)
        return (logits * weight.astype(np.float32)).sum(), (logits, updated)

    function = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (loss_value, found), gradients = function(
        variables["params"], image.astype(np.float32)
    )
    return loss_value, (*found, gradients)


def assert_near(found, expected, tolerance):
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        # Gradients of biases before a normalization are 0 but for roundings of the sums
        # that they are of.
        scale = max(float(jnp.abs(theirs).max()), 3.0)
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("normalization", [Normalization.BATCH, Normalization.NONE])
def test_a_block_is_the_same(normalization):
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, 3, 4, 8, 2)).astype(np.float32)

    def results(has_columns):
        def make_block(**options):
            return blocks.Block(
                **{"features": 2, "kernel_size": 3, "bias": True, "num_planes": 3},
                normalization=normalization,
                has_columns=has_columns,
                **options,
            )

        block = blocks.ResidualBlock(make_block)
        shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, True))
        random = np.random.default_rng(1)
        variables = jax.tree.map(
            lambda leaf: random.uniform(0.5, 1.5, leaf.shape), shapes
        )
        variables = jax.tree.map(np.float32, variables)

        @jax.jit
        def run(params, x):
            def loss(params, x):
                y, updated = block.apply(
                    {**variables, "params": params}, x, True, mutable=["batch_stats"]
                )
                return (weight * y).sum(), (y, updated)

            return jax.grad(loss, (0, 1), has_aux=True)(params, x)

        return run(variables["params"], x)

    assert_near(results(True), results(False), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"normalization": Normalization.NONE},
        {"normalization": Normalization.LAYER},
        {"normalization": Normalization.INSTANCE},
        {"normalization": Normalization.NONE, "bias": False},
        {"bias": False},
        {"residual": False},
        {"block_concat": True},
        {"connections": Connection.SUM},
        {"connections": Connection.NONE},
        {"growth_rate": GrowthRate.MULTIPLICATIVE, "depth": 2},
        {"downsampling": Downsampling.CONVOLUTIONAL},
        {"upsampling": Upsampling.CONVOLUTIONAL},
        {"blocks_per_layer": 0},
        {"blocks_final": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("train", [True, False])
def test_the_network_is_the_same(change, train):
    network = dataclasses.replace(BASE, **change)
    with_columns = dataclasses.replace(network, kernels=Kernels.COLUMNS)
    (_, found), (_, expected) = (results(n, train) for n in (with_columns, network))
    # Some pixels' few features hardly differ, and are divided by how much they do:
    # roundings of 1e-7 become 1e-4 there, in float64 nothing remains of them.
    is_layer = network.normalization is Normalization.LAYER
    assert_near(found, expected, 4e-4 if is_layer else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [Remat.BLOCK, Remat.STAGE])
def test_what_is_computed_twice_changes_nothing(remat):
    network = dataclasses.replace(BASE, kernels=Kernels.COLUMNS)
    found, expected = (results(network, True, remat=r) for r in (remat, Remat.NONE))
    assert_near(found, expected, 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", [Normalization.BATCH, Normalization.NONE])
def test_bfloat16_is_as_near_as_without(normalization):
    network = dataclasses.replace(BASE, normalization=normalization)
    with_columns = dataclasses.replace(network, kernels=Kernels.COLUMNS)

    def logits(network, dtype=jnp.float32):
        return results(network, True, dtype)[1][0]

    exact = logits(network)
    errors = [
        float(jnp.linalg.norm(logits(n, jnp.bfloat16) - exact))
        for n in (with_columns, network)
    ]
    assert 0 < errors[0] < 1.5 * errors[1]


@pytest.mark.slow
def test_statistics_of_many_devices():
    """Batch statistics over four devices are those of one, with columns as without."""
    network = dataclasses.replace(BASE, sync_batch_norm=True, kernels=Kernels.COLUMNS)
    variables = random_variables(network)
    image = np.random.default_rng(1).exponential(size=(4, 3, 8, 12))
    axis = sharding.EVENT_AXIS

    def apply(axis_name, variables, image):
        model = UResNet(network, axis_name=axis_name)
        logits, updated = model.apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
        return logits, updated["batch_stats"]

    on_all = jax.shard_map(
        lambda v, x: apply(axis, v, x),
        mesh=sharding.make_mesh(),
        in_specs=(sharding.REPLICATED, sharding.BY_EVENT),
        out_specs=(sharding.BY_EVENT, sharding.REPLICATED),
    )
    image = image.astype(np.float32)
    found = jax.jit(on_all)(variables, image)
    expected = jax.jit(lambda v, x: apply(None, v, x))(variables, image)
    assert_near(found, expected, 1e-4)
