"""The devices of a run, and compiled programs that outlive it."""

import json
import os
import subprocess
import sys

import jax
import pytest

from ctjax.base.errors import ConfigError
from ctjax.learning import devices
from ctjax.processes import join
from tests.support import ROOT, processes, tiny

# A start: the devices are selected, one program is made ready and run.
START = """
import json
import jax
import jax.numpy as jnp
import numpy as np

events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
from ctjax.learning import devices
from ctjax.config.fields import ComputeMode

mesh = devices.select(ComputeMode.CPU)
result = jax.jit(lambda x: jnp.tanh(x @ x).sum())(np.ones((8, 8), np.float32))
prefix = "/jax/compilation_cache/"
print(json.dumps({
    "programs": events.count(prefix + "compile_requests_use_cache"),
    "loaded": events.count(prefix + "cache_hits"),
    "result": float(result),
}))
"""


@pytest.fixture
def start(tmp_path):
    def run(**variables):
        environment = {
            name: value
            for name, value in os.environ.items()
            if name != "JAX_COMPILATION_CACHE_DIR"
        }
        result = subprocess.run(
            [sys.executable, "-c", START],
            env=environment | {"XDG_CACHE_HOME": str(tmp_path / "user")} | variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return json.loads(result.stdout.splitlines()[-1])

    return run


def test_a_second_start_compiles_nothing(start, tmp_path):
    first, second = start(), start()
    assert first["programs"] > 0 == first["loaded"]
    assert second["loaded"] == second["programs"] == first["programs"]
    assert any((tmp_path / "user/ctjax/compiled").iterdir())


def test_the_folder_of_the_environment_comes_first(start, tmp_path):
    folder = tmp_path / "other"
    start(JAX_COMPILATION_CACHE_DIR=str(folder))
    assert any(folder.iterdir()) and not (tmp_path / "user").exists()


def test_without_a_folder_every_start_compiles(start, tmp_path):
    # A file where the folder would have to be: nothing can be written below it.
    (tmp_path / "user").write_text("")
    first, second = start(), start()
    assert first["result"] == second["result"] == pytest.approx(8 * 8)
    assert first["loaded"] == second["loaded"] == 0


@pytest.fixture
def compiled_folder(monkeypatch):
    """Where jax is told to keep programs by `select`; jax's own setting stays."""
    told = {}
    monkeypatch.setattr(devices.jax.config, "update", lambda *pair: told.update([pair]))
    return lambda: (devices._keep_compiled_programs(), told)[1][CACHE]


CACHE = "jax_compilation_cache_dir"


def test_a_folder_that_others_can_write_is_not_used(
    tmp_path, monkeypatch, compiled_folder, caplog
):
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    for mode, expected in ((0o777, None), (0o775, None), (0o755, str(folder))):
        folder.chmod(mode)
        assert compiled_folder() == expected
    assert len(caplog.messages) == 2
    assert f"{folder}: others can write into it (mode 777); expected" in caplog.text


def test_without_a_home_no_programs_are_kept(monkeypatch, compiled_folder, caplog):
    caplog.set_level("INFO", "ctjax")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(devices.user_cache, "folder", lambda name: None)
    assert compiled_folder() is None
    assert "not kept: found no home folder" in caplog.text


@pytest.mark.parametrize(
    "error", [RuntimeError("Unable to initialize backend:\nnone"), AssertionError()]
)
def test_a_platform_that_is_not_there_is_one_line(monkeypatch, error):
    def local_devices():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "local_devices", local_devices)
    with pytest.raises(ConfigError, match=r"^JAX_PLATFORMS=cuda: found no such device"):
        join.find_local_devices()


@pytest.mark.slow
def test_a_platform_that_is_not_there_ends_a_run(tmp_path):
    flags = tiny.flags(tmp_path, run__compute_mode="auto")
    result = subprocess.run(
        processes.command(*flags),
        env=processes.environment(JAX_PLATFORMS="cuda"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("ctjax: error: JAX_PLATFORMS=cuda: found no such device")
