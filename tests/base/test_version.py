"""The version and the commit: of a clone as it is now, else of what was built."""

import pathlib
import re
import subprocess
import sys
import tomllib
import types

import pytest

import ctjax
from ctjax.base import version

BUILT = "ctjax.base._version"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository of one commit; `git` runs a command in it."""

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
        result = subprocess.run(
            ["git", *identity, *words], check=True, capture_output=True, text=True
        )
        return result.stdout.strip()

    monkeypatch.setattr(version, "ROOT", tmp_path)
    built = types.SimpleNamespace(VERSION="0.0.9.dev1+g000000000")
    monkeypatch.setitem(sys.modules, BUILT, built)
    (tmp_path / "file").write_text("first")
    git("init", "-q")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    return git


def test_clone_is_what_git_says_now(clone, tmp_path):
    assert version.find_version() == version.NUMBER
    assert version.find_commit() == clone("rev-parse", "HEAD")[:9]
    (tmp_path / "file").write_text("second")
    assert version.find_commit() == clone("rev-parse", "HEAD")[:9] + " with changes"
    clone("commit", "-a", "-q", "-m", "second")
    clone("tag", "v0.1.0")
    assert version.find_commit() == clone("rev-parse", "HEAD")[:9]


def test_clone_without_git_is_of_unknown_commit(clone, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert version.find_version() == version.NUMBER
    assert version.find_commit() == "unknown"


@pytest.mark.parametrize(
    "built, commit",
    [
        ("0.1.0.dev185+g13ec4c6df", "13ec4c6df"),
        ("0.1.0.dev185+g13ec4c6df.d20260115", "13ec4c6df with changes"),
        ("0.2.0", "v0.2.0"),
        ("0.2.0.dev0", "unknown"),
    ],
)
def test_installation_is_what_was_built(tmp_path, monkeypatch, built, commit):
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setitem(sys.modules, BUILT, types.SimpleNamespace(VERSION=built))
    assert version.find_version() == built
    assert version.find_commit() == commit


def test_folder_without_git_or_build(tmp_path, monkeypatch):
    monkeypatch.setattr(version, "ROOT", tmp_path)
    monkeypatch.setitem(sys.modules, BUILT, None)
    assert version.find_version() == version.NUMBER
    assert version.find_commit() == "unknown"


def test_number_is_the_builds():
    settings = tomllib.loads(
        (pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text()
    )
    assert settings["tool"]["setuptools_scm"]["fallback_version"] == version.NUMBER
    assert ctjax.__version__ == version.find_version()


def test_release_is_the_same_everywhere():
    """The newest heading of the changelog is what is cited and built next."""
    root = pathlib.Path(__file__).parents[2]
    headings = re.findall(
        r"^## \[(\d\S*)\] - (\S+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    released, date = headings[0]
    citation = (root / "CITATION.cff").read_text()
    assert f"\nversion: {released}\n" in citation
    assert f'\ndate-released: "{date}"\n' in citation
    assert version.NUMBER == f"{released}.dev0"
