"""Finds and loads configuration files."""

import importlib.util
import os
import pathlib
import traceback
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from typing import Any

import ml_collections

from ctjax.base import home
from ctjax.base.errors import ConfigError
from ctjax.commands import original_words
from ctjax.config import fields, resolve
from ctjax.config.fields import Config

PACKAGE = pathlib.Path(__file__).resolve().parent.parent

FOLDERS = (
    pathlib.Path("configs"),
    PACKAGE / "configs",  # of an installed package
    PACKAGE.parent / "configs",  # of a source tree
)
"""Where a configuration is looked for that is named without its path."""


def load(name: str, option: str = "--config") -> ml_collections.ConfigDict:
    """Loads what a configuration file says, with defaults for what it leaves out.

    Args:
      name: path of the file, or name of one in `configs/` here or of ctjax; what
        follows a colon is the argument of its `get_config`.
      option: that has named it, for messages.

    Returns:
      Every option.

    Raises:
      ConfigError: there is no such file, or it does not give a configuration; the
        message names the file and, for an error inside it, the line.
    """
    file_name, colon, argument = name.partition(":")
    path = find(file_name, option)
    try:
        values = _call_get_config(path, [argument] if colon else [])
        network = resolve.build(Config, values).network  # or messages naming fields
        config = fields.default_config(type(network)())
        config.update(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except SyntaxError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # of any kind: the file is the user's
        lines = [
            f", line {frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        where = f"{path}{lines[-1] if lines else ''}"
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    return config


def _call_get_config(path: str, arguments: list[str]) -> Mapping[str, Any]:
    """Runs a configuration file and returns what its `get_config` returns."""
    loader = SourceFileLoader("ctjax_configuration", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError("expected a function get_config, found none")
    values = module.get_config(*arguments)
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()  # whose references to None cannot be copied
    if not isinstance(values, Mapping):
        raise ConfigError(f"get_config() returned {values!r}, expected a ConfigDict")
    return values


def find(name: str, option: str = "--config") -> str:
    """Finds a configuration file.

    Args:
      name: its path, or the name of one in `configs/` here or of ctjax, which may be
        CosmicTagger's name and end in `.yaml`.
      option: that has named it, for messages.

    Returns:
      Its path.

    Raises:
      ConfigError: there is none, or ctjax does not have what CosmicTagger calls so.
    """
    if not name:
        raise ConfigError(f"{option}: expected a configuration file, see configs/")
    name = home.expand(name)
    stem, suffix = os.path.splitext(name)
    if os.path.isfile(name) and suffix not in (".yaml", ".yml"):
        return name
    if not os.path.dirname(name):
        stem = stem if suffix in (".py", ".yaml", ".yml") else name
        file_name = f"{original_words.CONFIGURATIONS.get(stem, stem)}.py"
        for folder in FOLDERS:
            if (folder / file_name).is_file():
                return str(folder / file_name)
        if stem.lower() in original_words.ABSENT_CONFIGURATIONS:
            reason = original_words.ABSENT_CONFIGURATIONS[stem.lower()]
            raise ConfigError(f"{option}: {name}: {reason}")
    known = sorted({path.stem for folder in FOLDERS for path in folder.glob("*.py")})
    if os.path.isdir(name):
        found = "found a folder"
    elif os.path.isfile(name):
        found = "found a file of hydra's, not of Python"
    else:
        found = "no such file"
    raise ConfigError(
        f"{option}: {name}: {found}; expected a file or one of {', '.join(known)}"
    )
