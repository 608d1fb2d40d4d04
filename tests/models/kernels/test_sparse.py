"""Convolutions of lists of sites against their definition, and jax's own gradients."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.base import native_library
from ctjax.learning import sharding
from ctjax.models.kernels import cpu, cpu_sparse, sparse
from tests.support import lists_in_c

SHAPE = 3, 14, 11  # planes, columns, rows
SPARE = 5  # places without a site


def draw_sites(count: int) -> np.ndarray:
    """Draws pixels (plane, column, row), in the order of a list of sites."""
    random = np.random.default_rng(count)
    chosen = random.choice(np.prod(SHAPE), count, replace=False)
    return np.stack(np.unravel_index(np.sort(chosen), SHAPE), 1)


def find_neighbours(sites: np.ndarray, size: int, spare: int) -> np.ndarray:
    """Makes the table of neighbours from its definition."""
    capacity, reach = len(sites) + spare, size // 2
    number = {tuple(site): n for n, site in enumerate(sites.tolist())}
    table = np.full((capacity, size * size), capacity, np.int32)
    around = itertools.product(range(-reach, reach + 1), repeat=2)
    for t, (row, column) in enumerate(around):
        for n, (plane, c, r) in enumerate(sites.tolist()):
            table[n, t] = number.get((plane, c + column, r + row), capacity)
    return table


def find_parts(sites: np.ndarray, spare: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the tables of the next level from their definition."""
    coarse = sites // (1, 2, 2)
    unique, owner = np.unique(coarse, axis=0, return_inverse=True)
    which = 2 * (sites[:, 2] % 2) + sites[:, 1] % 2
    capacity = len(sites) + spare, len(unique) + spare
    parts = np.full((capacity[1], 4), capacity[0], np.int32)
    place = np.full(capacity[0], parts.size, np.int32)
    place[: len(sites)] = owner.ravel() * 4 + which
    parts[owner.ravel(), which] = np.arange(len(sites))
    return parts, place


def draw(shape: tuple[int, ...], dtype=jnp.float32, seed: int = 0) -> jax.Array:
    random = np.random.default_rng((seed, *shape))
    return jnp.asarray(random.normal(size=shape), dtype)


def plain(x, kernel, table):
    """What `convolve` and `coarsen` are, as one writes it down."""
    rows = jnp.concatenate([x, jnp.zeros_like(x[:1], shape=(1, x.shape[1]))])[table]
    narrow = kernel.astype(x.dtype)
    product = jnp.einsum("ntc,tcf->nf", rows, narrow, preferred_element_type="float32")
    return product.astype(x.dtype)


def plain_biased(x, kernel, bias, residual, table):
    y = plain(x.astype("float32"), kernel.astype(x.dtype).astype("float32"), table)
    y = y + bias[None] + (0 if residual is None else residual.astype("float32"))
    return jnp.where(y > 0, y, sparse.SLOPE * y).astype(x.dtype)


def plain_refine(x, kernel, parts, place):
    rows = jnp.concatenate([x, jnp.zeros_like(x[:1], shape=(1, x.shape[1]))])
    kernel = kernel.astype(x.dtype)[place % parts.shape[1]]
    product = jnp.einsum(
        "nc,ncf->nf",
        rows[place // parts.shape[1]],
        kernel,
        preferred_element_type="float32",
    )
    return product.astype(x.dtype)


def define(x, kernel, table) -> np.ndarray:
    """Computes the same site by site in numpy."""
    y = np.zeros((len(table), kernel.shape[2]), np.float64)
    for n, t in itertools.product(*map(range, table.shape)):
        if table[n, t] < len(x):
            y[n] += np.float64(x[table[n, t]]) @ np.float64(kernel[t])
    return y


TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


def assert_close(found, expected, dtype="float32"):
    """Compares trees of arrays to the rounding of a type, by their largest numbers."""
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = max(np.abs(b).max(initial=0), 1e-30)
        np.testing.assert_allclose(a / scale, b / scale, atol=TOLERANCES[dtype], rtol=0)


def compare(function, other, arguments, tables, dtype="float32"):
    """Compares two functions, types and gradients of all arguments included."""

    def value_and_pullback(function):
        def compute(arguments, tables, weights):
            value, pull = jax.vjp(lambda *a: function(*a, *tables), *arguments)
            return value, pull(weights)

        return jax.jit(compute)(arguments, tables, weights)

    value = jax.eval_shape(function, *arguments, *tables)
    weights = draw(value.shape, value.dtype, seed=1)
    if value.shape[0] > SPARE:  # a loss does not look at what is no site
        weights = weights.at[-SPARE:].set(0)
    found, expected = value_and_pullback(function), value_and_pullback(other)
    assert jax.tree.map(lambda a: a.dtype, found) == jax.tree.map(
        lambda a: a.dtype, expected
    )
    assert_close(found, expected, dtype)


IN_C, BY_NEIGHBOUR, WHOLE = range(3)
"""C, of what it takes, and the two ways in which XLA computes."""


def force(way: int, monkeypatch) -> None:
    if way != IN_C:
        monkeypatch.setattr(cpu_sparse, "serve", lambda x, outputs: False)
    monkeypatch.setattr(sparse, "MAX_ROW", 0 if way == BY_NEIGHBOUR else 1 << 20)


# How many sites, size of the kernel, features in and out.
CASES = [
    (IN_C, 0, 3, 8, 8),
    (IN_C, 462, 3, 24, 8),  # all pixels
    (BY_NEIGHBOUR, 200, 3, 3, 5),
    (WHOLE, 150, 5, 1, 16),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            (IN_C, 1, 3, 8, 16),
            (IN_C, 150, 5, 8, 16),
            (BY_NEIGHBOUR, 0, 3, 8, 8),
            (BY_NEIGHBOUR, 1, 3, 8, 16),
            (WHOLE, 462, 3, 3, 5),
        ]
    ),
]


