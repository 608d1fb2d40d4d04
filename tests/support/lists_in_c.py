"""Calls the convolutions of lists of sites in C as XLA does, of any build of cpu.c."""

import ctypes
import pathlib

import ml_dtypes
import numpy as np

SLOPE = np.float32(1 / 3)
FLOAT32, BFLOAT16, BFLOAT16_PAIRS = range(3)
"""How C computes products; the last two of bfloat16."""


def load(path: str | pathlib.Path, threads: int) -> ctypes.CDLL:
    """Opens a library, which computes with so many threads from now on."""
    routines = ctypes.CDLL(str(path))
    for name in ("convolve_sites", "sites_kernel_gradient"):
        space = getattr(routines, f"ctjax_{name}_space")
        space.restype = ctypes.c_int64
        space.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    routines.ctjax_reserve.argtypes = (ctypes.c_int64,)
    routines.ctjax_start_threads(threads)
    return routines


def convolve(
    routines: ctypes.CDLL,
    table: np.ndarray,
    x: np.ndarray,
    kernel: np.ndarray,
    *added: np.ndarray,
    is_refined: bool = False,
    lanes: int = 8,
    products: int = FLOAT32,
) -> np.ndarray:
    """Computes `cpu_sparse.product`, or with bias and residual `product_biased`."""
    neighbours, inputs, outputs = kernel.shape
    sizes = (len(x), len(table), neighbours, int(is_refined), inputs, outputs)
    name = ("convolve_sites", "convolve_sites_biased", "convolve_sites_added")[
        len(added)
    ]
    result = np.empty((len(table), outputs), x.dtype)
    numbers = (*sizes, lanes, products)
    operands = (table, x, kernel, *added)
    return _call(routines, name, "convolve_sites", numbers, result, operands)


def outer_product(
    routines: ctypes.CDLL,
    table: np.ndarray,
    x: np.ndarray,
    gradient: np.ndarray,
    lanes: int = 8,
    products: int = FLOAT32,
) -> np.ndarray:
    """Computes `cpu_sparse.outer_product`."""
    (places, neighbours), inputs, outputs = table.shape, x.shape[1], gradient.shape[1]
    numbers = (len(x), places, neighbours, 0, inputs, outputs, lanes, products)
    result = np.empty((neighbours, inputs, outputs), np.float32)
    name = "sites_kernel_gradient"
    return _call(routines, name, name, numbers, result, (table, x, gradient))


def _call(routines, name, space, numbers, result, operands):
    config = " ".join(map(str, numbers)).encode()
    floats = getattr(routines, f"ctjax_{space}_space")(config, len(config))
    assert routines.ctjax_reserve(floats)
    result.view(np.uint8)[...] = 0xFF  # not a number, of any type
    operands = [np.ascontiguousarray(operand) for operand in operands]
    pointers = (ctypes.c_void_p * len(operands))(
        *(operand.ctypes.data for operand in operands)
    )
    size = ctypes.c_size_t(len(config))
    getattr(routines, f"ctjax_{name}")(
        ctypes.c_void_p(result.ctypes.data), pointers, config, size, None
    )
    return result


def check(
    routines: ctypes.CDLL,
    random: np.random.Generator,
    count: int,
    inputs: int,
    outputs: int,
    lanes: int = 8,
    products: int = FLOAT32,
) -> int:
    """Compares every function with numpy; returns how many calls that were.

    The table has from one neighbour in a hundred to all of them, of `count` sites.
    """
    dtype = np.dtype(np.float32 if products == FLOAT32 else ml_dtypes.bfloat16)
    options = {"lanes": lanes, "products": products}

    def draw(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(dtype)

    def close(found: np.ndarray, expected: np.ndarray) -> None:
        assert found.shape == expected.shape
        step = 1e-5 if found.dtype == np.float32 else 2**-7
        scale = np.abs(expected).max(initial=0)
        found = found.astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=0, atol=step * scale)

    table = random.integers(0, max(count, 1), (count, 9)).astype(np.int32)
    table[random.random((count, 9)) < np.linspace(0, 0.99, 9)] = count
    x, more = draw(count, inputs), draw(count, outputs)
    kernel = draw(9, inputs, outputs).astype(np.float32)
    bias = random.normal(size=outputs).astype(np.float32)
    rows = np.concatenate([x, np.zeros((1, inputs), dtype)]).astype(np.float32)
    rows, wide = rows[table], more.astype(np.float32)
    plain = np.einsum("ntc,tcf->nf", rows, kernel)

    close(convolve(routines, table, x, kernel, **options), plain)
    found = convolve(routines, table, x, kernel, bias, **options)
    close(found, activated(plain + bias))
    found = convolve(routines, table, x, kernel, bias, more, **options)
    close(found, activated(plain + bias + wide))
    found = outer_product(routines, table, x, more, **options)
    close(found, np.einsum("ntc,nf->tcf", rows, wide))

    # Two parts of each site in three, and places without a site.
    place = np.arange(0, 3 * count, 2).astype(np.int32)
    place[::5] = 3 * count
    found = convolve(routines, place, x, kernel[:3], is_refined=True, **options)
    parts = np.einsum("nc,tcf->ntf", x.astype(np.float32), kernel[:3])
    parts = np.concatenate([parts.reshape(-1, outputs), np.zeros((1, outputs))])
    close(found, parts[place])
    return 5


def activated(values: np.ndarray) -> np.ndarray:
    """LeakyReLU."""
    return np.where(values > 0, values, SLOPE * values)
