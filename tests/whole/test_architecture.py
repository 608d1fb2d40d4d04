"""What the pages for developers name exists: functions, fields, files and rooms."""

import dataclasses
import importlib
import pathlib
import re

import pytest

import ctjax
from ctjax.config.fields import Config

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]

ROOMS = dict(re.findall(r"^    (\w+)  +(.+)", ctjax.__doc__, re.M))
PATH = re.compile(r"(?:ctjax|tests|benchmarks|launch|configs|docs|examples)/[\w/.]*")


def text_of(page):
    """Returns the text of a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def quoted(text):
    """Returns what stands between backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def names_of(text):
    """Returns `room.module.name` and `section.field=value`, without the value."""
    words = (word.partition("=")[0] for word in quoted(text))
    return sorted({w for w in words if re.fullmatch(r"[a-z_]+(\.\w+)+", w)})


def is_field(name):
    section = Config
    for part in name.split("."):
        fields = {f.name: f for f in dataclasses.fields(section)}
        if part not in fields:
            return False
        factory = fields[part].default_factory
        section = section if factory is dataclasses.MISSING else factory
    return True


def exists(name):
    """Says whether a module of ctjax, or something in one, has this dotted name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["ctjax", *parts[:length]]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_what_the_walks_name_exists():
    names = names_of(text_of(ROOT / "docs/architecture.md"))
    names = [name for name in names if name.split(".")[0] in {*ROOMS, "mode"}]
    assert len(names) > 30
    missing = [name for name in names if not (is_field(name) or exists(name))]
    assert not missing


def test_what_contributors_are_told_is_in_the_files_named_beside_it():
    checked = 0
    for entry in text_of(ROOT / "CONTRIBUTING.md").split("\n\n"):
        words = quoted(entry)
        files = [ROOT / word for word in words if PATH.fullmatch(word)]
        sources = "".join(path.read_text() for path in files if path.is_file())
        for word in words:
            if sources and re.fullmatch(r"[A-Za-z_]*[A-Z_][A-Za-z_]*", word):
                assert re.search(rf"\b{word}\b", sources), word
                checked += 1
    assert checked > 5


def test_the_map_is_that_of_the_package():
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert rows == list(ROOMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page):
    for word in quoted(text_of(page)):
        if PATH.fullmatch(word):
            assert (ROOT / word).exists(), word
