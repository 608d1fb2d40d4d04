"""Times single convolutions on a GPU: kernels of our own beside XLA's.

    python -m benchmarks.fused > fused.md

For every shape that `ctjax.models.kernels.gpu` has a table for: milliseconds forward
with bias, residual sum and activation, of the gradient of the input with the
activation's derivative, and of the gradients of kernel and bias; then of the bare
convolution by `network.kernels=columns` and by XLA's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from ctjax.models.kernels import columns, convolution, gpu

SHAPES = (
    (3, 1280, 2048, 16, "bfloat16"),
    (3, 640, 1024, 32, "bfloat16"),
    (24, 640, 1024, 8, "bfloat16"),
    (24, 320, 512, 16, "float32"),
    (24, 640, 1024, 8, "float32"),
)
CALLS = 20  # between two looks at the clock
REPEATS = 5
HEADER = (
    "| images | way | forward, ms | of input, ms | of kernel, ms |\n"
    "|---|---|---:|---:|---:|\n"
)


def main() -> int:
    """Prints a table."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.fused",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    if jax.default_backend() != "gpu" or gpu.missing():
        wanted = gpu.missing() or "a GPU"
        sys.stderr.write(f"benchmarks.fused: expected {wanted}\n")
        return 1
    here = machine.describe("jax", "jaxlib", "jax-triton", "triton", "numpy")
    device = jax.devices()[0].device_kind
    sys.stdout.write(f"{device}; {machine.words(here)}\n\n{HEADER}")
    for shape in SHAPES:
        for way, times in measure(*shape).items():
            cells = " | ".join(f"{time:.3f}" for time in times)
            images = " x ".join(map(str, shape[:4]))
            sys.stdout.write(f"| {images}, {shape[4]} | {way} | {cells} |\n")
            sys.stdout.flush()
    return 0


def measure(
    n: int, height: int, width: int, features: int, dtype: str
) -> dict[str, list[float]]:
    """Times one shape in all ways.

    Args:
      n: images.
      height: rows.
      width: columns.
      features: of the images and of the result.
      dtype: of the images.

    Returns:
      Milliseconds forward, of the input's and of the kernel's gradient, by way.
    """
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    shape = n, height, width, features
    x, residual, mask = (draw(*shape).astype(dtype) for _ in range(3))
    kernel, bias = draw(3, 3, features, features), draw(features)
    count = columns.most(shape)

    def in_columns(x, kernel):
        return columns.convolve(columns.fold(x, count), kernel, count)

    def plain(x, kernel):
        return convolution.plain(x, kernel.astype(x.dtype))

    found = {
        "fused": [
            median_ms(
                lambda: gpu.launch(x, kernel, bias, residual, None, is_activated=True)
            ),
            median_ms(
                lambda: gpu.launch(x, kernel, None, None, mask, is_activated=False)
            ),
            median_ms(lambda: gpu.launch_kernel_gradient(x, residual)),
        ]
    }
    for way, function in (("columns", in_columns), ("xla", plain)):
        gradient = residual
        if way == "columns":
            gradient = columns.fold(residual, count)
        forward = jax.jit(function)
        of_input = jax.jit(
            lambda x, k, g, f=function: jax.vjp(lambda x: f(x, k), x)[1](g)
        )
        of_kernel = jax.jit(
            lambda x, k, g, f=function: jax.vjp(lambda k: f(x, k), k)[1](g)
        )
        found[way] = [
            median_ms(forward, x, kernel),
            median_ms(of_input, x, kernel, gradient),
            median_ms(of_kernel, x, kernel, gradient),
        ]
    return found


def median_ms(function: Callable, *arguments) -> float:
    """Returns the median milliseconds of a call, without the first."""
    jax.block_until_ready(function(*arguments))
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(CALLS):
            result = function(*arguments)
        jax.block_until_ready(result)
        found.append((time.perf_counter() - start) / CALLS)
    return 1e3 * statistics.median(found)


if __name__ == "__main__":
    sys.exit(main())
