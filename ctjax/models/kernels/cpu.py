"""Calls the convolutions of stride 1 of cpu.c, where it could be built.

XLA calls the C functions by address and passes them what it would have read itself.
Without a compiler at installation, or without AVX2 on x86, `convolution` computes the
same by XLA's operations. Of bfloat16 images C computes every convolution of stride 1,
and what else passes over them (`serve_passes`), because XLA converts them to float32
and back at each.
"""

import ctypes
import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base import native_library
from ctjax.base.errors import UserError
from ctjax.models.kernels import portable
from ctjax.processes import launchers

logger = logging.getLogger("ctjax")

LANES = 8  # of a short vector in C: float32 features of the output are a multiple
MAX_SIZE = 7  # of a kernel
MIN_WIDTH = 16  # of a float32 image; below, the kernel is read too often
MAX_PANEL = 1 << 10  # elements of the kernel to an output: what stays in a cache

FLOAT32, BFLOAT16, BFLOAT16_PAIRS = range(3)
"""How C computes products: bfloat16 as float32, or by instructions for pairs of it."""

_CONVOLVE = "ctjax_convolve"
_CONVOLVE_BIASED = "ctjax_convolve_biased"
_CONVOLVE_ADDED = "ctjax_convolve_added"
_CONVOLVE_PLUS = "ctjax_convolve_plus"
_ACTIVATION_GRADIENT = "ctjax_activation_gradient"
_KERNEL_GRADIENT = "ctjax_kernel_gradient"
_POOL = "ctjax_pool"
_POOL_GRADIENT = "ctjax_pool_gradient"
_UPSAMPLE = "ctjax_upsample"
_UPSAMPLE_GRADIENT = "ctjax_upsample_gradient"
CONVOLVE_SITES = "ctjax_convolve_sites"
CONVOLVE_SITES_BIASED = "ctjax_convolve_sites_biased"
CONVOLVE_SITES_ADDED = "ctjax_convolve_sites_added"
SITES_KERNEL_GRADIENT = "ctjax_sites_kernel_gradient"
_SPACES = {
    _CONVOLVE: "ctjax_convolve_space",
    _CONVOLVE_BIASED: "ctjax_convolve_space",
    _CONVOLVE_ADDED: "ctjax_convolve_space",
    _CONVOLVE_PLUS: "ctjax_convolve_space",
    _ACTIVATION_GRADIENT: "ctjax_activation_gradient_space",
    _KERNEL_GRADIENT: "ctjax_kernel_gradient_space",
    _POOL: "ctjax_pass_space",
    _POOL_GRADIENT: "ctjax_pass_space",
    _UPSAMPLE: "ctjax_pass_space",
    _UPSAMPLE_GRADIENT: "ctjax_pass_space",
    CONVOLVE_SITES: "ctjax_convolve_sites_space",
    CONVOLVE_SITES_BIASED: "ctjax_convolve_sites_space",
    CONVOLVE_SITES_ADDED: "ctjax_convolve_sites_space",
    SITES_KERNEL_GRADIENT: "ctjax_sites_kernel_gradient_space",
}
"""The functions that XLA calls, and which says how many floats each works in."""


def _load() -> ctypes.CDLL | None:
    return native_library.load(native_library.CONVOLUTIONS)


@functools.cache
def are_usable() -> bool:
    """Says whether the functions can be used; registers them with XLA."""
    library = _load()
    if library is None:
        return False
    library.ctjax_start_threads(num_threads())
    for name in _SPACES:
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(library, name)), "cpu", api_version=0
        )
    return _are_called()


def _reserve(name: str, config: str) -> None:
    """Reserves the memory that a function of C works in, for as long as we run.

    Raises:
      UserError: there is not enough.
    """
    library = _load()
    assert library is not None
    space = getattr(library, _SPACES[name])
    space.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    space.restype = ctypes.c_int64
    library.ctjax_reserve.argtypes = (ctypes.c_int64,)
    floats = space(config.encode(), len(config))
    if not library.ctjax_reserve(floats):
        raise UserError(
            f"convolutions on the CPU: expected {4 * floats / 1e6:.0f} MB of memory to "
            "work in, found less"
        )


@functools.cache
def vector_lanes() -> int:
    """Returns the floats of a vector in C here; they do not change the results."""
    library = _load()
    return LANES if library is None else library.ctjax_kernels_lanes()


def num_threads() -> int:
    """Returns the number of threads to compute with: as many as XLA takes."""
    for name in ("PJRT_NPROC", "NPROC"):
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return launchers.usable_cpus()


