"""Fused convolutions: the kernel, interpreted, beside what it stands for.

On a GPU the same comparison runs with the compiled kernel, in test_gpu.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Kernels, Network, Normalization
from ctjax.learning import sharding
from ctjax.models import UResNet
from ctjax.models.kernels import convolution
from ctjax.models.kernels import gpu as kernels_gpu
from ctjax.runs import parts
from tests.support import tiny

PLANES = 3


def inputs(features, outputs, dtype=jnp.float32, seed=0):
    random = np.random.default_rng(seed)
    shape = (2 * PLANES, 8, 128)

    def draw(*size, scale=1.0):
        return jnp.asarray(random.normal(0, scale, size), jnp.float32)

    return {
        "x": draw(*shape, features).astype(dtype),
        "kernel": draw(3, 3, features, outputs, scale=0.1).astype(dtype),
        "bias": draw(outputs),
        "affine": (1 + draw(PLANES, features, scale=0.2), draw(PLANES, features)),
        "residual": draw(*shape, outputs).astype(dtype),
    }


CASES = {
    "inference": {"affine": None, "num_planes": None, "is_activated": True},
    "first": {"affine": None, "residual": None, "num_planes": 3, "is_activated": False},
    "second": {"residual": None, "num_planes": 3, "is_activated": False},
    "all": {"num_planes": 3, "is_activated": True},
}


def compare(function, case, features, outputs, dtype):
    """Both on one set of inputs; bfloat16 rounds the sums' terms only in one."""
    arguments = {**inputs(features, outputs, dtype), **CASES[case]}
    y, sums = jax.jit(function, static_argnames=("num_planes", "is_activated"))(
        **arguments
    )
    expected, expected_sums = kernels_gpu.plain(**arguments)
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(
        y.astype(jnp.float32),
        expected.astype(jnp.float32),
        rtol=tolerance,
        atol=tolerance,
    )
    if sums is None:
        assert expected_sums is None
    else:
        scale = float(jnp.abs(expected_sums).max())
        np.testing.assert_allclose(
            sums, expected_sums, atol=scale * (1e-5 if dtype == jnp.float32 else 2e-3)
        )


@pytest.mark.parametrize(
    "case",
    ["inference", "first", pytest.param("second", marks=pytest.mark.slow), "all"],
)
@pytest.mark.parametrize(
    "features, outputs",
    [
        (16, 16),
        pytest.param(16, 32, marks=pytest.mark.slow),
        pytest.param(32, 32, marks=pytest.mark.slow),
    ],
)
def test_the_kernel_computes_what_it_stands_for(case, features, outputs):
    def interpreted(**arguments):
        return kernels_gpu.launch(**arguments, interpret=True)

    compare(interpreted, case, features, outputs, jnp.float32)
    if features == outputs == 16:
        compare(interpreted, case, features, outputs, jnp.bfloat16)


def test_what_lies_beyond_the_image_is_zero_after_the_activation():
    # Not the activated offset, which is what zeros beyond the image would become.
    given = inputs(16, 16) | CASES["second"]
    given["x"] = jnp.zeros_like(given["x"])
    given["kernel"] = jnp.ones_like(given["kernel"])
    given["bias"] = jnp.zeros_like(given["bias"])
    given["affine"] = (jnp.ones((PLANES, 16)), jnp.ones((PLANES, 16)))
    y, _ = kernels_gpu.launch(**given, interpret=True)
    assert float(y[0, 4, 64, 0]) == 9 * 16
    assert float(y[0, 0, 64, 0]) == 6 * 16
    assert float(y[0, 0, 0, 0]) == float(y[5, 7, 127, 3]) == 4 * 16


@pytest.mark.parametrize(
    "shape, kernel, expected",
    [
        ((3, 640, 1024, 16), (3, 3, 16, 16), True),
        ((3, 640, 1024, 32), (3, 3, 32, 32), True),
        ((3, 640, 1024, 48), (3, 3, 48, 48), False),  # no power of 2
        ((3, 640, 1024, 8), (3, 3, 8, 8), False),  # too few for the tensor cores
        ((3, 640, 1024, 16), (1, 1, 16, 16), False),
        ((3, 640, 96, 16), (3, 3, 16, 16), False),
        ((3, 10, 128, 16), (3, 3, 16, 16), False),
    ],
)
def test_fits(shape, kernel, expected):
    assert kernels_gpu.fits(shape, kernel) is expected