@pytest.mark.parametrize(("way", "count", "size", "inputs", "outputs"), CASES)
def test_convolution_is_what_it_is_defined_as(
    way, count, size, inputs, outputs, monkeypatch
):
    force(way, monkeypatch)
    table = find_neighbours(draw_sites(count), size, SPARE)
    x, kernel = draw((count + SPARE, inputs)), draw((size * size, inputs, outputs))
    compare(sparse.convolve, plain, (x, kernel), (table,))
    x, kernel = np.asarray(x), np.asarray(kernel)
    assert_close(plain(x, kernel, table), define(x, kernel, table))


WAYS_OF_TYPES = [
    (IN_C, "float32"),
    (IN_C, "bfloat16"),
    pytest.param(BY_NEIGHBOUR, "bfloat16", marks=pytest.mark.slow),
    pytest.param(WHOLE, "float16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("way", "dtype"), WAYS_OF_TYPES)
def test_bias_residual_and_activation(way, dtype, monkeypatch):
    force(way, monkeypatch)
    count = 120
    table = find_neighbours(draw_sites(count), 3, SPARE)
    x, more = draw((count + SPARE, 8), dtype), draw((count + SPARE, 16), dtype)
    for residual in (None, more) if dtype == "float32" else (more,):
        arguments = x, draw((9, 8, 16)), draw((16,)), residual
        compare(sparse.convolve_biased, plain_biased, arguments, (table,), dtype)


@pytest.mark.parametrize("count", [200, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("way", "dtype"), WAYS_OF_TYPES)
def test_steps_between_levels(way, dtype, count, monkeypatch):
    force(way, monkeypatch)
    tables = find_parts(draw_sites(count), SPARE)
    parts, place = tables
    x, kernel = draw((len(place), 8), dtype), draw((4, 8, 16))
    compare(
        sparse.coarsen, lambda x, k, p, _: plain(x, k, p), (x, kernel), tables, dtype
    )
    x, kernel = draw((len(parts), 16), dtype), draw((4, 16, 8))
    compare(sparse.refine, plain_refine, (x, kernel), tables, dtype)
    assert not np.any(jax.jit(sparse.refine)(x, kernel, *tables)[count:])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_rounds_once(dtype):
    table = find_neighbours(draw_sites(100), 3, SPARE)
    x, kernel = draw((105, 16), dtype), draw((9, 16, 8))
    expected = define(np.asarray(x), np.asarray(kernel.astype(dtype)), table)
    found = jax.jit(sparse.convolve)(x, kernel, table)
    assert found.dtype == dtype
    step = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(found), expected, rtol=0.6 * step, atol=2e-5)


def test_no_place_is_a_site_and_no_place_at_all():
    for places in (7, 0):
        table = np.full((places, 9), places, np.int32)
        parts, place = np.full((places, 4), places), np.full(places, 4 * places)
        x, kernel, bias = draw((places, 8)), draw((9, 8, 16)), draw((16,))
        assert not np.any(sparse.convolve(x, kernel, table))
        found = sparse.convolve_biased(x, kernel, bias, None, table)
        expected = np.where(bias > 0, bias, sparse.SLOPE * bias)
        assert_close(found, np.broadcast_to(expected, (places, 16)))
        assert not np.any(sparse.coarsen(x, kernel[:4], parts, place))
        assert not np.any(sparse.refine(x, kernel[:4], parts, place))


def test_gradient_is_the_finite_difference():
    table = find_neighbours(draw_sites(60), 3, SPARE)
    arguments = draw((65, 8)), draw((9, 8, 8)), draw((8,)), draw((65, 8), seed=2)

    @jax.jit
    def loss(arguments):
        y = sparse.convolve_biased(*arguments, table)[:60]
        return (y * y).mean()

    gradient = jax.jit(jax.grad(loss))(arguments)
    for i, argument in enumerate(arguments):
        direction = draw(argument.shape, seed=3)
        further, nearer = (
            loss((*arguments[:i], argument + step * direction, *arguments[i + 1 :]))
            for step in (1e-2, -1e-2)
        )
        found = float((gradient[i] * direction).sum())
        expected = float(further - nearer) / 2e-2
        assert found == pytest.approx(expected, rel=3e-3, abs=1e-3)


def test_every_device_has_its_own_sites():
    mesh = sharding.make_mesh(jax.devices()[:2])
    spec = jax.sharding.PartitionSpec(sharding.EVENT_AXIS)
    places = 128
    tables = []
    for count in (100, 120):
        sites = draw_sites(count)
        parts, place = find_parts(sites, places - count)
        room = np.full((places, 4), places, np.int32)
        room[: len(parts)] = parts
        place[place == parts.size] = room.size
        tables.append((find_neighbours(sites, 3, places - count), room, place))
    x = draw((2, places, 8))
    parameters = draw((9, 8, 16)), draw((16,)), draw((4, 16, 8)), draw((4, 8, 16))

    @jax.checkpoint
    def loss(parameters, x, table, parts, place):
        wide, bias, down, up = parameters
        fine = sparse.convolve_biased(x, wide, bias, None, table)
        y = sparse.refine(sparse.coarsen(fine, down, parts, place), up, parts, place)
        y = sparse.convolve_biased(x, wide, bias, y, table)
        y = jnp.where((table[:, 4] < places)[:, None], y, 0)
        return (sparse.convolve(y, wide.swapaxes(1, 2), table) ** 2).mean()

    def of_device(parameters, x, *tables):
        parameters = sharding.varying(parameters, sharding.EVENT_AXIS)
        one = [array[0] for array in (x, *tables)]
        value, gradients = jax.value_and_grad(loss)(parameters, *one)
        return jax.tree.map(lambda array: array[None], (value, gradients))

    function = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(jax.sharding.PartitionSpec(), *(spec,) * 4),
        out_specs=spec,
    )
    found = jax.jit(function)(parameters, x, *map(np.stack, zip(*tables, strict=True)))
    for i in range(2):
        expected = jax.jit(jax.value_and_grad(loss))(parameters, x[i], *tables[i])
        assert_close(jax.tree.map(lambda array, i=i: array[i], found), expected)


@pytest.fixture
def library():
    """The path of the C library, where it can be used."""
    if not cpu.are_usable():
        pytest.skip("cpu.c is not built: pip install -e . with a C compiler")
    return native_library.PACKAGE / f"{native_library.CONVOLUTIONS.path}.abi3.so"


@pytest.mark.usefixtures("library")
def test_c_is_called_for_what_it_takes():
    table = np.zeros((4, 9), np.int32)

    def calls(function, dtype, inputs, outputs, *more):
        arguments = draw((4, inputs), dtype), draw((9, inputs, outputs)), *more
        gradient = jax.grad(lambda *a: function(*a).sum(dtype="float32"), (0, 1))
        program = jax.jit(gradient).lower(*arguments).as_text()
        names = ("convolve_sites", "convolve_sites_biased", "sites_kernel_gradient")
        return [program.count(f"@ctjax_{name}(") for name in names]

    assert calls(sparse.convolve, "float32", 16, 8, table) == [1, 0, 1]
    biased = (jnp.zeros(8), None, table)
    assert calls(sparse.convolve_biased, "bfloat16", 16, 8, *biased) == [1, 1, 1]
    steps = (table, np.zeros(4, np.int32))
    assert calls(sparse.coarsen, "float32", 16, 8, *steps) == [1, 0, 1]
    assert calls(sparse.refine, "bfloat16", 16, 8, *steps) == [1, 0, 1]
    for dtype, inputs, outputs in (
        ("float32", 1, 16),
        ("float32", 16, 3),
        ("float16", 8, 8),
    ):
        assert calls(sparse.convolve, dtype, inputs, outputs, table) == [0, 0, 0]


def test_c_gives_the_same_bits_with_any_number_of_threads(library, tmp_path):
    random = np.random.default_rng(0)
    count, neighbours = 9000, 9  # sites in several sums, the last block not full
    table = random.integers(0, 2 * count, (count, neighbours)).astype(np.int32)
    x, gradient = (random.normal(size=(count, 16)).astype(np.float32) for _ in range(2))
    kernel = random.normal(size=(neighbours, 16, 16)).astype(np.float32)
    for products in range(cpu.bfloat16_products() + 1):
        dtype = jnp.float32 if products == lists_in_c.FLOAT32 else jnp.bfloat16
        found = []
        for threads in (1, 2, 3):
            # A copy of its own has threads of its own.
            path = shutil.copy(library, tmp_path / f"{threads}-{products}.so")
            routines = lists_in_c.load(path, threads)
            arguments = routines, table, x.astype(dtype)
            found.append(
                (
                    lists_in_c.convolve(*arguments, kernel, products=products),
                    lists_in_c.outer_product(
                        *arguments, gradient.astype(dtype), products=products
                    ),
                )
            )
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_c_agrees_with_numpy_at_the_edges_of_blocks_and_tiles(library):
    random = np.random.default_rng(0)
    routines = lists_in_c.load(library, cpu.num_threads())
    for products in range(cpu.bfloat16_products() + 1):
        for count, *features in (
            (127, 8, 24),
            (128, 24, 8),
            (129, 40, 48),
            (4200, 8, 8),
        ):
            lists_in_c.check(routines, random, count, *features, products=products)
