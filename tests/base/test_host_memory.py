"""Memory from the system: one new start, and large blocks that are kept."""

import os
import subprocess
import sys

import pytest

from ctjax.base import host_memory
from tests.support import ROOT
from tests.support.building import build

LIBRARY = host_memory.find_library()
PROGRAM = (
    "import os, sys; from ctjax.base import host_memory; print('start', flush=True); "
    "host_memory.prepare(); print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), "
    "os.environ.get('LD_PRELOAD'), sys.argv)"
)
HUGE = "glibc.malloc.hugetlb=1"

on_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="glibc is Linux's"
)
needs_library = pytest.mark.skipif(
    LIBRARY is None,
    reason="host_memory.c is not built: pip install -e . with a C compiler",
)


def environment(**changes):
    """Of this process, without what `prepare` sets."""
    names = ("GLIBC_TUNABLES", "LD_PRELOAD")
    return {k: v for k, v in os.environ.items() if k not in names} | changes


@on_linux
@pytest.mark.parametrize(
    "before, tunables, preloaded, starts",
    [
        ({}, HUGE, str(LIBRARY), 2),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=0"},
            f"glibc.malloc.check=0:{HUGE}",
            str(LIBRARY),
            2,
        ),
        ({"LD_PRELOAD": ""}, HUGE, "", 2),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0", "LD_PRELOAD": ""},
            "glibc.malloc.hugetlb=0",
            "",
            1,
        ),
    ],
)
def test_a_process_starts_anew_once(before, tunables, preloaded, starts):
    if LIBRARY is None:
        before = {"LD_PRELOAD": ""} | before
        preloaded = ""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "an argument"],
        env=environment(**before),
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[:-1] == ["start"] * starts
    # The same process, as launchers and schedulers know it, with the same arguments.
    assert lines[-1] == f"{process.pid} {tunables} {preloaded} ['-c', 'an argument']"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started anew"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    host_memory.prepare()
    assert "GLIBC_TUNABLES" not in os.environ


@on_linux
def test_installation_builds_the_library(tmp_path, needs_compiler):
    build(tmp_path)
    assert (tmp_path / "ctjax/_host_memory.abi3.so").exists()


def test_installation_needs_no_compiler(tmp_path, monkeypatch):
    build(tmp_path, CC="absent-compiler")
    monkeypatch.setattr(host_memory, "__file__", str(tmp_path / "ctjax/x.py"))
    assert host_memory.find_library() is None


@pytest.mark.parametrize("folder", ["a folder", "a:folder", "a$folder"])
def test_a_path_that_the_loader_would_split_is_left_alone(
    folder, tmp_path, monkeypatch
):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "_host_memory.abi3.so").touch()
    monkeypatch.setattr(host_memory, "__file__", str(tmp_path / folder / "x.py"))
    assert host_memory.find_library() is None


TOOLS = """
import ctypes, os, resource, sys, threading
c = ctypes.CDLL(None)
size, pointer = ctypes.c_size_t, ctypes.c_void_p
c.aligned_alloc.restype = c.realloc.restype = c.malloc.restype = pointer
c.aligned_alloc.argtypes = [size, size]
c.realloc.argtypes = [pointer, size]
c.free.argtypes = [pointer]
c.malloc_usable_size.restype, c.malloc_usable_size.argtypes = size, [pointer]
MB = 1 << 20
def get(megabytes):
    address = c.aligned_alloc(64, megabytes * MB)
    assert address and address % 64 == 0
    return address
def state():
    numbers = size(), size()
    c.ctjax_memory(*map(ctypes.byref, numbers))
    return tuple(number.value / MB for number in numbers)
"""


def run_preloaded(program, **changes):
    """Runs a program with the library; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", TOOLS + program],
        env=environment(LD_PRELOAD=str(LIBRARY), **changes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_library
def test_a_freed_block_serves_the_next_request_of_its_size():
    run_preloaded("""
