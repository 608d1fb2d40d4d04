"""What a figure was measured on: processor, versions, commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess


def commit() -> str:
    """The commit that is measured, "unknown" outside of a git checkout.

    "-dirty" follows where files differ from it, but for results of earlier runs.
    """
    name = _git("describe", "--always", "--abbrev=7")
    changes = ("status", "--porcelain", "--untracked-files=no", "--", ":/")
    is_dirty = _git(*changes, ":(exclude,top)docs/benchmarks")
    return (f"{name}-dirty" if is_dirty else name) or "unknown"


def _git(*arguments: str) -> str:
    """What git says, "" where it fails or is not there."""
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return result.stdout.strip()


def describe(*packages: str) -> dict:
    """Processor, CPUs, versions of Python and of packages that are there, commit."""
    processor = platform.processor() or "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    found = {one.name: one.version for one in importlib.metadata.distributions()}
    return {
        "processor": processor,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: found[name] for name in packages if name in found},
        "commit": commit(),
        "load_average": os.getloadavg()[0],
    }


def words(machine: dict) -> str:
    """The same as one line of a report."""
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs; Python {machine['python']}, "
        f"{versions}; commit {machine['commit']}"
    )
