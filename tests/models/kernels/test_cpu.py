"""The library of the CPU's convolutions; what it computes is in test_convolution.py."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
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


@needs_library
def test_c_allocates_nothing():
    # It could not say that memory is short: XLA's call of it returns no errors.
    names = set(pathlib.Path(cpu._load()._name).read_bytes().split(b"\0"))
    assert b"ctjax_convolve" in names and b"memcpy" in names
    assert not names & {b"malloc", b"calloc", b"realloc", b"aligned_alloc", b"abort"}


SHORT_OF_MEMORY = """
import pathlib, resource
import jax, numpy as np
from ctjax.models.kernels import cpu

assert cpu.are_usable()
x = np.ones((1, 1, 1024, 1024), np.float32)
kernel = np.ones((7, 7, 1024, 8), np.float32)
program = jax.jit(cpu.convolve).lower(x, kernel).compile()
x, kernel = jax.block_until_ready(jax.device_put((x, kernel)))
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
limit = used * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
try:
    jax.block_until_ready(program(x, kernel))
except (ValueError, jax.errors.JaxRuntimeError) as error:
    print(str(error).splitlines()[0])
resource.setrlimit(resource.RLIMIT_AS, limits)
found = np.asarray(program(x, kernel))
# Of an image of one row, four columns of the kernel meet the first pixel.
assert found.min() == 4 * 1024 and found.max() == 7 * 1024
print(found.shape)
"""


@needs_library
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit of memory is Linux's"
)
def test_short_memory_is_an_error_and_not_the_end_of_the_process():
    result = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY],
        # Each thread works in seven rows: 450 MB, beside a result of 32 kB.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "NPROC": "16"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    error, shape = result.stdout.splitlines()
    assert error.startswith("RESOURCE_EXHAUSTED: Out of memory allocating"), error
    assert shape == "(1, 1, 1024, 8)"


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
