"""The convolution of stride 1 against XLA's own, on both branches of its platforms."""

import concurrent.futures
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.learning import sharding
from ctjax.models.kernels import convolution
from ctjax.models.kernels import cpu as kernels_cpu

# (N, H, W), kernel size, features in and out: each way of computing, and their edges.
SHAPES = [
    ((3, 8, 12), 3, 4, 6),
    ((3, 7, 5), 3, 2, 3),
    ((1, 1, 1), 3, 2, 2),
    ((2, 6, 512), 3, 80, 80),  # blocks of fewer rows than the image has
    ((3, 6, 4), 1, 4, 8),
    ((3, 6, 4), 1, 4, 3),
    ((3, 6, 8), 5, 1, 4),
    ((3, 6, 8), 3, 1, 4),
    ((3, 6, 7), 5, 1, 4),
    ((1, 5, 8), 5, 6, 6),
]

# Those of cpu.c: tiles of lines and columns and what is left of them, rows that
# are summed in pieces, images lower than the kernel.
KERNEL_SHAPES = [
    ((3, 8, 16), 3, 16, 16),
    ((2, 5, 17), 3, 3, 8),
    ((1, 1, 29), 3, 2, 24),
    ((2, 2, 131), 3, 5, 40),
    ((3, 7, 128), 5, 1, 16),
    ((1, 2, 259), 5, 1, 8),
    ((1, 3, 22), 7, 8, 16),
]


@pytest.fixture(autouse=True)
def none_is_small(monkeypatch):
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", 0)


def operands(shape, size, features, outputs, dtype=jnp.float32):
    random = np.random.default_rng(0)
    shapes = (
        (*shape, features),
        (size, size, features, outputs),
        (*shape, outputs),
    )
    return [jnp.asarray(random.normal(size=s), dtype) for s in shapes]


def products(function, x, kernel, cotangent):
    """The convolution and its gradients with respect to input and kernel."""
    value, pullback = jax.vjp(function, x, kernel)
    return {
        "value": value,
        **dict(zip(("x", "kernel"), pullback(cotangent), strict=True)),
    }


@pytest.fixture
def kernels_in_c():
    if not kernels_cpu.are_usable():
        pytest.skip("cpu.c is not built: pip install -e . with a C compiler")


@pytest.mark.parametrize("options", KERNEL_SHAPES, ids=str)
@pytest.mark.parametrize("name", ["value", "x", "kernel"])
def test_c_computes_what_it_can(kernels_in_c, options, name):
    _, _, features, outputs = options
    served = outputs if name != "x" else features
    lines = calls(convolution.convolve, options, name)
    assert bool(lines) == (served % kernels_cpu.LANES == 0)


@pytest.mark.parametrize("widths", [(4, 4), (2, 5, 1), (8,)])
def test_parts_are_as_one(widths):
    x, kernel, cotangent = operands((2, 6, 8), 3, sum(widths), 5)
    ends = np.cumsum(widths)[:-1]

    def in_parts(x, kernel):
        return convolution.convolve_parts(jnp.split(x, ends, axis=-1), kernel)

    found = products(in_parts, x, kernel, cotangent)
    expected = products(convolution.plain, x, kernel, cotangent)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options", [*SHAPES, *KERNEL_SHAPES], ids=str)
def test_agrees_with_xla(options):
    arguments = operands(*options)
    found = jax.jit(lambda *a: products(convolution.convolve, *a))(*arguments)
    expected = jax.jit(lambda *a: products(convolution.plain, *a))(*arguments)
    for name, value in expected.items():
        scale = np.abs(value).max()
        # A rounding for each of the pixels that are summed, in another order.
        np.testing.assert_allclose(found[name], value, atol=3e-6 * scale, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("options", KERNEL_SHAPES, ids=str)
def test_agrees_with_xla_without_c(options, monkeypatch):
    monkeypatch.setattr(kernels_cpu, "are_usable", lambda: False)
    assert not calls(convolution.convolve, options, "value")
    test_agrees_with_xla(options)


def test_c_gives_the_same_bits_again(kernels_in_c):
    arguments = operands((4, 64, 96), 3, 16, 16)
    function = jax.jit(lambda *a: products(convolution.convolve, *a))
    first = function(*arguments)
    for _ in range(20):
        jax.tree.map(np.testing.assert_array_equal, function(*arguments), first)


@pytest.mark.parametrize("options", KERNEL_SHAPES, ids=str)
def test_c_gives_the_same_bits_by_wide_vectors(kernels_in_c, options, monkeypatch):
    if kernels_cpu.vector_lanes() == kernels_cpu.LANES:
        pytest.skip("vectors of this processor are short")
    found = []
    for lanes in (kernels_cpu.vector_lanes(), kernels_cpu.LANES):
        monkeypatch.setattr(kernels_cpu, "vector_lanes", lambda lanes=lanes: lanes)
        jax.clear_caches()
        function = jax.jit(lambda *a: products(convolution.convolve, *a))
        (config,) = set(
            re.findall(
                # Lanes are followed by how products are computed, and is_turned.
                r'backend_config = "[\d ]* (\d+) \d+ \d+"',
                function.lower(*operands(*options)).as_text(),
            )
        )
        assert int(config) == lanes
        found.append(function(*operands(*options)))
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("options", KERNEL_SHAPES, ids=str)
def test_c_adds_and_activates(kernels_in_c, options, has_residual):
    x, kernel, cotangent = operands(*options)
    assert convolution.takes_bias(x, kernel)
    random = np.random.default_rng(1)
    bias = jnp.asarray(random.normal(size=kernel.shape[-1]), jnp.float32)
    residual = jnp.asarray(random.normal(size=cotangent.shape), jnp.float32)
    arguments = (x, kernel, bias, residual if has_residual else None)

    def results(function):
        @jax.jit
        def both(cotangent, *arguments):
            value, pullback = jax.vjp(function, *arguments)
            return value, *pullback(cotangent)

        return both(cotangent, *arguments)

    found = results(convolution.convolve_biased)
    expected = results(convolution.plain_biased)
    assert (found[0] < 0).any() and (found[0] > 0).any()
    assert len(jax.tree.leaves(found)) == 4 + has_residual
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, atol=3e-6 * scale, rtol=0)


