"""Asking for huge pages: one new start, with what the user has set."""

import os
import subprocess
import sys

import pytest

from ctjax import huge_pages

PROGRAM = (
    "import os, sys; from ctjax import huge_pages; print('start', flush=True); "
    "huge_pages.ask_for(); print(os.getpid(), os.environ['GLIBC_TUNABLES'], sys.argv)"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
@pytest.mark.parametrize(
    "before, after, starts",
    [
        ("", "glibc.malloc.hugetlb=1", 2),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1", 2),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0", 1),
    ],
)
def test_a_process_starts_anew_once(before, after, starts):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "an argument"],
        env=os.environ | {"GLIBC_TUNABLES": before},
        stdout=subprocess.PIPE,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    lines = output.splitlines()
    assert lines[:-1] == ["start"] * starts
    # The same process, as launchers and schedulers know it, with the same arguments.
    assert lines[-1] == f"{process.pid} {after} ['-c', 'an argument']"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started anew"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    huge_pages.ask_for()
    assert "GLIBC_TUNABLES" not in os.environ
