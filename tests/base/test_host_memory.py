"""Memory kept from step to step: what `launch/` sets, and launch/host_memory.c."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT

NAMES = ("GLIBC_TUNABLES", "LD_PRELOAD", "KEEP_MEMORY", "MALLOC_CONF")
COMMAND = ["python", "-m", "ctjax.main", "--config", "configs/scc21.py"]

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's"),
    pytest.mark.xdist_group("host_memory"),  # they build one library
]


def environment(**changes):
    """Returns the environment of this process without what `launch/` may set."""
    return {k: v for k, v in os.environ.items() if k not in NAMES} | changes


def launch(root=ROOT, **changes):
    """Runs `launch/local.sh --dry-run`."""
    return subprocess.run(
        [root / "launch/local.sh", "--dry-run", "configs/scc21.py"],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
    )


def settings(root=ROOT, **changes):
    """Returns the settings that the command of `launch/local.sh` starts with."""
    result = launch(root, **changes)
    assert result.returncode == 0, result.stderr
    word, *words = shlex.split(result.stdout)
    assert word == "env" and words[-len(COMMAND) :] == COMMAND
    return dict(word.split("=", 1) for word in words[: -len(COMMAND)])


@pytest.fixture(scope="session")
def library():
    """Our own library as `launch/` builds it, which it does once."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    path = settings(KEEP_MEMORY="own")["LD_PRELOAD"]
    built = pathlib.Path(path).stat().st_mtime_ns
    assert settings(KEEP_MEMORY="own")["LD_PRELOAD"] == path
    assert pathlib.Path(path).stat().st_mtime_ns == built
    return path


def test_nothing_is_set_unless_asked_for():
    assert settings() == {} == settings(KEEP_MEMORY="")


def test_glibc_is_set_up_by_its_own_settings():
    found = settings(KEEP_MEMORY="glibc")
    assert list(found) == ["GLIBC_TUNABLES"]
    assert "glibc.malloc.hugetlb=1" in found["GLIBC_TUNABLES"].split(":")


def test_own_library_is_preloaded(library):
    found = settings(KEEP_MEMORY="own")
    assert set(found) == {"GLIBC_TUNABLES", "LD_PRELOAD"}


@pytest.mark.parametrize("given", ["", "/somewhere/else.so"])
def test_what_the_user_has_set_stays(given, library):
    found = settings(KEEP_MEMORY="own", LD_PRELOAD=given, GLIBC_TUNABLES=given)
    assert found == {}


@pytest.mark.parametrize("way", ["yes", "jemalloc"])
def test_what_is_not_there_is_named(way, tmp_path):
    script = (ROOT / "launch/host_memory.sh").read_text()
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch/local.sh", tmp_path / "launch")
    (tmp_path / "launch/host_memory.sh").write_text(
        script.replace("libjemalloc.so.2", "libabsent.so.2")
    )
    result = launch(tmp_path, KEEP_MEMORY=way)
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"launch: KEEP_MEMORY={way}: ")


@pytest.mark.parametrize("folder", ["a folder", "a:folder", "a$folder"])
def test_a_path_that_the_loader_would_split_is_refused(folder, tmp_path, library):
    shutil.copytree(ROOT / "launch", tmp_path / folder / "launch")
    result = launch(tmp_path / folder, KEEP_MEMORY="own")
    assert result.returncode == 1 and result.stdout == ""
    assert "expected a path without spaces" in result.stderr


PROGRAM = """
import os, subprocess, sys
from ctjax import main
before = dict(os.environ), os.getpid()
try:
    main.main(["ctjax", "--config", "configs/absent.py"])
except SystemExit:
    pass
assert (dict(os.environ), os.getpid()) == before
names = ["GLIBC_TUNABLES", "LD_PRELOAD"]
script = "import os; print([os.environ.get(name) for name in %r])" % names
sys.exit(subprocess.run([sys.executable, "-c", script]).returncode)
"""


@pytest.mark.parametrize("given", [{}, {"LD_PRELOAD": "", "GLIBC_TUNABLES": ""}])
def test_ctjax_itself_sets_nothing(given):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment(**given),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    expected = [given.get(name) for name in ("GLIBC_TUNABLES", "LD_PRELOAD")]
    assert result.stdout.splitlines() == [str(expected)]


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


def run_preloaded(library, program, **changes):
    """Runs a program with the library; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", TOOLS + program],
        env=environment(LD_PRELOAD=library, **changes),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_freed_block_serves_the_next_request_of_its_size(library):
    run_preloaded(
        library,
        """
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
""",
    )


def test_holds_no_more_than_was_in_use_at_a_time(library):
    run_preloaded(
        library,
        """
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
""",
    )


def test_small_and_strangely_aligned_blocks_are_the_c_librarys(library):
    run_preloaded(
        library,
        """
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
""",
    )


def test_other_functions_know_the_blocks(library):
    run_preloaded(
        library,
        """
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
""",
    )


@pytest.mark.slow
def test_more_blocks_than_it_counts(library):
    run_preloaded(
        library,
        """
blocks = [get(2) for _ in range(300)]
assert len(set(blocks)) == 300 and state() == (512, 0)
for number, block in enumerate(blocks):
    ctypes.memset(block, number % 251, 2 * MB)
for number, block in enumerate(blocks):
    assert ctypes.string_at(block, 2 * MB) == bytes([number % 251]) * (2 * MB)
    c.free(block)
assert state() == (0, 512)
get(4)  # all places are taken
""",
    )


@pytest.mark.slow
def test_threads_share_it_and_forks_go_on(library):
    output = run_preloaded(
        library,
        """
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
""",
    )
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


@pytest.mark.slow
def test_xla_computes_in_kept_memory(library):
    kept = int(run_preloaded(library, PROGRAM_OF_XLA, JAX_PLATFORMS="cpu"))
    result = subprocess.run(
        [sys.executable, "-c", TOOLS + PROGRAM_OF_XLA],
        env=environment(JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert kept < int(result.stdout) / 4