def test_gradients_of_a_normalized_convolution():
    given = inputs(16, 32)
    weights = inputs(16, 32, seed=1)

    def loss(function, x, affine, kernel):
        y, (total, squares) = function(x, affine, kernel, PLANES)
        return (
            (y * weights["residual"]).sum()
            + (total * weights["bias"][None]).sum()
            + 0.1 * (squares * weights["bias"][None]).sum()
        )

    def plain(x, affine, kernel, planes):
        bias = jnp.zeros(kernel.shape[-1])
        y, sums = kernels_gpu.plain(
            x, kernel, bias, affine, None, is_activated=False, num_planes=planes
        )
        return y, (sums[:, 0], sums[:, 1])

    arguments = given["x"], given["affine"], given["kernel"]
    for affine in (given["affine"], None):
        arguments = given["x"], affine, given["kernel"]
        which = (0, 1, 2) if affine is not None else (0, 2)
        found, expected = (
            jax.grad(lambda *a, f=f: loss(f, *a), which)(*arguments)
            for f in (kernels_gpu.normalized, plain)
        )
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("is_activated", [True, False])
@pytest.mark.parametrize("has_residual", [True, False])
def test_gradients_of_a_biased_convolution(is_activated, has_residual):
    given = inputs(16, 32)
    residual = given["residual"] if has_residual else None
    weights = inputs(16, 32, seed=1)["residual"]

    def plain(x, kernel, bias, residual, is_activated):
        return kernels_gpu.plain(
            *(x, kernel, bias, None, residual),
            is_activated=is_activated,
            num_planes=None,
        )[0]

    arguments = given["x"], given["kernel"], given["bias"], residual
    found, expected = (
        jax.grad(
            lambda *a, f=f: (f(*a, is_activated) * weights).sum(),
            (0, 1, 2, 3) if has_residual else (0, 1, 2),
        )(*arguments)
        for f in (kernels_gpu.biased, plain)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_training_is_lowered_to_the_kernel_for_gpus(dtype):
    # As far as a machine without a GPU can go: Triton's own form, not yet compiled.
    gpu = jax.sharding.AbstractDevice("NVIDIA H100", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh(
        (2,), (sharding.EVENT_AXIS,), (AxisType.Auto,), abstract_device=gpu
    )
    given = inputs(16, 16, dtype)

    def loss(x, affine, kernel):
        affine, kernel = sharding.varying((affine, kernel), sharding.EVENT_AXIS)
        y, (total, squares) = kernels_gpu.normalized(x, affine, kernel, PLANES)
        wide = y.astype(jnp.float32)
        share = (wide * wide).sum() + (total * squares).sum()
        return sharding.total(share, sharding.EVENT_AXIS)

    def step(x, affine, kernel):
        return jax.grad(loss, (1, 2))(x, affine, kernel)

    by_event, replicated = PartitionSpec(sharding.EVENT_AXIS), PartitionSpec()
    step = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(by_event, replicated, replicated),
            out_specs=replicated,
        )
    )
    traced = step.trace(given["x"], given["affine"], given["kernel"])
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "xla.gpu.triton" in text or "triton_kernel_call" in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "triton" not in text


def random_like(network, image):
    model = UResNet(network)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    random = np.random.default_rng(3)

    def fill(path, leaf):
        if path[-1].key in ("var", "scale"):
            return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return random.normal(0, 0.1, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize("normalization", ["batch", "none"])
@pytest.mark.parametrize(
    "train, dtype, tolerance",
    [
        (True, jnp.float32, 1e-4),
        pytest.param(False, jnp.float32, 1e-4, marks=pytest.mark.slow),
        pytest.param(False, jnp.bfloat16, 5e-2, marks=pytest.mark.slow),
    ],
)
def test_the_network_is_the_same_with_fused_kernels(
    normalization, train, dtype, tolerance, monkeypatch
):
    # The CPU's own functions would come first.
    monkeypatch.setattr(convolution, "takes_bias", lambda x, kernel: False)
    network = Network(
        normalization=Normalization(normalization),
        n_initial_filters=16,
        depth=1,
        blocks_per_layer=1,
        blocks_deepest_layer=0,
        blocks_final=1,
        bottleneck_deepest=4,
    )
    image = jnp.asarray(np.random.default_rng(0).exponential(1, (2, 3, 8, 64)))
    image = image.astype(jnp.float32)
    variables = random_like(network, image)
    calls = []
    for name in ("biased", "normalized"):
        original = getattr(kernels_gpu, name)

        def spy(*arguments, name=name, original=original):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(kernels_gpu, name, spy)

    def run(kernels):
        changed = dataclasses.replace(network, kernels=kernels)

        def loss(params):
            logits, updated = UResNet(changed, dtype).apply(
                {**variables, "params": params},
                image,
                train=train,
                mutable=["batch_stats"],
            )
            return jnp.square(logits).mean(), (logits, updated)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    expected = run(Kernels.XLA)
    assert not calls
    found = run(Kernels.FUSED)
    # Three residual blocks of 16 features: before the pooling, after it, at the end.
    statistics = train and normalization == "batch"
    assert set(calls) == {"normalized" if statistics else "biased"}
    assert len(calls) >= 6
    if dtype == jnp.bfloat16:  # whose gradients are too rough to be compared
        found, expected = found[0], expected[0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, atol=tolerance * scale)


def test_a_jax_without_triton_is_named(monkeypatch, tmp_path):
    config = tiny.make(tmp_path, network__kernels="fused")
    parts.make_network(config, (40, 64))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert kernels_gpu.is_available()
    monkeypatch.setattr(kernels_gpu, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"network\.kernels=fused: expected a jax"):
        parts.make_network(config, (40, 64))
