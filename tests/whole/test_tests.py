"""What holds for the tests themselves."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

from tests.support import ROOT, allowed_skips

MODULES = sorted((ROOT / "tests").rglob("*.py"))


def imported(path):
    """Every module that a file imports, and every name it imports from one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_imported_from_a_test_module(path):
    tests = {path.stem for path in MODULES if path.name.startswith("test_")}
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "tests":
            assert "conftest" not in parts, f"{path.name} imports {name}"
            # test_tests.py is no module of `tests`; its files are.
            assert not tests & set(parts[1:]), f"{path.name} imports {name}"


def test_every_marker_is_used():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = settings["tool"]["pytest"]["ini_options"]["markers"]
    marks = {
        node.attr
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pytest.mark"
    }
    assert declared
    assert {line.partition(":")[0] for line in declared} <= marks


def test_skips_that_are_allowed_are_those_of_tests_that_exist():
    entries = allowed_skips.read(ROOT / ".ci" / "allowed_skips.txt")
    assert entries
    for entry in entries:
        file, _, name = entry.tests.partition("::")
        paths = sorted(ROOT.glob(file))
        assert paths, f"{entry.tests}: no such file"
        name = name.partition("[")[0].rstrip("*")
        assert any(name in path.read_text() for path in paths), entry.tests


FILES = {
    "test_good.py": "def test_good(): pass",
    "test_module.py": "import pytest\npytest.importorskip('nothing', reason='absent')",
    "test_two.py": """
import pytest

@pytest.mark.skip(reason="no such device")
def test_skipped(): pass

@pytest.mark.xfail(reason="not yet")
def test_failing(): assert False
""",
}
ALLOWED = """# Not all of what the files skip:
*test_module.py | absent | not everywhere
*::test_skipped | device | no GPU
"""


@pytest.mark.parametrize(
    "allowed, status, refused, unused",
    [
        ("", 1, ["test_module.py", "test_skipped", "test_failing"], []),
        (
            f"{ALLOWED}*::test_failing | now | x",
            1,
            ["test_failing"],
            ["*::test_failing"],
        ),
        (f"{ALLOWED}*_failing | yet | x\n*z | y | x", 0, [], ["*z"]),
    ],
)
def test_other_skips_fail(tmp_path, allowed, status, refused, unused):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "list.txt").write_text(allowed)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", "1", "-c", "/dev/null"),
            *("-p", "tests.support.allowed_skips"),
            *("-p", "no:hypothesispytest", "-p", "no:cacheprovider"),
            f"--allowed-skips={tmp_path / 'list.txt'}",
            tmp_path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == status, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    _, heading, told = result.stdout.partition("skips that are not on the list")
    assert bool(heading) == bool(refused)
    assert re.findall(r"(test_\w+(?:\.py)?): ", told) == refused
    assert re.findall(r"nothing skipped here: (.*)", result.stdout) == unused


def test_lines_of_the_list_have_three_parts(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# TESTS | REASON | WHY\n\n*::test_x | no GPU\n")
    with pytest.raises(ValueError, match=r"list\.txt:3: expected TESTS"):
        allowed_skips.read(path)
