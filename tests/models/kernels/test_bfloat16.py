"""The C functions for bfloat16 images, called without XLA, against float64.

What they compute for XLA is in test_convolution.py and, in networks, test_uresnet.py.
"""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.models import layers
from ctjax.models.kernels import convolution, cpu
from ctjax.models.kernels.activation import SLOPE

HALF_UNIT = 2.0**-8  # the largest relative error of a number rounded to bfloat16
SUMMED = 3e-6  # of the largest number: roundings of float32 sums

pytestmark = pytest.mark.skipif(
    cpu._load() is None,
    reason="cpu.c is not built: pip install -e . with a C compiler",
)

# (N, H, W), kernel size, features in and out: those of the networks at each level, odd
# widths, tiles of lines and columns and what is left of them, images of one row.
SHAPES = [
    ((3, 8, 16), 3, 16, 16),
    ((1, 3, 97), 3, 16, 16),
    ((2, 5, 17), 3, 3, 8),
    ((1, 1, 29), 3, 2, 24),
    ((2, 2, 131), 3, 5, 40),
    ((1, 3, 33), 3, 32, 32),
    ((1, 3, 31), 3, 48, 48),
    ((1, 3, 25), 3, 64, 64),
    ((1, 3, 9), 3, 80, 80),
    ((1, 3, 5), 3, 96, 96),
    ((2, 5, 8), 3, 112, 112),
    ((1, 4, 13), 3, 56, 56),
    ((3, 7, 128), 5, 1, 16),
    ((1, 2, 259), 5, 1, 8),
    ((1, 5, 8), 5, 32, 256),
    ((1, 3, 22), 7, 8, 16),
    ((2, 3, 5), 1, 16, 3),
    ((2, 3, 5), 1, 3, 16),
    ((1, 2, 7), 1, 7, 5),
    ((1, 2, 3), 1, 1, 1),
    ((1, 4, 250), 1, 32, 16),
]


def all_products():
    """By pairs where this processor can, and as every processor does."""
    library = cpu._load()
    if library is None or library.ctjax_kernels_bfloat16() == cpu.BFLOAT16:
        return [cpu.BFLOAT16]
    return [cpu.BFLOAT16, cpu.BFLOAT16_PAIRS]


by_products = pytest.mark.parametrize("products", all_products())
by_shape = pytest.mark.parametrize("options", SHAPES, ids=str)


def draw(*shape, seed=0):
    """bfloat16 numbers, of which zero images would hide what lies beside them."""
    values = np.random.default_rng(seed).normal(size=shape) + 0.25
    return values.astype(jnp.bfloat16)


def call(name, numbers, arrays, *results):
    """Calls a function of C; returns the results, which are given as shape and type."""
    library = cpu._load()
    assert library is not None
    outs = [np.full(shape, np.nan, dtype) for shape, dtype in results]
    config = " ".join(map(str, numbers)).encode()
    arrays = [np.ascontiguousarray(array) for array in arrays]
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    many = (ctypes.c_void_p * len(outs))(*(out.ctypes.data for out in outs))
    getattr(library, f"ctjax_{name}")(
        many if len(outs) > 1 else ctypes.c_void_p(outs[0].ctypes.data),
        pointers,
        config,
        ctypes.c_size_t(len(config)),
        None,
    )
    return outs[0] if len(outs) == 1 else outs


def numbers_of(x, outputs, size, products, is_turned=False):
    return (*x.shape, outputs, size, 8, products, int(is_turned))


def rounded(kernel):
    return kernel.astype(jnp.bfloat16).astype(np.float64)


def windows(x, size):
    """[k, k, N, H, W, C] float64: what each element of a kernel meets."""
    padding, (_, height, width, _) = size // 2, x.shape
    wide = np.pad(
        x.astype(np.float64), ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
    )
    return np.stack(
        [
            [wide[:, i : i + height, j : j + width] for j in range(size)]
            for i in range(size)
        ]
    )


