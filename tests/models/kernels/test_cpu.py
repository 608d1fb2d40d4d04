"""The library of the CPU's convolutions; what it computes is in test_convolution.py."""

import ctypes
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.learning import sharding
from ctjax.models.kernels import cpu

needs_library = pytest.mark.skipif(
    cpu._load() is None,
    reason="cpu.c is not built: pip install -e . with a C compiler",
)


@needs_library
def test_is_used_here():
    assert cpu.are_usable()


@needs_library
def test_an_xla_that_does_not_call_it_is_noted(monkeypatch, caplog):
    def refuse(*arguments):
        raise ValueError("no such form of call")

    monkeypatch.setattr(cpu, "_call", refuse)
    assert not cpu._are_called()
    (record,) = caplog.records
    assert record.getMessage() == (
        "XLA does not call ctjax's convolutions: no such form of call"
    )


@needs_library
def test_an_xla_that_calls_something_else_is_noted(monkeypatch, caplog):
    monkeypatch.setattr(cpu, "convolve", lambda x, kernel: 2 * x * kernel)
    assert not cpu._are_called()
    (record,) = caplog.records
    assert record.getMessage() == (
        "XLA does not call ctjax's convolutions: wrong results of ctjax_convolve"
    )


@needs_library
def test_can_be_found_usable_in_the_middle_of_a_trace():
    mesh = sharding.make_mesh()
    spec = jax.sharding.PartitionSpec(sharding.EVENT_AXIS)
    found = []

    def of_device(x):
        cpu.are_usable.cache_clear()
        found.append(cpu.are_usable())
        return 2 * x

    jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=spec, out_specs=spec))(
        jnp.ones(mesh.size)
    )
    assert found and all(found)


SHORT_OF_MEMORY = """
import pathlib, resource
import jax, numpy as np
from ctjax.base.errors import UserError
from ctjax.models.kernels import cpu

assert cpu.are_usable()
x = np.ones((1, 1, 1024, 1024), np.float32)
kernel = np.ones((7, 7, 1024, 8), np.float32)
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
limit = used * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
try:
    jax.jit(cpu.convolve).lower(x, kernel)
except UserError as error:
    print(error)
try:
    jax.jit(lambda x, g: cpu.gradient_of_kernel(x, g, 7)).lower(x, x)
except UserError as error:
    print(error)
# What has not been reserved, as by a program that was not traced here, is not computed.
cpu._reserve = lambda name, config: None
found = jax.jit(cpu.convolve)(x, kernel)
print(np.isnan(found).all())
resource.setrlimit(resource.RLIMIT_AS, limits)
found = np.asarray(jax.jit(lambda *a: cpu.convolve(*a))(x, kernel))
# Of an image of one row, four columns of the kernel meet the first pixel.
assert found.min() == 4 * 1024 and found.max() == 7 * 1024
"""


@needs_library
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit of memory is Linux's"
)
def test_short_memory_is_an_error_and_not_the_end_of_the_process():
    result = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY],
        # Each thread works in seven rows, beside a result of 32 kB.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "16"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    words = "convolutions on the CPU: expected {} MB of memory to work in, found less"
    rows, kernels = 16 * 7 * 1030 * 1024 * 4, 49 * 1024 * 1024 * 4
    assert result.stdout.splitlines() == [
        words.format(round(rows / 1e6)),
        words.format(round((rows + kernels) / 1e6)),
        "True",
    ]


@pytest.mark.parametrize("name", ["PJRT_NPROC", "NPROC"])
def test_takes_as_many_threads_as_xla(name, monkeypatch):
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    own = cpu.num_threads()
    assert own >= 1
    monkeypatch.setenv(name, "7")
    assert cpu.num_threads() == 7
    monkeypatch.setenv(name, "many")
    assert cpu.num_threads() == own


@needs_library
def test_the_gradient_of_no_images_is_zero():
    library = cpu._load()
    assert library is not None
    config = b"0 4 16 3 8 3 8"
    x, out = np.zeros(0, np.float32), np.full((3, 3, 3, 8), np.nan, np.float32)
    operands = (ctypes.c_void_p * 2)(x.ctypes.data, x.ctypes.data)
    length = ctypes.c_size_t(len(config))
    library.ctjax_kernel_gradient(
        out.ctypes.data_as(ctypes.c_void_p), operands, config, length, None
    )
    assert not out.any()
