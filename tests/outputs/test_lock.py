"""What a run that was killed has left, and what another one is still writing."""

import os
import subprocess
import sys

from ctjax.data.larcv.disk_file import DiskFile, part_path
from ctjax.outputs import lock
from tests.support import ROOT

OURS = (
    "train_metrics.csv.partial",
    "train_config.json.partial",
    "inference_confusion.csv.partial",
    "predictions.h5.unfinished",
    "predictions.h5.rank3",
    ".predictions.h5.unfinished.123.part",
    ".events.h5.part",
    "report.html.unfinished",
)
OTHERS = ("predictions.h5", "download.partial", "train_metrics.csv", "notes.part")


def test_the_holder_removes_what_killed_runs_have_left(tmp_path):
    for name in (*OURS, *OTHERS):
        (tmp_path / name).write_text("")
    (tmp_path / "x_metrics.csv.partial").mkdir()
    with DiskFile(tmp_path / "now.h5"), lock.hold(str(tmp_path)):
        left = set(os.listdir(tmp_path))
        assert left == {*OTHERS, lock.FILE, "x_metrics.csv.partial", ".now.h5.part"}


def test_who_does_not_hold_the_lock_removes_nothing(tmp_path):
    code = (
        "import sys; from ctjax.outputs import lock\n"
        "try:\n"
        "    with lock.hold(sys.argv[1]): pass\n"
        "except lock.RunLockError: sys.exit(7)\n"
    )
    with lock.hold(str(tmp_path)):
        (tmp_path / "report.html.unfinished").write_text("")
        command = [sys.executable, "-c", code, str(tmp_path)]
        assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 7
        assert (tmp_path / "report.html.unfinished").exists()


def test_parts_are_hidden_and_beside_their_target():
    assert part_path("a/b.h5") == "a/.b.h5.part"
    assert part_path("b.h5") == ".b.h5.part"
