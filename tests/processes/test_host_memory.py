"""Memory kept from step to step: what `launch/` sets, and what it does."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT

NAMES = ("GLIBC_TUNABLES", "LD_PRELOAD", "KEEP_MEMORY", "MALLOC_CONF")
COMMAND = ["python", "-m", "ctjax.main", "--config", "configs/scc21.py"]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="glibc is Linux's"
)


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


@pytest.fixture
def scripts(tmp_path):
    """Makes a copy of `launch/` that takes another library for jemalloc's."""

    def make(library):
        script = (ROOT / "launch/host_memory.sh").read_text()
        (tmp_path / "launch").mkdir()
        for name in ("local.sh", "arguments.sh"):
            shutil.copy(ROOT / "launch" / name, tmp_path / "launch")
        (tmp_path / "launch/host_memory.sh").write_text(
            script.replace("libjemalloc.so.2", library)
        )
        return tmp_path

    return make


def test_nothing_is_set_unless_asked_for():
    assert settings() == {} == settings(KEEP_MEMORY="")


def test_glibc_is_set_up_by_its_own_settings():
    found = settings(KEEP_MEMORY="glibc")
    assert list(found) == ["GLIBC_TUNABLES"]
    assert "glibc.malloc.hugetlb=1" in found["GLIBC_TUNABLES"].split(":")


def test_jemalloc_is_preloaded(scripts):
    found = settings(scripts("libm.so.6"), KEEP_MEMORY="jemalloc")
    assert set(found) == {"LD_PRELOAD", "MALLOC_CONF"}
    assert found["LD_PRELOAD"] == "libm.so.6"


@pytest.mark.parametrize("way", ["glibc", "jemalloc"])
@pytest.mark.parametrize("given", ["", "/somewhere/else.so"])
def test_what_the_user_has_set_stays(given, way):
    own = dict.fromkeys(("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_CONF"), given)
    assert settings(KEEP_MEMORY=way, **own) == {}


@pytest.mark.parametrize("way", ["yes", "own", "jemalloc"])
def test_what_is_not_there_is_named(way, scripts):
    result = launch(scripts("libabsent.so.2"), KEEP_MEMORY=way)
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"launch: KEEP_MEMORY={way}: ")


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


PROGRAM_OF_XLA = """
import resource
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
def test_xla_computes_in_kept_memory():
    plain, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM_OF_XLA],
                env=environment(JAX_PLATFORMS="cpu", **changes),
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            ).stdout
        )
        for changes in ({}, settings(KEEP_MEMORY="glibc"))
    )
    assert kept < plain / 4
