"""Fused convolutions: their programs, interpreted, and what is made of them.

On a GPU the compiled programs are compared, in test_gpu.py of tests/whole.
"""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Kernels, Network, Normalization, Remat
from ctjax.learning import sharding
from ctjax.models import UResNet
from ctjax.models.kernels import convolution
from ctjax.models.kernels import gpu as kernels_gpu
from ctjax.runs import parts
from tests.support import tiny

SLOPE = 0.01


def draw(*shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


CONVOLUTIONS = [
    # Neither rows nor pairs of columns fill their programs.
    {"shape": (2, 10, 40, 16), "bias": True, "is_activated": True},
    {"shape": (1, 7, 34, 8), "bias": True, "residual": True, "is_activated": True},
    {"shape": (1, 4, 32, 32), "mask": True},
    {"shape": (1, 5, 6, 16), "residual": True, "mask": True},
]
GRADIENTS = [(2, 10, 40, 16), (1, 3, 34, 8), (1, 5, 6, 32)]


@pytest.fixture(scope="module")
def interpreted():
    """What the programs write for all cases, from one process."""
    pytest.importorskip("triton", reason="triton is not installed")
    pytest.importorskip("torch", reason="extra [torch] is not installed")
    cases = []
    for case in CONVOLUTIONS:
        given = arrays(case)
        matrices = kernels_gpu.spread(given["kernel"])
        cases.append(
            {
                "program": "fused_convolution",
                "x": given["x"].tolist(),
                "other": np.asarray(matrices).tolist(),
                "outputs": case["shape"][-1],
                "options": {
                    "HAS_BIAS": "bias" in case,
                    "HAS_RESIDUAL": "residual" in case,
                    "IS_ACTIVATED": case.get("is_activated", False),
                    "HAS_MASK": "mask" in case,
                },
                "arrays": {
                    name: None if given[name] is None else given[name].tolist()
                    for name in ("bias", "residual", "mask")
                },
            }
        )
    for shape in GRADIENTS:
        cases.append(
            {
                "program": "fused_kernel_gradient",
                "x": draw(*shape).tolist(),
                "other": draw(*shape, seed=1).tolist(),
                "outputs": shape[-1],
                "options": {},
                "arrays": {},
            }
        )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.interpreted_programs"],
        input=json.dumps(cases),
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return [np.array(written) for written in json.loads(ended.stdout)]


def arrays(case):
    shape, features = case["shape"], case["shape"][-1]
    return {
        "x": draw(*shape),
        "kernel": draw(3, 3, features, features, scale=0.2),
        "bias": draw(features, seed=1) if "bias" in case else None,
        "residual": draw(*shape, seed=2) if "residual" in case else None,
        "mask": draw(*shape, seed=3) if "mask" in case else None,
    }


@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
def test_the_convolution_computes_what_it_stands_for(interpreted, index):
    case = CONVOLUTIONS[index]
    expected = kernels_gpu.plain(
        **arrays(case), is_activated=case.get("is_activated", False)
    )
    np.testing.assert_allclose(interpreted[index], expected, atol=2e-5)


@pytest.mark.parametrize("index", range(len(GRADIENTS)))
def test_the_kernel_gradient_computes_what_it_stands_for(interpreted, index):
    shape = GRADIENTS[index]
    features = shape[-1]
    sums = interpreted[len(CONVOLUTIONS) + index].sum((0, 1, 2))
    x, gradient = jnp.asarray(draw(*shape)), jnp.asarray(draw(*shape, seed=1))
    of_kernel, of_bias = kernels_gpu.plain_kernel_gradient(x, gradient)
    found = kernels_gpu.gathered(sums[: -2 * features], features, features)
    np.testing.assert_allclose(found, of_kernel, atol=1e-4)
    found = sums[-2 * features :].reshape(2, features).sum(0)
    np.testing.assert_allclose(found, of_bias, atol=1e-4)


def test_spread_and_gathered_are_transposes():
    kernel, matrices = draw(3, 3, 4, 5), draw(3, 16, 10, seed=1)
    spread = np.asarray(kernels_gpu.spread(kernel))
    gathered = np.asarray(kernels_gpu.gathered(jnp.asarray(matrices), 4, 5))
    assert np.vdot(spread, matrices) == pytest.approx(np.vdot(kernel, gathered), 1e-5)


@pytest.mark.parametrize(
    "shape, kernel, dtype, expected",
    [
        ((3, 640, 1024, 16), (3, 3, 16, 16), jnp.bfloat16, True),
        ((3, 640, 1024, 32), (3, 3, 32, 32), jnp.float16, True),
        ((3, 5, 6, 8), (3, 3, 8, 8), jnp.float32, True),
        ((3, 640, 1024, 32), (3, 3, 32, 32), jnp.float32, False),  # XLA is faster
        ((3, 640, 1024, 48), (3, 3, 48, 48), jnp.bfloat16, False),  # no power of 2
        ((3, 640, 1024, 16), (1, 1, 16, 16), jnp.bfloat16, False),
        ((3, 640, 1024, 16), (3, 3, 16, 32), jnp.bfloat16, False),
        ((3, 5, 7, 16), (3, 3, 16, 16), jnp.bfloat16, False),  # columns in pairs
    ],
)
def test_takes(shape, kernel, dtype, expected):
    assert kernels_gpu.takes(shape, kernel, dtype, True) is expected
    assert not kernels_gpu.takes(shape, kernel, dtype, False)
    # There is no GPU here, or no jax-triton, where the choice is left to the kernels.
    assert not kernels_gpu.takes(shape, kernel, dtype, None) or expected


def test_whole_float32_is_left_to_xla():
    case = (3, 8, 8, 16), (3, 3, 16, 16), jnp.float32, True
    assert kernels_gpu.takes(*case)
    for precision in ("highest", "float32", "high"):
        with jax.default_matmul_precision(precision):
            assert not kernels_gpu.takes(*case)


@pytest.mark.parametrize("is_residual", [True, False])
def test_gradients_of_a_series(is_residual):
    count, features = 4, 8
    x = draw(2, 6, 10, features)
    kernels = tuple(
        draw(3, 3, features, features, seed=i, scale=0.15) for i in range(count)
    )
    biases = tuple(draw(features, seed=9 + i) for i in range(count))
    weights = draw(*x.shape, seed=20)

    def plain(x, kernels, biases, is_residual):
        images = [x]
        for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            y = convolution.plain(images[-1], kernel) + bias[None, None, None]
            if is_residual and index % 2:
                y = y + images[-2]
            images.append(jnp.where(y > 0, y, SLOPE * y))
        return images[-1]

    found, expected = (
        jax.jit(
            jax.value_and_grad(
                lambda *given, f=f: (f(*given, is_residual) * weights).sum(), (0, 1, 2)
            )
        )(x, kernels, biases)
        for f in (kernels_gpu.series, plain)
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


def test_gradients_of_a_convolution():
    x, kernel, weights = draw(2, 6, 10, 8), draw(3, 3, 8, 8), draw(2, 6, 10, 8, seed=1)
    found, expected = (
        jax.grad(lambda *given, f=f: (f(*given) * weights).sum(), (0, 1))(x, kernel)
        for f in (kernels_gpu.convolve, convolution.plain)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_training_is_lowered_to_the_programs_for_gpus(dtype):
    """As far as a machine without a GPU can go: compiled by Triton, not yet by XLA."""
    if kernels_gpu.missing():
        pytest.skip(f"expected {kernels_gpu.missing()}")
    gpu = jax.sharding.AbstractDevice("NVIDIA H100", num_cores=132, platform="gpu")
    mesh = jax.sharding.AbstractMesh(
        (2,), (sharding.EVENT_AXIS,), (AxisType.Auto,), abstract_device=gpu
    )
    x = jax.ShapeDtypeStruct((6, 40, 128, 16), dtype)
    kernels = (jax.ShapeDtypeStruct((3, 3, 16, 16), jnp.float32),) * 2
    biases = (jax.ShapeDtypeStruct((16,), jnp.float32),) * 2

    def loss(x, kernels, biases):
        kernels, biases = sharding.varying((kernels, biases), sharding.EVENT_AXIS)
        y = kernels_gpu.series(x, kernels, biases, True)
        y = kernels_gpu.convolve(y, kernels[0])
        share = jnp.square(y.astype(jnp.float32)).sum()
        return sharding.total(share, sharding.EVENT_AXIS)

    by_event, replicated = PartitionSpec(sharding.EVENT_AXIS), PartitionSpec()
    step = jax.jit(
        jax.shard_map(
            lambda *given: jax.grad(loss, (1, 2))(*given),
            mesh=mesh,
            in_specs=(by_event, replicated, replicated),
            out_specs=replicated,
        )
    )
    traced = step.trace(x, kernels, biases)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Forward with and without residual, twice back, and the kernel's gradient.
    assert text.count("triton_kernel_call") >= 5
    assert "convolution" not in text.replace("fused_convolution", "")
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


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "normalization, residual, remat, train, dtype, tolerance",
    [
        ("none", True, "none", True, jnp.float32, 1e-4),
        pytest.param("none", True, "block", True, jnp.float32, 1e-4, marks=SLOW),
        pytest.param("none", False, "stage", True, jnp.float32, 1e-4, marks=SLOW),
        pytest.param("none", True, "none", False, jnp.bfloat16, 5e-2, marks=SLOW),
        pytest.param("batch", True, "none", True, jnp.float32, 1e-4, marks=SLOW),
        pytest.param("batch", False, "none", False, jnp.float32, 1e-4, marks=SLOW),
        pytest.param("layer", True, "none", True, jnp.float32, 1e-4, marks=SLOW),
    ],
)
def test_the_network_is_the_same_with_fused_kernels(
    normalization, residual, remat, train, dtype, tolerance, monkeypatch
):
    # The CPU's own functions would come first.
    monkeypatch.setattr(convolution, "takes_bias", lambda x, kernel: False)
    network = Network(
        normalization=Normalization(normalization),
        residual=residual,
        n_initial_filters=8 if dtype == jnp.float32 else 16,
        depth=1,
        blocks_per_layer=1,
        blocks_deepest_layer=0,
        blocks_final=2,
        bottleneck_deepest=4,
    )
    image = jnp.asarray(np.random.default_rng(0).exponential(1, (2, 3, 8, 32)))
    image = image.astype(jnp.float32)
    variables = random_like(network, image)
    calls = []
    for name in ("series", "convolve"):
        original = getattr(kernels_gpu, name)

        def spy(x, *rest, name=name, original=original):
            calls.append(name)
            return original(x, *rest)

        monkeypatch.setattr(kernels_gpu, name, spy)

    def run(kernels):
        changed = dataclasses.replace(network, kernels=kernels)
        model = UResNet(changed, dtype, remat=Remat(remat))

        def loss(params):
            logits, updated = model.apply(
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
    # Before the pooling, after it, at the end; convolution by convolution where their
    # own statistics come between.
    own_statistics = normalization == "layer" or (train and normalization == "batch")
    assert set(calls) == {"convolve" if own_statistics else "series"}
    assert len(calls) >= 3
    if dtype == jnp.bfloat16:  # whose gradients are too rough to be compared
        found, expected = found[0], expected[0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(float(jnp.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a, b, atol=tolerance * scale)


def test_what_the_kernels_lack_is_named(monkeypatch, tmp_path):
    config = tiny.make(tmp_path, network__kernels="fused")
    parts.make_network(config, (40, 64))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels_gpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"network\.kernels=fused: expected jax-tri"):
        parts.make_network(config, (40, 64))
    monkeypatch.setattr(kernels_gpu.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(kernels_gpu.importlib.metadata, "version", lambda name: "0.4.1")
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    assert "a jax before 0.12" in (kernels_gpu.missing() or "")
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
    assert kernels_gpu.is_available()