def convolve(x, kernel):
    return np.einsum("ijnhwc,ijcf->nhwf", windows(x, len(kernel)), rounded(kernel))


def activate(y):
    return np.where(y > 0, y, SLOPE * y)


def assert_rounded_once(found, exact):
    assert found.dtype == jnp.bfloat16
    scale = np.abs(exact).max()
    error = np.abs(found.astype(np.float64) - exact)
    assert (error <= HALF_UNIT * np.abs(exact) + SUMMED * scale).all()


def operands(options):
    shape, size, features, outputs = options
    random = np.random.default_rng(3)
    kernel = random.normal(size=(size, size, features, outputs)).astype(np.float32)
    return draw(*shape, features), kernel, draw(*shape, outputs, seed=1)


@by_products
@by_shape
def test_convolution(options, products):
    x, kernel, y = operands(options)
    numbers = numbers_of(x, y.shape[-1], len(kernel), products)
    found = call("convolve", numbers, (x, kernel), (y.shape, y.dtype))
    assert_rounded_once(found, convolve(x, kernel))


@by_products
@by_shape
def test_gradient_of_the_input(options, products):
    x, kernel, gradient = operands(options)
    numbers = numbers_of(gradient, x.shape[-1], len(kernel), products, is_turned=True)
    found = call("convolve", numbers, (gradient, kernel), (x.shape, x.dtype))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    assert_rounded_once(found, convolve(gradient, turned))
    if x.shape[-1] % cpu.LANES == 0:
        found = call(
            "convolve_plus", numbers, (gradient, x, kernel), (x.shape, x.dtype)
        )
        assert_rounded_once(found, convolve(gradient, turned) + x.astype(np.float64))


@by_products
@by_shape
def test_gradient_of_the_kernel(options, products):
    x, kernel, gradient = operands(options)
    numbers = numbers_of(x, gradient.shape[-1], len(kernel), products)
    found = call("kernel_gradient", numbers, (x, gradient), (kernel.shape, np.float32))
    exact = np.einsum(
        "ijnhwc,nhwf->ijcf", windows(x, len(kernel)), gradient.astype(np.float64)
    )
    np.testing.assert_allclose(found, exact, rtol=0, atol=SUMMED * np.abs(exact).max())


@by_products
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize(
    "options", [shape for shape in SHAPES if shape[3] % cpu.LANES == 0], ids=str
)
def test_bias_residual_and_activation(options, has_residual, products):
    x, kernel, residual = operands(options)
    bias = np.random.default_rng(4).normal(size=kernel.shape[-1]).astype(np.float32)
    arrays = (x, residual, kernel, bias) if has_residual else (x, kernel, bias)
    found = call(
        "convolve_added" if has_residual else "convolve_biased",
        numbers_of(x, bias.size, len(kernel), products),
        arrays,
        (residual.shape, x.dtype),
    )
    exact = convolve(x, kernel) + bias
    if has_residual:
        exact = exact + residual.astype(np.float64)
    assert (exact < 0).any() and (exact > 0).any()
    assert_rounded_once(found, activate(exact))


@by_products
def test_activation_gradient(products):
    result, gradient = draw(2, 5, 131, 24), draw(2, 5, 131, 24, seed=1)
    through, sums = call(
        "activation_gradient",
        numbers_of(result, 24, 1, products),
        (result, gradient),
        (result.shape, result.dtype),
        ((24,), np.float32),
    )
    exact = np.where(result > 0, 1, SLOPE) * gradient.astype(np.float64)
    assert_rounded_once(through, exact)
    np.testing.assert_allclose(sums, exact.sum((0, 1, 2)), rtol=1e-5)


