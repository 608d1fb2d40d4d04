"""Modules import down the list in ctjax's docstring only, and data/ needs no jax."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import ctjax

PACKAGE = pathlib.Path(ctjax.__file__).parent
LAYERS = re.findall(r"^    (\w+)  ", ctjax.__doc__, re.M)
ALLOWED = {"simulation": ("ctjax.simulation", "ctjax.data.larcv", "ctjax.base")}
"""Folders that may import less than all below them."""


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(name):
    return LAYERS.index(name.split(".")[1])


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


def ours(name):
    return {n for n in imported(MODULES[name]) if n.startswith("ctjax.")}


def test_the_list_names_every_room_once():
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert sorted(LAYERS) == sorted(rooms)
    modules = {name for name in rooms if f"ctjax.{name}" in MODULES}
    alone = {n for n in modules if MODULES[f"ctjax.{n}"].name != "__init__.py"}
    assert alone == {"main", "__main__"}


@pytest.mark.parametrize("name", [n for n in MODULES if n != "ctjax"])
def test_imports_go_down(name):
    for other in ours(name):
        assert layer_of(other) >= layer_of(name), f"{name} imports {other}"
    allowed = ALLOWED.get(name.split(".")[1])
    if allowed:
        assert all(other.startswith(allowed) for other in ours(name)), ours(name)


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("ctjax.data")])
def test_data_imports_no_jax(name):
    packages = {other.split(".")[0] for other in imported(MODULES[name])}
    assert not packages & {"jax", "jaxlib", "flax", "optax", "orbax"}


@pytest.mark.parametrize("name", ["ctjax", "ctjax.__main__", "ctjax.runs.iotest"])
def test_runs_without_jax(name):
    code = f"import sys, {name}; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_importing_registers_no_flags():
    """A program with flags of its own may import every module."""
    names = ", ".join(n for n in MODULES if not n.endswith("__main__"))
    code = (
        "from absl import flags; before = set(flags.FLAGS); flags.DEFINE_string("
        f"'config', '', ''); import {names}; new = set(flags.FLAGS) - before; "
        "owners = {n: flags.FLAGS.find_module_defining_flag(n) for n in new}; "
        "del owners['config']; assert all(owner.startswith(('absl.', 'orbax.')) for "
        "owner in owners.values()), owners"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
