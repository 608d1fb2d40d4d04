"""The devices of a run, and compiled programs that outlive it."""

import json
import os
import subprocess
import sys

import pytest

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
    assert first["result"] == second["result"] == 8 * 8
    assert second["loaded"] == 0 < second["programs"]
