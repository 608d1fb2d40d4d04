"""Processes that fall silent, as those of a host without power or network do."""

import signal
import time

import pytest

from tests.test_processes import free_port, start_ranks

pytestmark = pytest.mark.xdist_group("processes")


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


FIELDS = {"run__minibatch_size": 3, "run__iterations": 1000000}
