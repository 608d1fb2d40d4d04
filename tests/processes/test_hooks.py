"""Hooks into the insides of others: each fails here when an upgrade has moved it.

docs/reliability.md lists them. That XLA calls the convolutions in C is tested in
tests/models/kernels/test_cpu.py.
"""

import socket
import subprocess
import sys

import pytest


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


STORE = """
import sys
import jax
from ctjax.processes import store

def holds_nothing():
    return (
        not store.is_open()
        and not store.put("k/0", "a")
        and store.get("k/0") is None
        and store.get_all("k/") == {}
    )

assert holds_nothing()
jax.config.update("jax_platforms", "cpu")
address = "127.0.0.1:" + sys.argv[1]
jax.distributed.initialize(address, 1, 0, cluster_detection_method="deactivate")
assert store.is_open()
assert store.get("k/0") is None and store.get_all("k/") == {}
assert store.put("k/0", "first") and store.put("k/0", "second")
assert store.get("k/0") == "first"
assert store.put("k/0", "third", overwrite=True) and store.get("k/0") == "third"
assert store.put("k/12", "")
assert store.get_all("k/") == {0: "third", 12: ""}
jax.distributed.shutdown()
assert holds_nothing()
"""


def test_the_store_of_jax_is_where_it_was():
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    result = run(STORE, port)
    assert result.returncode == 0, result.stderr


TERMINATE = """
import ctypes
import os
from ctjax.processes import liveness

liveness.replace_abort(lambda: os._exit(7))
ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="libstdc++ is not the system's")
def test_cpp_calls_a_function_in_place_of_abort():
    result = run(TERMINATE)
    assert result.returncode == 7, result.stderr


SUMMARIES = """
import logging
import resource
import sys
from ctjax.outputs import summaries

logging.basicConfig()
summary = summaries.open_summary(sys.argv[1], "train", 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for step in range(2000):
    summary.add_scalar("loss", 1.0, step)
summary.flush()
summary.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to set")
def test_summaries_on_a_full_disk_neither_hang_nor_fail(tmp_path):
    result = run(SUMMARIES, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "TensorBoard's train: summaries are lost" in result.stderr
    assert "Traceback" not in result.stderr
