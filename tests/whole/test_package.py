"""The package: an sdist that builds by itself, its wheel in an empty environment."""

import email
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow

NEEDED = [
    *("LICENSE", "README.md", "pyproject.toml", "setup.py", "requirements.txt"),
    *("benchmarks/io.py", "configs/scc21.py", "ctjax/models/kernels/cpu_product.h"),
    *("docs/configuration.md", "examples/2_train.py", "launch/local.sh"),
    *("tests/conftest.py", "tests/support/tiny.py"),
]
"""A file of each kind that building or testing needs."""

IS_CLONE = (ROOT / ".git").exists()


def run(*command, cwd=ROOT):
    """Runs a command that finds nothing of this source tree by its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=kept, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def only(paths):
    (path,) = paths
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation"]
    run(*build, "--outdir", folder, ROOT)
    return only(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    run(*build, "--wheel-dir", folder, sdist)
    return only(folder.iterdir())


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The `bin` of an environment with the wheel and what this one has installed."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    install = ["-m", "pip", "--python", folder / "bin/python", "install", "--no-deps"]
    run(sys.executable, *install, "--no-index", wheel)
    # Links to what is installed there are not followed, so not to this source tree.
    site = only(folder.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


def test_sdist_holds_what_building_and_testing_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(NEEDED) <= names
    if IS_CLONE:
        tracked = run("git", "ls-files").splitlines()
        assert {name for name in tracked if (ROOT / name).exists()} <= names


def test_wheel_serves_every_python(wheel):
    assert "-cp311-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("configs", "ctjax/views/report"):
        for path in (ROOT / folder).glob("*.*"):
            place = f"{folder.removeprefix('ctjax/')}/{path.name}"
            assert f"ctjax/{place}" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"ctjax", f"ctjax-{wheel.name.split('-')[1]}.dist-info"}


def test_wheel_says_what_it_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    name = only(n for n in archive.namelist() if n.endswith("/METADATA"))
    metadata = email.message_from_string(archive.read(name).decode())
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = settings["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra")) == set(extras)
    needs = metadata.get_all("Requires-Dist")
    always = [need.replace(" ", "") for need in needs if "extra ==" not in need]
    assert always == (ROOT / "requirements.txt").read_text().split()
    assert 'matplotlib>=3.9; extra == "display"' in needs


def test_version_names_the_commit(environment, elsewhere, wheel):
    version = wheel.name.split("-")[1]
    words = run(environment / "ctjax", "--version", cwd=elsewhere).split(maxsplit=3)
    assert words[:3] == ["ctjax", version, "(commit"]
    if IS_CLONE:
        commit = words[3].split()[0].rstrip(")\n")
        head = run("git", "rev-parse", "HEAD")
        assert len(commit) >= 7 and head.startswith(commit)
        assert f"+g{commit}" in version


def test_commands_run_elsewhere(environment, elsewhere, needs_compiler):
    flags = {
        "data.synthetic": True,
        "data.downsample": 3,
        "run.iterations": 2,
        "run.minibatch_size": 2,
        "output_dir": "read",
    }
    words = [f"--config.{name}={value}" for name, value in flags.items()]
    command = environment / "ctjax"
    shown = run(command, "iotest", "--config", "scc21", *words, cwd=elsewhere)
    assert "Average Image IO Throughput" in shown
    record = json.loads((elsewhere / "read/iotest_config.json").read_text())
    assert record["libraries"] == {"reading": "C"}
    help_text = run(command, "quickstart", "--help", cwd=elsewhere)
    assert help_text.startswith("usage: ctjax quickstart")
