"""Whole runs in odd places: no user, no terminal, another locale, odd names."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.support import ROOT, tiny

pytestmark = pytest.mark.slow

# As in a container that is started with a user id that its passwd does not have.
HOMELESS = """
import os, sys
for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "MPLCONFIGDIR"):
    os.environ.pop(name, None)
os.getuid = lambda: 54321
from ctjax import main
sys.exit(main.main(sys.argv[1:]))
"""

LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


# Programs are compiled anew: the fewer layers, the better.
QUICK = {"network__depth": 1, "network__blocks_per_layer": 0}
QUICK |= {"network__blocks_final": 0, "network__blocks_deepest_layer": 0}


def run(folder, streams, code, *flags):
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable]
    return subprocess.run(
        [*command, *(["-c", code] if code else ["-m", "ctjax.main"]), *flags],
        env={**os.environ, **LOCALE, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        timeout=300,
    )


def test_a_training_needs_no_user_no_terminal_and_no_unicode(tmp_path):
    name = "a[1] ~b/{c}"
    fields = {"mode__no_summary_images": False, "run__iterations": 2, **QUICK}
    flags = tiny.flags(name, **fields)
    result = run(tmp_path, ">&- 2>&-", HOMELESS, *flags)
    assert result.returncode == 0
    assert os.listdir(tmp_path) == ["a[1] ~b"]
    folder = tmp_path / name
    log = (folder / "process.log").read_text(encoding="utf-8")
    assert "Compiling the training step …" in log
    assert "Compiled programs are not kept: found no home folder" in log
    assert log.count("eport page: ") == 1
    assert (folder / "checkpoints/2").is_dir()
    # Whatever was said on the closed streams is in none of the files.
    assert (folder / "run.lock").read_text().startswith('{"process"')
    again = run(tmp_path, "", HOMELESS, *flags)
    assert again.returncode == 0
    assert b"Step 2 of 2: done before" in again.stdout


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full")
def test_a_terminal_that_takes_nothing_changes_no_status(tmp_path):
    flags = tiny.flags("out", mode__name="iotest", run__iterations=2)
    result = run(tmp_path, ">/dev/full 2>/dev/full", "", *flags)
    assert result.returncode == 0
    assert "Total IO Time" in (tmp_path / "out/process.log").read_text()