@functools.cache
def bfloat16_products() -> int:
    """Returns how C computes bfloat16 here: by pairs where the processor can."""
    library = _load()
    return BFLOAT16 if library is None else library.ctjax_kernels_bfloat16()


def find_slowness(dtype: jnp.dtype) -> str | None:
    """Says how a compute type compares with float32 on this CPU, None if it is faster.

    Args:
      dtype: of convolutions and activations.
    """
    if dtype == jnp.float32:
        return None
    if dtype != jnp.bfloat16 or not are_usable():
        return f"slower than float32, as XLA converts {dtype} to float32 and back"
    if bfloat16_products() == BFLOAT16_PAIRS:
        return None
    return "no faster than float32, as the processor has no AVX512-BF16"


def serve(x: jax.Array, outputs: int, size: int) -> bool:
    """Says whether `convolve` can compute a convolution, and faster than XLA.

    Args:
      x: [N, H, W, C].
      outputs: features of the output.
      size: of the kernel, odd.
    """
    panel = size * size * x.shape[-1]
    return (panel <= MAX_PANEL or x.dtype == jnp.bfloat16) and serve_gradient(
        x, outputs, size
    )


def serve_biased(x: jax.Array, outputs: int, size: int) -> bool:
    """Says the same of `convolve_biased` and `activation_gradient`."""
    return outputs % LANES == 0 and serve(x, outputs, size)


def serve_gradient(x: jax.Array, outputs: int, size: int) -> bool:
    """Says the same of `gradient_of_kernel`."""
    # XLA converts bfloat16 to float32 and back: it is slower at all of them.
    is_faster = x.dtype == jnp.bfloat16 or (
        x.dtype == jnp.float32
        and outputs % LANES == 0
        and size > 1
        and x.shape[2] >= MIN_WIDTH
    )
    return (
        is_faster
        and size <= MAX_SIZE
        and jax.default_backend() == "cpu"
        and not portable.is_wanted()
        and are_usable()
    )


def serve_passes(x: jax.Array) -> bool:
    """Says whether pooling and the like of [N, H, W, C] are faster than XLA's."""
    return (
        x.dtype == jnp.bfloat16
        and x.shape[-1] % LANES == 0
        and jax.default_backend() == "cpu"
        and not portable.is_wanted()
        and are_usable()
    )


def convolve(x: jax.Array, kernel: jax.Array, is_turned: bool = False) -> jax.Array:
    """Computes `convolution.plain`.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, C, F] float32, rounded to the type of `x`.
      is_turned: whether the kernel is [k, k, F, C], with rows and columns the other
        way round: of the convolution the gradient of whose input this is. Of bfloat16
        images alone.
    """
    outputs = kernel.shape[2 if is_turned else 3]
    shape = (*x.shape[:-1], outputs)
    return _call(
        _CONVOLVE, [shape], (x,), (kernel,), outputs, kernel.shape[0], is_turned
    )[0]


def convolve_biased(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, residual: jax.Array | None
) -> jax.Array:
    """Computes `convolution.plain_biased` in one pass over the output.

    The kernel is as in `convolve`.
    """
    images = (x,) if residual is None else (x, residual)
    name = _CONVOLVE_BIASED if residual is None else _CONVOLVE_ADDED
    size, outputs = kernel.shape[0], kernel.shape[-1]
    shape = (*x.shape[:-1], outputs)
    return _call(name, [shape], images, (kernel, bias), outputs, size)[0]


def gradient_of_input_plus(
    gradient: jax.Array, kernel: jax.Array, other: jax.Array
) -> jax.Array:
    """Computes the gradient of a bfloat16 convolution's input, plus another gradient.

    Args:
      gradient: of the output, [N, H, W, F].
      kernel: [k, k, C, F] float32.
      other: [N, H, W, C], C a multiple of 8.
    """
    size, features = kernel.shape[0], kernel.shape[2]
    images = (gradient, other)
    return _call(
        _CONVOLVE_PLUS, [other.shape], images, (kernel,), features, size, True
    )[0]


