"""The layers of the package: who may import what (style.md, section 2)."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ctjax"
GROUND = {
    f"ctjax.{name}" for name in ("constants", "config", "sharding", "native_library")
}
TOP = {
    f"ctjax.{name}" for name in ("train", "inference", "iotest", "quickstart", "main")
}
WITHOUT_JAX = [*sorted((PACKAGE / "data").rglob("*.py")), PACKAGE / "iotest.py"]


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path):
    """Every module that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(n if n in MODULES else node.module for n in names)
    return found


def ours(path):
    return {name for name in imported(path) if name.split(".")[0] == "ctjax"}


@pytest.mark.parametrize("name", [n for n in MODULES if n not in TOP])
def test_nothing_imports_the_top_layer(name):
    assert not ours(MODULES[name]) & TOP


@pytest.mark.parametrize("name", sorted(GROUND))
def test_ground_layer_imports_itself_alone(name):
    assert ours(MODULES[name]) <= GROUND


@pytest.mark.parametrize(
    "name", [n for n in MODULES if n.startswith(("ctjax.models", "ctjax.losses"))]
)
def test_models_and_losses_import_themselves_alone(name):
    family = ".".join(name.split(".")[:2])
    others = {n for n in ours(MODULES[name]) if not n.startswith(family)}
    assert others <= GROUND


@pytest.mark.parametrize("path", WITHOUT_JAX, ids=name_of)
def test_data_and_iotest_import_no_jax(path):
    packages = {name.split(".")[0] for name in imported(path)}
    assert not packages & {"jax", "jaxlib", "flax", "optax", "orbax"}


def test_iotest_runs_without_jax():
    code = "import sys, ctjax.iotest; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