@by_products
def test_what_is_not_a_number_stays_none(products):
    x, kernel, y = operands(SHAPES[0])
    # In float32 the bits of the last would become infinity or zero when rounded.
    for value in (np.nan, np.array(0x7FFF, np.uint16).view(jnp.bfloat16)):
        x[0, 2, 5, 3] = value
        numbers = numbers_of(x, y.shape[-1], len(kernel), products)
        found = call("convolve", numbers, (x, kernel), (y.shape, y.dtype))
        is_none = np.isnan(found.astype(np.float32))
        assert is_none[0, 1:4, 4:7].all() and is_none.sum() == 9 * y.shape[-1]


@by_products
def test_rounding_is_to_even(products):
    # 1 + 2^-8 and 1 + 3 x 2^-8 lie in the middle between two bfloat16s.
    x = np.ones((1, 1, 16, 2), jnp.bfloat16)
    x[..., 1] = 2.0**-8
    x[0, 0, 8:, 1] = 3 * 2.0**-8
    kernel = np.ones((1, 1, 2, 8), np.float32)
    numbers = numbers_of(x, 8, 1, products)
    found = call("convolve", numbers, (x, kernel), ((1, 1, 16, 8), x.dtype))
    assert (found[0, 0, :8] == 1).all() and (found[0, 0, 8:] == 1 + 2.0**-6).all()


def doubling(count):
    """The matrix [2 n, n] of linear interpolation at half-pixel centres."""
    matrix, lines = np.zeros((2 * count, count)), np.arange(count)
    for is_later in (0, 1):
        matrix[2 * lines + is_later, lines] += 0.75
        beside = np.clip(lines + 2 * is_later - 1, 0, count - 1)
        np.add.at(matrix, (2 * lines + is_later, beside), 0.25)
    return matrix


by_small_shape = pytest.mark.parametrize(
    "shape", [(3, 6, 10, 16), (1, 1, 1, 8), (2, 5, 3, 24)], ids=str
)


@by_products
@by_small_shape
def test_upsampling(shape, products):
    n, height, width, features = shape
    x, gradient = draw(*shape), draw(n, 2 * height, 2 * width, features, seed=1)
    numbers = numbers_of(x, 0, 1, products)
    matrices = doubling(height), doubling(width)
    found = call("upsample", numbers, (x,), (gradient.shape, x.dtype))
    exact = np.einsum("yh,xw,nhwc->nyxc", *matrices, x.astype(np.float64))
    assert_rounded_once(found, exact)
    found = call("upsample_gradient", numbers, (gradient,), (shape, x.dtype))
    exact = np.einsum("yh,xw,nyxc->nhwc", *matrices, gradient.astype(np.float64))
    assert_rounded_once(found, exact)


@by_products
@by_small_shape
def test_pooling_and_the_first_of_its_maxima(shape, products):
    n, height, width, features = shape
    # Most windows tie, as in images.
    tiles = np.random.default_rng(0).integers(-1, 2, (n, height, 2, width, 2, features))
    x = tiles.reshape(n, 2 * height, 2 * width, features).astype(jnp.bfloat16)
    gradient = draw(*shape)
    numbers = numbers_of(gradient, 0, 1, products)
    found = call("pool", numbers, (x,), (shape, x.dtype))
    np.testing.assert_array_equal(found, tiles.max((2, 4)))
    found = call("pool_gradient", numbers, (x, gradient), (x.shape, x.dtype))
    four = tiles.transpose(0, 1, 3, 5, 2, 4).reshape(*shape, 4)
    first = np.eye(4, dtype=bool)[four.argmax(-1)].reshape(*shape, 2, 2)
    expected = np.where(first, gradient[..., None, None], 0)
    expected = expected.transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)
    np.testing.assert_array_equal(found, expected)


