"""Paths and names that a configuration may have."""

import os

import pytest

from ctjax.base.errors import ConfigError, UserError
from ctjax.commands import command_line
from ctjax.config import resolve
from ctjax.config.file_names import file_patterns

PATHS = {
    "output_dir": "~/out",
    "data": {"data_directory": "~/data", "file": "a.h5, ~/b.h5", "aux_file": "~"},
    "mode": {"weights_location": "~/weights"},
}


def test_the_home_folder_stands_for_its_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = resolve.resolve(PATHS)
    assert config.output_dir == "/home/me/out"
    assert config.mode.weights_location == "/home/me/weights"
    assert config.data.aux_file == "/home/me"
    paths = file_patterns(config.data, config.data.file)
    assert paths == ["/home/me/data/a.h5", "/home/me/b.h5"]


def test_without_a_home_folder_the_path_is_named(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UserError, match=r"^~/out: found no home folder of user 54321"):
        resolve.resolve({**PATHS, "data": {}, "mode": {}})


@pytest.mark.parametrize("sign", ["\n", "\r", "\0", "\x1b", "\x7f", "\u2028"])
def test_names_of_several_lines_are_refused(sign):
    for section, name in (("run", "id"), ("network", "name"), ("data", "file")):
        with pytest.raises(ConfigError, match=rf"^{section}\.{name}: expected no line"):
            resolve.resolve({section: {name: f"a{sign}b"}})
    with pytest.raises(ConfigError, match=r"^output_dir: expected no line") as caught:
        resolve.resolve({"output_dir": f"a{sign}b"})
    assert sign not in str(caught.value)


def test_other_names_stay_as_they_are():
    name = "caf\u00e9 [1] ~x {b} \udce9"
    assert resolve.resolve({"run": {"id": name}}).run.id == name


def test_commands_know_the_home_folder_too(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    parser = command_line.Parser("repack", "", "")
    parser.add_argument("source")
    parser.add_argument("--output")
    options = parser.parse_args(["~/in.h5", "--output=~/out.h5"])
    assert (options.source, options.output) == ("/home/me/in.h5", "/home/me/out.h5")
    options = parser.parse_args(["a=~/b", "--output", "~/c"])
    assert (options.source, options.output) == ("a=~/b", "/home/me/c")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(
        SystemExit, match=r"^ctjax: error: ~/in.h5: found no home folder"
    ):
        parser.parse_args(["~/in.h5"])
