"""Commands in the documentation are commands that exist, with fields that exist."""

import functools
import importlib.util
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page):
    """What begins with a program of ours, in fenced blocks and between backticks."""
    text = page.read_text().replace("\\\n", " ")
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        found += block.splitlines()
    found += re.findall(r"`([^`\n]+)`", text)
    for line in found:
        for part in re.split(r"&&|;|\|", line):
            match = re.search(r"(python3? -m (?:ctjax|benchmarks|tests)\S*.*)", part)
            if match:
                yield match[1].strip()


def all_commands():
    return sorted({(page, c) for page in PAGES for c in commands(page)}, key=str)


@pytest.mark.parametrize("page, command", all_commands())
def test_modules_and_options_exist(page, command):
    words = shlex.split(command.partition(" > ")[0].replace("…", "").replace("...", ""))
    module = words[2]
    assert importlib.util.find_spec(module), f"{page.name}: {command}"
    given = [w for w in words[3:] if w.startswith("--") and len(w) > 2]
    if module == "ctjax.main":
        fields = [w for w in given if w.startswith("--config.")]
        assert not set(given) - set(fields) - {"--config", "--help"}
        values = dict(word[len("--config.") :].split("=", 1) for word in fields)
        files = [b for a, b in itertools.pairwise(words) if a == "--config"]
        for file in files:
            if "NAME" not in file and not file.isupper():
                assert (ROOT / file).exists(), f"{page.name}: {command}"
        known = help_of("ctjax.main")
        for name in values:
            if name.isupper() or name == "x.y":
                continue
            assert f"--config.{name}=" in known, f"{page.name}: {command}"
    else:
        known = help_of(module) if given else ""
        for word in given:
            option = word.split("=")[0]
            assert option in known, f"{page.name}: {command}"


@functools.cache
def help_of(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
