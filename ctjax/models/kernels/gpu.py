"""Computes convolutions with bias, residual sum and activation on NVIDIA GPUs.

Where an image has few features its bytes are what a step costs. A convolution of the
library has its result written, read and written again for what follows, and leaves
half of the matrix units to padding. These kernels do all of it in one pass, as the
gradients do with the activation's derivative and with the bias's gradient. Written in
Triton (`gpu_programs`), called by jax-triton, which compiles them without a GPU too.
"""

import functools
import importlib.metadata
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctjax.models.kernels import convolution
from ctjax.models.kernels.activation import SLOPE

KERNEL = 3
REACH = 4  # columns that a kernel reaches from two neighbouring columns


class Strip(NamedTuple):
    """Says what one program of a kernel works on, and with how many threads.

    Attributes:
      pairs: of columns.
      rows: of the image.
      warps: of 32 threads.
      stages: rows that are loaded ahead, and the one that is used.
    """

    pairs: int
    rows: int
    warps: int
    stages: int


CONVOLUTIONS = {
    (16, 2): Strip(64, 64, 4, 3),
    (32, 2): Strip(128, 64, 8, 3),
    (8, 2): Strip(64, 64, 4, 3),
    (8, 4): Strip(64, 64, 4, 3),
    (16, 4): Strip(64, 64, 4, 3),
}
"""By features and bytes of a number: what was fastest, docs/compute.md has the times.
32 features of four bytes are missing because the library is faster."""

KERNEL_GRADIENTS = {
    (16, 2): Strip(64, 160, 4, 3),
    (32, 2): Strip(64, 80, 4, 3),
    (8, 2): Strip(64, 80, 4, 3),
    (8, 4): Strip(64, 80, 4, 1),
    (16, 4): Strip(64, 80, 4, 1),
}
"""The same for the gradients of kernels."""


PTX_VERSION = 85
"""Of the programs: what every assembler that comes with CUDA for jax 0.11 takes, where
Triton would write the newest."""

MEASURED_ON = "9.0"
"""Compute capability of the GPUs, H100 and H200, on which these kernels were measured.
A block of others has less memory, or they need a newer PTX."""


def missing() -> str | None:
    """Says what these kernels lack here, None where they can be used."""
    version, triton = _installed("jax-triton"), _installed("triton")
    if not version or not triton:
        return "jax-triton (for Python 3.12 and later), which is not installed"
    if version < (0, 4):
        return f"jax-triton 0.4 or later, found {'.'.join(map(str, version))}"
    # The rules of the newest jax-triton take fewer arguments than this jax gives.
    if version <= (0, 4, 1) and jax.__version_info__ >= (0, 12):
        return f"a jax before 0.12 for jax-triton 0.4, found {jax.__version__}"
    found = _compute_capability()
    if found != MEASURED_ON:
        return f"a GPU of compute capability {MEASURED_ON} (H100, H200), found {found}"
    return None


def _installed(package):
    """Returns the numbers of a package's version, () where it is not installed."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _compute_capability():
    """Returns the first GPU's; MEASURED_ON where there is none, to compile for one."""
    return getattr(jax.local_devices()[0], "compute_capability", MEASURED_ON)


def takes(
    shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    is_wanted: bool | None,
) -> bool:
    """Says whether these kernels compute a convolution of stride 1.

    Args:
      shape: of the images, [N, H, W, C].
      kernel_shape: [k, k, C, F].
      dtype: of the images as they are computed with.
      is_wanted: whether they are to, where they can; None for GPUs on which they were
        measured to be faster.

    Returns:
      Whether they do. Products of float32 are rounded to TF32, as those of XLA are
      unless `jax.default_matmul_precision` asks for more: then they do not.
    """
    if is_wanted is None:
        is_wanted = jax.default_backend() == "gpu" and not missing()
    size, _, features, outputs = kernel_shape
    bytes_each = jnp.dtype(dtype).itemsize
    return (
        bool(is_wanted)
        and size == KERNEL
        and features == outputs
        and (features, bytes_each) in CONVOLUTIONS
        and shape[2] % 2 == 0
        and (bytes_each == 2 or _rounds_products())
    )