def test_pooling_keeps_what_is_not_a_number():
    for place in range(4):
        x = np.arange(4.0 * 8).reshape(1, 2, 2, 8).astype(jnp.bfloat16)
        x[0, place // 2, place % 2, 3] = np.nan
        found = call("pool", (1, 1, 1, 8, 0, 1, 8, 1), (x,), ((1, 1, 1, 8), x.dtype))
        is_none = np.isnan(found.astype(np.float32))
        assert is_none[0, 0, 0].tolist() == [i == 3 for i in range(8)]


def gradients(function, *arguments):
    value, pullback = jax.vjp(function, *arguments)

    def cotangent(part):
        values = jnp.cos(jnp.arange(part.size)).astype(jnp.bfloat16)
        return values.reshape(part.shape).astype(part.dtype)

    return jax.tree.leaves((value, pullback(jax.tree.map(cotangent, value))))


@pytest.fixture
def cases(monkeypatch):
    """What the network calls, and whose gradients, with how many roundings."""
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", 0)
    x, kernel, residual = (jnp.asarray(a) for a in operands(((2, 6, 12), 3, 8, 16)))
    # float32 rounds it no more.
    kernel = kernel.astype(jnp.bfloat16).astype(jnp.float32)
    bias = jnp.linspace(-1, 1, 16)

    def keep(x, kernel, bias):
        y, x = convolution.convolve_biased_and_keep(x, kernel, bias)
        return y, 3 * x

    def parts(x, kernel, bias):
        return convolution.convolve_parts_biased((x[..., :3], x[..., 3:]), kernel, bias)

    return {
        "convolve": (convolution.convolve, (x, kernel), 2),
        "biased": (convolution.convolve_biased, (x, kernel, bias, residual), 2),
        "keep": (keep, (x, kernel, bias), 2),
        # The first part's sums are rounded: other signs near zero, and slopes.
        "parts": (parts, (x, kernel, bias), 30),
        "bias": (convolution.add_bias_and_activate, (residual, bias), 2),
        "upsample": (layers.upsample_bilinear, (x,), 2),
        "pool": (layers.max_pool, (x,), 2),
    }


def all_gradients(cases, arguments):
    return {name: gradients(cases[name][0], *arguments[name]) for name in cases}


@pytest.mark.slow
def test_as_xla_calls_them(cases):
    arguments = {name: case[1] for name, case in cases.items()}
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), arguments)
    found, exact = (
        jax.jit(lambda arguments: all_gradients(cases, arguments))(given)
        for given in (arguments, wide)
    )
    for name, (_, given, roundings) in cases.items():
        # Parameters and their gradients stay float32.
        types = [a.dtype for a in given]
        assert [a.dtype for a in found[name][-len(types) :]] == types
        for ours, theirs in zip(found[name], exact[name], strict=True):
            error = np.linalg.norm(np.asarray(ours, np.float64) - theirs)
            assert error < roundings * HALF_UNIT * np.linalg.norm(theirs), name


@pytest.mark.parametrize(
    "name", ["convolve", "biased", "keep", "parts", "bias", "upsample", "pool"]
)
def test_who_calls_them(cases, name, monkeypatch):
    function, arguments, _ = cases[name]

    def is_called(platform):
        traced = jax.jit(lambda *a: gradients(function, *a)).trace(*arguments)
        return "ctjax_" in traced.lower(lowering_platforms=(platform,)).as_text()

    assert is_called("cpu") and not is_called("cuda")
    monkeypatch.setattr(cpu, "are_usable", lambda: False)
    assert not is_called("cpu")


def test_what_is_slow_here_is_said(monkeypatch):
    half, wide = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    converts = "slower than float32, as XLA converts {} to float32 and back"
    assert cpu.find_slowness(wide) is None
    assert cpu.find_slowness(jnp.dtype("float16")) == converts.format("float16")
    monkeypatch.setattr(cpu, "bfloat16_products", lambda: cpu.BFLOAT16_PAIRS)
    assert cpu.find_slowness(half) is None
    monkeypatch.setattr(cpu, "bfloat16_products", lambda: cpu.BFLOAT16)
    assert cpu.find_slowness(half) == (
        "no faster than float32, as the processor has no AVX512-BF16"
    )
    monkeypatch.setattr(cpu, "are_usable", lambda: False)
    assert cpu.find_slowness(half) == converts.format("bfloat16")