def activation_gradient(
    result: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Propagates a gradient back through an activation and sums it over the pixels.

    Args:
      result: of the activation, [N, H, W, F].
      gradient: of it, likewise.

    Returns:
      The gradient of what was activated, likewise, and its sums [F] float32.
    """
    features = result.shape[-1]
    through, sums = _call(
        _ACTIVATION_GRADIENT,
        [result.shape, ((features,), jnp.float32)],
        (result, gradient),
        outputs=features,
        input_output_aliases={1: 0},
    )
    return through, sums


def gradient_of_kernel(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Computes the gradient of a kernel, [k, k, C, F] float32.

    Args:
      x: [N, H, W, C].
      gradient: of the output, [N, H, W, F].
      size: k.
    """
    features, outputs = x.shape[-1], gradient.shape[-1]
    result = (size, size, features, outputs), jnp.float32
    return _call(_KERNEL_GRADIENT, [result], (x, gradient), outputs=outputs, size=size)[
        0
    ]


def pool(x: jax.Array) -> jax.Array:
    """Computes `layers.max_pool` of a bfloat16 image."""
    n, height, width, features = x.shape
    shape = (n, height // 2, width // 2, features)
    return _call(_POOL, [shape], (x,), smaller=shape)[0]


def pool_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Computes the gradient of the input of `pool`."""
    images = (x, gradient)
    return _call(_POOL_GRADIENT, [x.shape], images, smaller=gradient.shape)[0]


def upsample(x: jax.Array) -> jax.Array:
    """Computes `layers.upsample_bilinear` of a bfloat16 image, rounded once."""
    n, height, width, features = x.shape
    shape = (n, 2 * height, 2 * width, features)
    return _call(_UPSAMPLE, [shape], (x,), smaller=x.shape)[0]


def upsample_gradient(gradient: jax.Array) -> jax.Array:
    """Computes the gradient of the input of `upsample`."""
    n, height, width, features = gradient.shape
    shape = (n, height // 2, width // 2, features)
    return _call(_UPSAMPLE_GRADIENT, [shape], (gradient,), smaller=shape)[0]


def _call(
    name,
    results,
    images,
    parameters=(),
    outputs=0,
    size=1,
    is_turned=False,
    smaller=None,
    **options,
) -> Any:
    """Calls a function of C.

    Args:
      name: of the function.
      results: shape of each, of the images' type, or shape and type.
      images: all float32 or all bfloat16.
      parameters: float32.
      outputs: features of the output.
      size: of the kernel.
      is_turned: as in `convolve`.
      smaller: shape of the smallest image, where the first is not as large.
      **options: of `jax.ffi.ffi_call`.
    """
    x = images[0]
    products = how_to_compute(*images)
    lanes = vector_lanes()
    numbers = (*(smaller or x.shape), outputs, size, lanes, products, int(is_turned))
    operands = *images, *(part.astype(jnp.float32) for part in parameters)
    return call(name, results, operands, numbers, like=x, **options)


def how_to_compute(*images: jax.Array) -> int:
    """Returns how C computes products of images, all float32 or all bfloat16."""
    types = [jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)]
    dtype = images[0].dtype
    if any(image.dtype not in types or image.dtype != dtype for image in images):
        found = ", ".join(str(image.dtype) for image in images)
        raise ValueError(f"expected float32 or bfloat16, got {found}")
    return FLOAT32 if dtype == jnp.float32 else bfloat16_products()


def call(
    name: str,
    results: Sequence[Any],
    operands: Sequence[jax.Array],
    numbers: Sequence[int],
    like: jax.Array,
    **options,
) -> Any:
    """Calls a function of C, with the memory that it works in.

    Args:
      name: of the function.
      results: shape of each, of the type of `like`, or shape and type.
      operands: as the function reads them.
      numbers: that describe them to it.
      like: on several devices, the results are each device's own where this is.
      **options: of `jax.ffi.ffi_call`.
    """
    config = " ".join(map(str, numbers))
    _reserve(name, config)

    def result(shape):
        shape, dtype = shape if isinstance(shape[0], tuple) else (shape, like.dtype)
        return jax.eval_shape(lambda x: jnp.zeros_like(x, dtype, shape=shape), like)

    # The form of call that needs no headers of XLA, whose versions must match.
    function = jax.ffi.ffi_call(
        name,
        [result(shape) for shape in results],
        vmap_method="sequential",
        custom_call_api_version=3,
        legacy_backend_config=config,
        **options,
    )
    return function(*operands)


def _are_called() -> bool:
    """Checks that this version of XLA calls C in this form; logs it if it does not."""
    x = np.ones((1, 1, MIN_WIDTH, 1), np.float32)
    kernel = np.arange(LANES, dtype=np.float32).reshape(1, 1, 1, LANES)
    try:
        program = jax.jit(lambda *a: convolve(*a)).lower(x, kernel).compile()
        found = np.asarray(program(x, kernel))
    except Exception as error:  # whatever it says, XLA's own convolutions remain
        logger.warning("XLA does not call ctjax's convolutions: %s", error)
        return False
    if not np.array_equal(found, x * kernel):
        logger.warning(
            "XLA does not call ctjax's convolutions: wrong results of %s", _CONVOLVE
        )
        return False
    return True
