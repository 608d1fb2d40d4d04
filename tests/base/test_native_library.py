"""Libraries in C: built, used with their own sources only, and named where absent."""

import _ctypes
import json
import shutil
import types

import pytest

from ctjax import main
from ctjax.base import native_library
from ctjax.base.native_library import CONVOLUTIONS, READING, SIMULATION
from tests.support import ROOT, tiny
from tests.support.building import build

pytestmark = pytest.mark.slow

LIBRARIES = {
    "reading": READING,
    "simulation": SIMULATION,
    "convolutions": CONVOLUTIONS,
}
SOURCES = {
    "reading": "data/native.c",
    "simulation": "simulation/native.c",
    "convolutions": "models/kernels/cpu_product.h",
}
NOT_BUILT = ".abi3.so is not built; expected pip install of ctjax with a C compiler"
each_library = pytest.mark.parametrize("name", LIBRARIES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The package's folder with the libraries, and the sources beside them."""
    folder = tmp_path_factory.mktemp("built")
    build(folder)
    for source in (ROOT / "ctjax").rglob("*.[ch]"):
        copy = folder / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
    return folder / "ctjax"


@pytest.fixture
def package(built, tmp_path, monkeypatch, needs_compiler):
    """A copy of it, which is where libraries are looked for."""
    shutil.copytree(built, tmp_path / "ctjax")
    monkeypatch.setattr(native_library, "PACKAGE", tmp_path / "ctjax")
    return tmp_path / "ctjax"


@each_library
def test_installation_builds_the_library(package, name):
    library = LIBRARIES[name]
    assert native_library.find_obstacle(library) is None
    assert native_library.load(library) is not None


@each_library
def test_library_of_other_sources_is_not_used(package, name):
    source = package / SOURCES[name]
    source.write_text(source.read_text().replace("the", "The", 1))
    check_obstacle(
        LIBRARIES[name], "was built from other sources; expected pip install"
    )


def check_obstacle(library, words):
    assert native_library.load(library) is None
    obstacle = native_library.find_obstacle(library)
    assert obstacle.startswith(f"ctjax/{library.path}.abi3.so {words}")


def test_library_that_names_no_sources_is_not_used(package):
    shutil.copy(_ctypes.__file__, package / "data/_native.abi3.so")
    check_obstacle(READING, "is of another version; expected pip install")


def test_damaged_library_is_not_used(package):
    (package / "data/_native.abi3.so").write_bytes(b"no library")
    check_obstacle(READING, "cannot be loaded (")


def test_library_for_other_processors_is_not_used(package, monkeypatch):
    opened = native_library.ctypes.CDLL

    def open_elsewhere(path):
        known = opened(path).ctjax_source_hash
        return types.SimpleNamespace(
            ctjax_source_hash=known, ctjax_runs_here=lambda: False
        )

    monkeypatch.setattr(native_library.ctypes, "CDLL", open_elsewhere)
    check_obstacle(CONVOLUTIONS, "needs instructions that this processor lacks")


def test_installation_needs_no_compiler(tmp_path, monkeypatch):
    build(tmp_path, CC="absent-compiler")
    monkeypatch.setattr(native_library, "PACKAGE", tmp_path / "ctjax")
    for library in LIBRARIES.values():
        check_obstacle(library, "is not built; expected pip install")


def run_without_work(folder, mode, monkeypatch):
    """Runs a mode whose work is left out; returns the log's warnings and the record."""
    monkeypatch.setattr(f"ctjax.runs.{mode}.run", lambda *arguments: None)
    main.run(tiny.make(folder, mode__name=mode))
    log = (folder / "process.log").read_text().splitlines()
    record = json.loads((folder / f"{mode}_config.json").read_text())
    return [line for line in log if "instead of C" in line], record["libraries"]


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_log_and_record_name_what_serves_instead(tmp_path, mode, monkeypatch):
    monkeypatch.setattr(native_library, "PACKAGE", tmp_path / "ctjax")
    wanted = {"reading": ("numpy", "data/_native")}
    if mode != "iotest":
        wanted["convolutions on the CPU"] = ("XLA", "models/kernels/_cpu")
    lines, libraries = run_without_work(tmp_path / "run", mode, monkeypatch)
    assert [line.partition("Using ")[2] for line in lines] == [
        f"{other} instead of C for {work}, which is slower: ctjax/{path}{NOT_BUILT}"
        for work, (other, path) in wanted.items()
    ]
    assert all("WARNING" in line for line in lines)
    assert libraries == {
        work: f"{other}: ctjax/{path}{NOT_BUILT}"
        for work, (other, path) in wanted.items()
    }


def test_log_is_silent_where_all_are_there(package, tmp_path, monkeypatch):
    lines, libraries = run_without_work(tmp_path / "run", "train", monkeypatch)
    assert not lines
    assert libraries == {"reading": "C", "convolutions on the CPU": "C"}
