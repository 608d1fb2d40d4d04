"""Processes that fall silent, as those of a host without power or network do."""

import signal
import subprocess
import sys
import time

import pytest

from ctjax.processes import join, liveness
from tests.support import ROOT, tiny
from tests.support.processes import (
    CONFIGURATION,
    MPIRUN,
    environment,
    free_port,
    needs_mpirun,
    one_at_a_time,
    start_ranks,
)

pytestmark = [needs_mpirun, one_at_a_time, pytest.mark.slow]

FIELDS = {"run__minibatch_size": 3, "run__iterations": 1000000}


@pytest.mark.parametrize("silent", [0, 2])
def test_the_others_end_and_name_a_rank_that_is_silent(tmp_path, silent):
    processes = start_ranks(tmp_path, 3, free_port(), **FIELDS)
    try:
        table = tmp_path / "run" / "train_metrics.csv"
        deadline = time.monotonic() + 240
        while not (table.exists() and len(table.read_text().splitlines()) > 4):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        processes[silent].send_signal(signal.SIGSTOP)
        start = time.monotonic()
        others = [rank for rank in range(3) if rank != silent]
        statuses = {rank: processes[rank].wait(timeout=60) for rank in others}
        assert time.monotonic() - start < 60
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for rank in others:
        assert statuses[rank] == 1
        errors = (tmp_path / f"rank{rank}.err").read_text()
        assert f"ctjax: error: rank {rank}: " in errors
        assert f"lost rank {silent}" in errors
        assert "Traceback" not in errors and "Check failure" not in errors


def test_the_others_have_ended_before_jaxlib_aborts_them():
    # At the latest: all looks, one to see what the first one says, and what it waits.
    longest = (liveness.SILENT_LOOKS + 1 + 2) * liveness.POLL_S
    # jaxlib's heartbeats come at half of its timeout, which counts from the last one.
    assert join.HEARTBEAT_TIMEOUT_S / 2 > 1.5 * longest


def test_no_process_aborts_at_its_end(tmp_path):
    # Looks without a pause: at the end of Python, one is nearly always under way.
    code = (
        "import sys; from ctjax import main; from ctjax.processes import liveness; "
        "liveness.POLL_S = 3e-4; "
        "liveness.SILENT_LOOKS = 10**9; sys.exit(main.main(sys.argv[1:]))"
    )
    flags = tiny.flags(tmp_path, mode__name="iotest", run__iterations=1)
    result = subprocess.run(
        [
            *(MPIRUN, "-n", "2", "--bind-to", "none"),
            *(sys.executable, "-c", code, *CONFIGURATION, *flags),
        ],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


def test_a_terminate_of_the_transport_calls_the_roll(tmp_path):
    # In one rank of two, as gloo's threads do on an answer out of turn.
    code = (
        "import ctypes, sys, threading; from ctjax import main;"
        "from ctjax.processes import liveness;"
        "watch = liveness.watch;"
        "terminate = ctypes.CDLL('libstdc++.so.6')._ZSt9terminatev;"
        "liveness.watch = lambda index, count: (watch(index, count),"
        " index == 1 and threading.Thread(target=terminate).start());"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    processes = []
    port = free_port()
    flags = tiny.flags(tmp_path / "run", **FIELDS | {"run__minibatch_size": 4})
    for rank in range(2):
        with open(tmp_path / f"rank{rank}.err", "w") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, *CONFIGURATION, *flags],
                    env=environment(
                        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                        JAX_PROCESS_ID=str(rank),
                        JAX_NUM_PROCESSES="2",
                    ),
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            )
    try:
        statuses = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert statuses == [1, 1]
    for rank in range(2):
        errors = (tmp_path / f"rank{rank}.err").read_text()
        assert (
            f"ctjax: error: rank {rank}: lost touch with the other ranks (noticed by "
            "rank 1: its connections were broken off)" in errors
        )
