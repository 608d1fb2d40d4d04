"""Builds the C libraries."""

import os
import subprocess
import sys

import pytest

from tests.support import ROOT


def build(folder, **environ):
    """Runs setup.py as an installation does; returns the library's path."""
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder]
    subprocess.run(
        [*map(str, command), "--build-temp", str(folder / "temp")],
        cwd=ROOT,
        env={**os.environ, **environ},
        check=True,
        capture_output=True,
    )
    return folder / "ctjax/data/_native.abi3.so"
