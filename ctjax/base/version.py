"""Says which version of ctjax this is, and of which commit."""

import importlib
import pathlib
import subprocess

NUMBER = "0.2.0.dev0"
"""Version of a source tree; as `fallback_version` in pyproject.toml."""

ROOT = pathlib.Path(__file__).parents[2]
"""The source tree, or the folder into which ctjax was installed."""

GIT_TIMEOUT_S = 10


def _is_clone() -> bool:
    """Says whether git knows the state of these files."""
    # Newer than what a build has written: an editable installation's HEAD moves on.
    return (ROOT / ".git").exists()


def find_version() -> str:
    """Returns the version: the one that was built, or `NUMBER` in a clone."""
    if _is_clone():
        return NUMBER
    try:
        return importlib.import_module("ctjax.base._version").VERSION
    except ImportError:
        return NUMBER


def find_commit() -> str:
    """Returns the commit; in a clone, the one that git says now.

    Returns:
      The start of its hash, followed by " with changes" where files differ from it; of
      a release, its tag; "unknown" where neither git nor a build tells.
    """
    if _is_clone():
        return _ask_git()
    number, _, local = find_version().partition("+")
    if local.startswith("g"):
        commit, *changes = local[1:].split(".")
        return commit + (" with changes" if changes else "")
    return "unknown" if ".dev" in number else f"v{number}"


def describe() -> str:
    """Returns what `--version` says: version and commit, in one line."""
    return f"ctjax {find_version()} (commit {find_commit()})"


def _ask_git() -> str:
    """Returns what git says of the clone."""
    command = ["describe", "--always", "--exclude=*", "--abbrev=9"]
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), *command, "--dirty= with changes"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip() or "unknown"
