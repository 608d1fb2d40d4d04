"""The tutorial of examples/, at a tiny size, as a reader runs it."""

import os
import re
import subprocess
import sys

import pytest

from ctjax.data.larcv.file import LarcvFile
from tests.support import ROOT

pytest.importorskip("matplotlib", reason="extra [display] is not installed")


def run(script, *arguments):
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_tutorial(tmp_path):
    folder = tmp_path / "tutorial"
    said = run("1_simulate.py", "--folder", folder, "--events", 8, "--shape", "64,64")
    assert "test.h5: 2 events of 64 ticks x 64 wires" in said
    assert len(re.findall(r"plane \d: \d+\.\d\d% of the pixels", said)) == 3
    assert (folder / "event.png").read_bytes().startswith(b"\x89PNG")
    with LarcvFile(folder / "train.h5", require_label=True) as file:
        assert file.num_events == 8

    said = run("2_train.py", "--folder", folder, "--iterations", 2)
    assert said.endswith(f"2 steps; look at {folder}/run/report.html\n")
    said = run("2_train.py", "--folder", folder, "--iterations", 3)
    assert "Restored step 2" in said and "3 steps; look at" in said

    said = run("3_analyse.py", "--folder", folder)
    assert "2 batches" not in said and "for 2 entries" in said
    found = re.findall(r"GeV: (\d+) events, mean neutrino IoU", said)
    assert len(found) == 3 and 1 <= sum(map(int, found)) <= 2
    assert (folder / "worst.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2>Inference" in (folder / "run/report.html").read_text()