def test_sums_of_a_gradient_do_not_lose_what_is_small(kernels_in_c):
    # Half a million ones after a large one: summed one by one in single precision,
    # all of them would be lost, 1.5 %; here those of the same row are.
    gradient = np.ones((1, 512, 1024, 8), np.float32)
    gradient[0, 0, 0] = 2**25
    result = jnp.ones_like(gradient)
    through, sums = jax.jit(kernels_cpu.activation_gradient)(result, gradient)
    np.testing.assert_array_equal(through, gradient)
    np.testing.assert_allclose(sums, gradient.sum((0, 1, 2), np.float64), rtol=1e-4)


def test_c_serves_several_at_a_time(kernels_in_c):
    # As the devices of a process do.
    arguments = operands((4, 32, 64), 3, 16, 16)
    function = jax.jit(lambda *a: products(convolution.convolve, *a))
    first = function(*arguments)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: function(*arguments), range(40)):
            jax.tree.map(np.testing.assert_array_equal, found, first)


@pytest.mark.slow
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_bfloat16_agrees_with_float32(options):
    arguments = operands(*options, dtype=jnp.bfloat16)
    found = products(convolution.convolve, *arguments)
    wide = [x.astype(jnp.float32) for x in arguments]
    for name, value in products(convolution.plain, *wide).items():
        assert found[name].dtype == jnp.bfloat16
        scale = np.abs(value).max()
        # Summed in float32 and rounded once.
        np.testing.assert_allclose(
            found[name].astype(np.float32), value, atol=2**-8 * scale, rtol=0
        )


def program(function, options, name, platform):
    """Text of one of the products, as it is handed to the compiler."""
    return re.findall(
        r"stablehlo\.(?:convolution|dot_general)\b.*",
        lowered(function, options, name, platform),
    )


def calls(function, options, name, platform="cpu"):
    """Calls of C in one of the products."""
    text = lowered(function, options, name, platform)
    return re.findall(r"custom_call.*ctjax_.*", text)


def lowered(function, options, name, platform):
    traced = jax.jit(lambda *a: products(function, *a)[name]).trace(*operands(*options))
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (SHAPES[0], "kernel"),
        (SHAPES[4], "value"),
        (SHAPES[4], "x"),
        (SHAPES[4], "kernel"),
        (SHAPES[6], "value"),
    ],
    ids=str,
)
def test_only_the_cpu_computes_otherwise(options, name):
    cpu, gpu, xla = (
        [line.split("loc(")[0] for line in program(function, options, name, platform)]
        for function, platform in (
            (convolution.convolve, "cpu"),
            (convolution.convolve, "cuda"),
            (convolution.plain, "cuda"),
        )
    )
    shape = [re.findall(r"tensor<.*?>", "".join(lines)) for lines in (cpu, gpu, xla)]
    assert shape[1] == shape[2] != shape[0]
    assert len(gpu) == 1 and gpu[0].startswith("stablehlo.convolution")


@pytest.mark.parametrize("name", ["value", "x", "kernel"])
def test_other_devices_do_not_call_c(kernels_in_c, name):
    assert not calls(convolution.convolve, KERNEL_SHAPES[0], name, "cuda")


def test_small_ones_are_xlas(monkeypatch):
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", 1 << 20)
    for options in SHAPES[0], SHAPES[4], SHAPES[6], KERNEL_SHAPES[0]:
        for name in ("value", "x", "kernel"):
            own, xla = (
                program(function, options, name, "cpu")
                for function in (convolution.convolve, convolution.plain)
            )
            assert own == xla


@pytest.mark.parametrize(
    "options", [SHAPES[0], SHAPES[4], SHAPES[6], KERNEL_SHAPES[0]], ids=str
)
@pytest.mark.parametrize("is_activated", [False, True])
def test_on_many_devices(options, is_activated):
    shape, *rest = options
    arguments = operands((4, *shape[1:]), *rest)
    mesh, axis = sharding.make_mesh(), sharding.EVENT_AXIS

    def make(convolve, biased):
        def with_bias(x, kernel):
            return biased(x, kernel, kernel[0, 0, 0] - 0.5, None)

        return with_bias if is_activated else convolve

    def of_device(x, kernel, cotangent):
        kernel = sharding.varying(kernel, axis)
        own = make(convolution.convolve, convolution.convolve_biased)
        found = products(own, x, kernel, cotangent)
        return {**found, "kernel": sharding.total(found["kernel"], axis)}

    cut, same = sharding.BY_EVENT, sharding.REPLICATED
    on_all = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(cut, same, cut),
        out_specs={"value": cut, "x": cut, "kernel": same},
    )
    found = jax.jit(on_all)(*arguments)
    plain = make(convolution.plain, convolution.plain_biased)
    for name, value in products(plain, *arguments).items():
        np.testing.assert_allclose(
            found[name], value, atol=3e-6 * np.abs(value).max(), rtol=0
        )