first = get(64)
ctypes.memset(first, 7, 64 * MB)
assert state() == (64, 0)
c.free(first)
assert state() == (0, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    again = get(64)
    assert again == first
    ctypes.memset(again, 8, 64 * MB)
    c.free(again)
assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 20
assert get(63) == first and state() == (64, 0)  # sizes go in steps of 2 MB
""")


@needs_library
def test_holds_no_more_than_was_in_use_at_a_time():
    run_preloaded("""
for address in [get(40), get(60)]:
    c.free(address)
assert state() == (0, 100)
large = get(70)
assert state() == (70, 0)
c.free(large)
small = get(30)
assert state() == (30, 70)  # 100 were in use
c.free(small)
assert state() == (0, 100)
c.free(get(130))
assert state() == (0, 130)
""")


@needs_library
def test_small_and_strangely_aligned_blocks_are_the_c_librarys():
    run_preloaded("""
c.free(get(1))
wide = c.aligned_alloc(4 * MB, 8 * MB)
assert wide % (4 * MB) == 0
c.free(wide)
c.free(c.malloc(64 * MB))
c.free(None)
assert state() == (0, 0)
result = pointer()
assert c.posix_memalign(ctypes.byref(result), size(3), size(64 * MB)) != 0
assert c.posix_memalign(ctypes.byref(result), size(64), size(1 << 62)) != 0
assert state() == (0, 0)
""")


@needs_library
def test_other_functions_know_the_blocks():
    run_preloaded("""
block = get(8)
assert c.malloc_usable_size(block) == 8 * MB
ctypes.memset(block, 5, 8 * MB)
larger = c.realloc(block, 12 * MB)
assert ctypes.string_at(larger, 8 * MB) == b"\\5" * (8 * MB)
assert state() == (0, 8)
c.free(larger)
small = c.malloc(100)
assert c.malloc_usable_size(small) >= 100
c.free(c.realloc(small, 200))
""")


@needs_library
def test_more_blocks_than_it_counts():
    run_preloaded("""
blocks = [get(2) for _ in range(300)]
assert len(set(blocks)) == 300 and state() == (512, 0)
for number, block in enumerate(blocks):
    ctypes.memset(block, number % 251, 2 * MB)
for number, block in enumerate(blocks):
    assert ctypes.string_at(block, 2 * MB) == bytes([number % 251]) * (2 * MB)
    c.free(block)
assert state() == (0, 512)
get(4)  # all places are taken
""")


@needs_library
def test_threads_share_it_and_forks_go_on():
    output = run_preloaded("""
import random
faults = []
def work(seed):
    random.seed(seed)
    for turn in range(200):
        megabytes = random.choice((2, 4, 6, 8))
        address = get(megabytes)
        ctypes.memset(address, seed, megabytes * MB)
        if ctypes.string_at(address, megabytes * MB).count(seed) != megabytes * MB:
            faults.append((seed, turn))
        c.free(address)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        c.free(get(4))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
for thread in threads:
    thread.join()
assert not faults, faults
in_use, kept = state()
assert in_use == 0 and kept <= 4 * 8, (in_use, kept)
print("done")
""")
    assert output == "done\n"


PROGRAM_OF_XLA = """
import jax, jax.numpy as jnp
# Products, so that XLA keeps what lies between them: 2 x 32 MB.
function = jax.jit(lambda x: jnp.sin(x @ x) @ x)
x = jnp.ones((2048, 2048))
def run(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        jax.block_until_ready(function(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
run(3)
print(run(10))
"""


@needs_library
def test_xla_computes_in_kept_memory():
    kept = int(run_preloaded(PROGRAM_OF_XLA, JAX_PLATFORMS="cpu"))
    result = subprocess.run(
        [sys.executable, "-c", TOOLS + PROGRAM_OF_XLA],
        env=environment(JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert kept < int(result.stdout) / 4
