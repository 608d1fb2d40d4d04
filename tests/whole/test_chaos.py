"""The short forms of tests/chaos; docs/reliability.md has the long ones."""

import random
import shutil

import pytest

from tests.chaos import damage, kill_restart, sanitizers, soak
from tests.support import ROOT
from tests.support.processes import needs_mpirun, one_at_a_time


@pytest.mark.slow
@needs_mpirun
@one_at_a_time
def test_killed_trainings_end_as_the_unbroken_one(tmp_path):
    results = kill_restart.run(tmp_path, 4, 12.0, random.Random(3))
    assert sum(result["kills"] for result in results) >= 4
    assert all(result["same"] and not result["hangs"] for result in results)


@pytest.mark.slow
def test_no_damage_restores_a_wrong_state(tmp_path):
    counts = damage.run(tmp_path, 12, random.Random(2))
    assert counts["wrong"] == 0
    assert counts["restored 4"] > 5


@pytest.mark.slow
def test_nothing_grows_in_a_hundred_steps():
    report = soak.run(100)
    assert soak.growth(report["open_files"]) <= 0
    assert soak.growth(report["threads"]) <= 0


def test_growth_is_seen_through_open_checkpoints():
    assert soak.growth([9, 14, 17, 14, 14, 14, 14, 18, 14, 17]) <= 0
    assert soak.growth([9, 14, 15, 16, 17, 18, 19, 20, 21, 22]) > 0


needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="no gcc, whose sanitizers are used"
)


@pytest.mark.slow
@needs_gcc
def test_the_sanitizers_see_a_planted_fault(tmp_path):
    """Pools shapes that cells do not divide, past the end of what was allocated."""
    text = (ROOT / sanitizers.SOURCES["data"]).read_text(encoding="utf-8")
    guard = "if ((num_rows | num_columns) & ((1 << d) - 1)) return 0;"
    assert text.count(guard) == 1
    (tmp_path / "native.c").write_text(text.replace(guard, ""), encoding="utf-8")
    found = sanitizers.run("data", tmp_path / "native.c", "address")["finding"]
    assert "heap-buffer-overflow" in found and "ctjax_pool" in found


@pytest.mark.slow
@needs_gcc
def test_the_sanitizers_find_nothing_in_the_reading():
    source = ROOT / sanitizers.SOURCES["data"]
    result = sanitizers.run("data", source, "address")
    assert result["finding"] is None and result["calls"] > 100
