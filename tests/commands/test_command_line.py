"""What command lines say to a run, and the one line for each mistake in them."""

import os
import sys

import pytest

from ctjax.base.errors import ConfigError
from ctjax.commands import command_line, configuration_files
from ctjax.config.fields import ModeName


def parse(*words, **more):
    return command_line.parse_config(words, **more)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder without configurations."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "scc21"],
        ["--config=scc21"],
        ["-config", "scc21.py"],
        ["--config", "scc21", "--config=scc21"],
        ["--config", os.path.abspath(configuration_files.find("scc21"))],
    ],
)
def test_a_configuration_by_name_or_path(folder, words):
    assert parse(*words).network.name == "scc21"
    both = parse("--config.run.id=first", *words, "--config.run.seed=7")
    assert (both.run.id, both.network.name, both.run.seed) == ("first", "scc21", 7)


def test_configurations_here_go_before_those_of_ctjax(folder):
    assert parse("--config", "scc21").run.id == "test"
    (folder / "configs").mkdir()
    (folder / "configs/scc21.py").write_text(
        "def get_config(): return {'run': {'id': 'here'}}"
    )
    assert parse("--config", "scc21").run.id == "here"


def test_those_of_an_installed_package_are_found(folder, tmp_path, monkeypatch):
    installed = tmp_path / "ctjax/configs"
    installed.mkdir(parents=True)
    (installed / "mine.py").write_text(
        "def get_config(): return {'run': {'id': 'installed'}}"
    )
    monkeypatch.setattr(configuration_files, "FOLDERS", (installed,))
    assert parse("--config", "mine").run.id == "installed"


def test_the_argument_of_a_configuration(folder):
    (folder / "mine.py").write_text(
        "def get_config(name): return {'run': {'id': name}}"
    )
    assert parse("--config", "mine.py:a:b").run.id == "a:b"
    with pytest.raises(ConfigError, match=r"^mine\.py: TypeError: get_config"):
        parse("--config", "mine.py")


def test_the_mode_of_a_command():
    assert parse(mode=ModeName.IOTEST).mode.name is ModeName.IOTEST
    with pytest.raises(
        ConfigError, match=r"mode\.name=iotest: .* the command stands for train"
    ):
        parse("--config.mode.name=iotest", mode=ModeName.TRAIN)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--config.run.iterations=5"], 5),
        (["--config.run.iterations", "5"], 5),
        (["--config.run.iterations=5", "--config.run.iterations=None"], 500),
        (["--config.run.iterations=None", "--config.run.iterations=5"], 5),
        (["--config", "quickstart"], 900),
        (["--config", "quickstart", "--config.run.iterations=None"], 500),
    ],
)
def test_a_field_is_set_and_unset(words, value):
    assert parse(*words).run.iterations == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extra"], "extra: expected --config NAME or FIELD=VALUE"),
        (["--unknown=3"], "--unknown=3: expected --config NAME"),
        (["--flagfile=x"], "--flagfile=x: expected --config NAME"),
        (["--config."], "--config.: expected --config NAME"),
        (["--config"], "--config: expected a configuration file"),
        (["--config="], "--config: expected a configuration file"),
        (["--config", "nosuch"], "nosuch: no such file; expected a file or one of a21"),
        (["--config", "."], "--config: .: found a folder"),
        (["--config.run.id=None"], "run.id: expected str, got None"),
        (["--config.run.seed=x"], "run.seed: expected int, got 'x'"),
        (["--noconfig.data.synthetic=3"], "expected --config.data.synthetic=VALUE"),
        (["--config.run.foo=3"], "run.foo: no such field"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(ConfigError) as caught:
        parse(*words)
    assert message in command_line.one_line(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "mine.py, line 1: invalid syntax"),
        ("x = 1", "mine.py: expected a function get_config, found none"),
        ("def get_config():\n    return 3", "mine.py: get_config() returned 3"),
        ("\n1 / 0", "mine.py, line 2: ZeroDivisionError: division by zero"),
        ("def get_config():\n    return {'runn': 3}", "mine.py: runn: no such field"),
        ("def get_config():\n    return {'run': 3}", "mine.py: run: expected a group"),
        ("\x00", "mine.py"),
    ],
)
def test_mistakes_in_a_file(folder, text, message):
    (folder / "mine.py").write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse("--config", "mine.py")
    assert message in command_line.one_line(caught.value)


def test_errors_of_the_user_are_one_line_and_defects_are_raised(capsys):
    def refuse():
        raise ConfigError("run.id:\n  expected one line")

    def fail():
        raise TypeError("a defect")

    assert command_line.end_in_one_line(lambda: None) == 0
    assert command_line.end_in_one_line(refuse) == 1
    assert capsys.readouterr().err == "ctjax: error: run.id: expected one line\n"
    with pytest.raises(TypeError, match="a defect"):
        command_line.end_in_one_line(fail)
    assert sys.exc_info() == (None, None, None)
