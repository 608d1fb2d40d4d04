"""`ctjax COMMAND …`: help, version, and words that are no command."""

import subprocess
import sys

import jax
import pytest

import ctjax
from ctjax import __main__ as command
from ctjax import main
from ctjax.runs import train
from tests.support import tiny

COMMANDS = [*command.RUNS, *command.COMMANDS]

HELP = """
import sys
from ctjax import __main__
try:
    status = __main__.main([sys.argv[1], "--help"])
except SystemExit as end:
    status = end.code
assert not {"jax", "matplotlib", "torch"} & set(sys.modules), "imported for a help"
sys.exit(status)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_needs_no_jax(name):
    result = subprocess.run(
        [sys.executable, "-c", HELP, name], capture_output=True, text=True, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: ctjax {name} ")
    assert f"example:\n  ctjax {name} " in result.stdout


def test_help_lists_every_command_with_an_example(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in shown
    assert "example:\n  ctjax train " in shown


def test_without_a_command_the_help_goes_to_stderr_with_status_1(capsys):
    assert command.main([]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == command.help_text()


@pytest.mark.parametrize(
    "words", [["--version"], *([n, "--version"] for n in COMMANDS)]
)
def test_version(words, capsys):
    assert command.main(words) == 0
    assert capsys.readouterr().out.startswith(f"ctjax {ctjax.__version__}")
    assert main.main(["--config", "scc21", "--version"]) == 0
    assert capsys.readouterr().out.startswith(f"ctjax {ctjax.__version__}")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("trian", "did you mean train?"), ("zzzz", "see ctjax --help"), ("--no", "see")],
)
def test_what_is_no_command(word, hint, capsys):
    assert command.main([word]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"ctjax: error: {word}: no such command; {hint}")
    assert line.count("\n") == 1


def test_a_command_ends_with_the_status_of_its_run(capsys):
    assert command.main(["iotest", "--config.run.iterations=0"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ctjax: error: run.iterations: expected at least 1, got 0")
    assert line.count("\n") == 1


@pytest.mark.parametrize("kind", [ValueError, jax.errors.JaxRuntimeError])
def test_lack_of_memory_is_one_line(tmp_path, monkeypatch, capsys, kind):
    def run(config, processes):
        raise kind("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")

    monkeypatch.setattr(train, "run", run)
    assert main.main(tiny.flags(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ctjax: error: the device's memory is too small: expected")
