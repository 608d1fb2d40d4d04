"""A plugin of pytest: tests may be skipped only where a list says so, and why.

    python -m pytest -p tests.support.allowed_skips --allowed-skips=LIST

A line of the list is `TESTS | REASON | WHY`: a pattern of test ids (`*` stands for
anything), words of the reason that pytest gives, and why that is allowed. Any other
test that is skipped, or fails as expected, fails the session.
"""

import fnmatch
import pathlib
from typing import NamedTuple

import pytest


class Entry(NamedTuple):
    """A skip that is allowed."""

    tests: str
    reason: str
    why: str

    def allows(self, test: str, reason: str) -> bool:
        # Brackets are part of ids, not sets of characters.
        pattern = self.tests.replace("[", "[[]")
        return fnmatch.fnmatchcase(test, pattern) and self.reason in reason


def read(path: pathlib.Path) -> list[Entry]:
    """Reads a list; raises ValueError where a line has not its three parts."""
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = [part.strip() for part in line.split(" | ")]
            if len(parts) != 3 or not all(parts):
                raise ValueError(f"{path}:{number}: expected TESTS | REASON | WHY")
            entries.append(Entry(*parts))
    return entries


def pytest_addoption(parser):
    parser.addoption(
        "--allowed-skips", type=pathlib.Path, help="list of the skips that are allowed"
    )


def pytest_configure(config):
    path = config.getoption("allowed_skips")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Watcher(read(path)))


class _Watcher:
    """Collects skips while tests run, and judges them at the end."""

    def __init__(self, entries: list[Entry]):
        self.entries = entries
        self.used: set[Entry] = set()
        self.refused: dict[str, str] = {}

    def pytest_runtest_logreport(self, report):
        self._look(report)

    def pytest_collectreport(self, report):
        self._look(report)

    def _look(self, report):
        if not report.skipped:
            return
        reason = getattr(report, "wasxfail", None) or str(report.longrepr)
        allowing = [e for e in self.entries if e.allows(report.nodeid, reason)]
        self.used.update(allowing)
        if not allowing:
            self.refused[report.nodeid] = reason

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if self.refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        for entry in self.entries:
            if entry not in self.used:
                terminalreporter.write_line(f"nothing skipped here: {entry.tests}")
        if self.refused:
            terminalreporter.section("skips that are not on the list", red=True)
            for test, reason in self.refused.items():
                terminalreporter.write_line(f"{test}: {reason}")