def _rounds_products():
    """Says whether products of float32 may be rounded to TF32."""
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore
    return precision in (None, "default", "fastest", "tensorfloat32")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def series(
    x: jax.Array,
    kernels: tuple[jax.Array, ...],
    biases: tuple[jax.Array, ...],
    is_residual: bool,
) -> jax.Array:
    """Convolves, adds a bias and activates, several times.

    The whole series is one function to be differentiated, so that the gradient of an
    image is multiplied by the derivative of the activation that made the image where it
    is written.

    Args:
      x: [N, H, W, C]; see `takes`.
      kernels: [3, 3, C, C] float32 each.
      biases: [C] float32 each.
      is_residual: whether every second convolution adds, before it activates, what the
        one before it has read.

    Returns:
      [N, H, W, C], of the type of `x`.
    """
    return _images(x, kernels, biases, is_residual)[-1]


def _images(x, kernels, biases, is_residual):
    """Returns the series' input and the result of every convolution."""
    images = [x]
    for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        residual = images[-2] if is_residual and index % 2 else None
        images.append(_fused(images[-1], kernel, bias, residual, None, True))
    return images


def _series_forward(x, kernels, biases, is_residual):
    images = _images(x, kernels, biases, is_residual)
    return images[-1], (images, kernels)


def _series_backward(is_residual, residuals, gradient):
    images, kernels = residuals
    # From here on the gradient is of the sum that an activation takes.
    gradient = jnp.where(images[-1] > 0, gradient, SLOPE * gradient)
    gradient = gradient.astype(images[-1].dtype)
    of_kernels, of_biases, skipped = [], [], None
    for index in reversed(range(len(kernels))):
        of_kernel, of_bias = kernel_gradient(images[index], gradient)
        of_kernels.insert(0, of_kernel)
        of_biases.insert(0, of_bias)
        is_second = is_residual and index % 2
        added, skipped = (None, gradient) if is_second else (skipped, None)
        mask = images[index] if index else None
        gradient = _fused(
            gradient, _turned(kernels[index]), None, added, mask, is_activated=False
        )
    return gradient, tuple(of_kernels), tuple(of_biases)


series.defvjp(_series_forward, _series_backward)


@jax.custom_vjp
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves, and nothing else.

    Args:
      x: [N, H, W, C]; see `takes`.
      kernel: [3, 3, C, F] float32.

    Returns:
      [N, H, W, F], of the type of `x`.
    """
    return _fused(x, kernel, None, None, None, is_activated=False)


def _convolve_forward(x, kernel):
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(residuals, gradient):
    x, kernel = residuals
    of_kernel, _ = kernel_gradient(x, gradient)
    return convolve(gradient, _turned(kernel)), of_kernel


convolve.defvjp(_convolve_forward, _convolve_backward)


def spread(kernel: jax.Array) -> jax.Array:
    """Returns the matrices by which two neighbouring columns are computed.

    Args:
      kernel: [3, 3, C, F].

    Returns:
      [3, 4 C, 2 F]: for each of the kernel's rows, from the four columns that it
      reaches to the two.
    """
    _, _, features, outputs = kernel.shape
    columns = [jnp.pad(kernel, ((0, 0), (j, 1 - j), (0, 0), (0, 0))) for j in range(2)]
    stacked = jnp.stack(columns, 3)
    return stacked.reshape(KERNEL, REACH * features, 2 * outputs)


def gathered(matrices: jax.Array, features: int, outputs: int) -> jax.Array:
    """Sums what belongs to the same number of a kernel: the transpose of `spread`.

    Args:
      matrices: as `spread` returns them, flat or not.
      features: C.
      outputs: F.

    Returns:
      [3, 3, C, F].
    """
    parts = matrices.reshape(KERNEL, REACH, features, 2, outputs)
    return parts[:, :KERNEL, :, 0] + parts[:, 1:, :, 1]


def _turned(kernel):
    """Returns the kernel by which the gradient of the input is a convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _fused(x, kernel, bias, residual, mask, is_activated):
    """Runs the convolution's kernel, on a CPU `plain`."""
    on_cpu, on_gpu = (
        functools.partial(way, is_activated=is_activated) for way in (plain, launch)
    )
    given = x, kernel, bias, residual, mask
    if missing():
        return on_cpu(*given)
    return jax.lax.platform_dependent(*given, cpu=on_cpu, default=on_gpu)


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of a convolution's kernel and bias.

    Args:
      x: [N, H, W, C], what is convolved.
      gradient: [N, H, W, F], of the result.

    Returns:
      [3, 3, C, F] and [F], float32.
    """
    if missing():
        return plain_kernel_gradient(x, gradient)
    return jax.lax.platform_dependent(
        x, gradient, cpu=plain_kernel_gradient, default=launch_kernel_gradient
    )


def plain(x, kernel, bias, residual, mask, *, is_activated):
    """Computes what `launch` does, by XLA."""
    y = convolution.plain(x, kernel.astype(x.dtype)).astype(jnp.float32)
    if bias is not None:
        y = y + bias[None, None, None]
    if residual is not None:
        y = y + residual
    if is_activated:
        y = jnp.where(y > 0, y, SLOPE * y)
    if mask is not None:
        y = jnp.where(mask > 0, y, SLOPE * y)
    return y.astype(x.dtype)


def plain_kernel_gradient(x, gradient):
    """Computes what `launch_kernel_gradient` does, by XLA."""
    shape = (KERNEL, KERNEL, x.shape[-1], gradient.shape[-1])
    wide, wide_gradient = (part.astype(jnp.float32) for part in (x, gradient))
    kernel = _varying_as(x, jnp.zeros(shape, jnp.float32))
    pull = jax.linear_transpose(lambda kernel: convolution.plain(wide, kernel), kernel)
    return pull(wide_gradient)[0], wide_gradient.sum((0, 1, 2))


# Compiled as functions, so that equal convolutions of a network are lowered once.
@functools.partial(jax.jit, static_argnames=("is_activated",))
def launch(x, kernel, bias, residual, mask, *, is_activated):
    """Runs `gpu_programs.fused_convolution`."""
    # Here, as only GPUs need them; jax-triton 0.4 is not made for Python 3.11.
    import jax_triton  # pyright: ignore[reportMissingImports]

    from ctjax.models.kernels import gpu_programs

    outputs = kernel.shape[-1]
    strip = CONVOLUTIONS[x.shape[-1], x.dtype.itemsize]
    matrices = spread(kernel).astype(x.dtype)

    def given(array):
        return matrices if array is None else array  # which is not read

    y = jax_triton.triton_call(
        *(x, matrices, given(bias), given(residual), given(mask)),
        kernel=gpu_programs.fused_convolution,
        out_type=jax.ShapeDtypeStruct((*x.shape[:-1], outputs), x.dtype),
        grid=_grid(x, strip),
        **_sizes(x, outputs, strip),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        IS_ACTIVATED=is_activated,
        HAS_MASK=mask is not None,
    )
    return _varying_as(x, y)


@jax.jit
def launch_kernel_gradient(x, gradient):
    """Runs `gpu_programs.fused_kernel_gradient` and sums over its strips."""
    import jax_triton  # pyright: ignore[reportMissingImports]

    from ctjax.models.kernels import gpu_programs

    n, _, _, features = x.shape
    outputs = gradient.shape[-1]
    strip = KERNEL_GRADIENTS[features, x.dtype.itemsize]
    across, down, _ = _grid(x, strip)
    numbers = 2 * KERNEL * REACH * features * outputs
    sums = jax_triton.triton_call(
        x,
        gradient,
        kernel=gpu_programs.fused_kernel_gradient,
        out_type=jax.ShapeDtypeStruct(
            (n, down, across, numbers + 2 * outputs), jnp.float32
        ),
        grid=_grid(x, strip),
        **_sizes(x, outputs, strip),
    )
    sums = _varying_as(x, sums).sum((0, 1, 2))
    of_bias = sums[numbers:].reshape(2, outputs).sum(0)
    return gathered(sums[:numbers], features, outputs), of_bias


def _grid(x, strip):
    """Returns how many programs cover the images: across, down, images."""
    n, height, width, _ = x.shape
    return -(-width // (2 * strip.pairs)), -(-height // strip.rows), n


def _sizes(x, outputs, strip):
    """Returns what both programs are compiled for."""
    _, height, width, features = x.shape
    return {
        "H": height,
        "W": width,
        "C": features,
        "F": outputs,
        "M": strip.pairs,
        "ROWS": strip.rows,
        "STAGES": strip.stages,
        "num_warps": strip.warps,
        "num_stages": strip.stages,
        "compute_capability": int(MEASURED_ON.replace(".", "")),
        # The second is Triton's default until 3.10.
        "backend_options": {"ptx_version": PTX_VERSION, "enable_fp_fusion": True},
    }


def _varying_as(x, y):
    """Marks `y` as each device's own where `x` is, which jax-triton does not."""
    axes = jax.typeof(x).manual_axis_type.varying
    return jax.lax.pcast(y, tuple(axes), to="varying") if axes else y
