"""Reads command lines, and ends commands whose error the user can mend in one line."""

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from ctjax.base.errors import ConfigError, UserError
from ctjax.config import describe, resolve
from ctjax.config.fields import Config, ModeName
from ctjax.processes import stop_requests

FIELD_ARGUMENT = re.compile(r"--?(?:no)?config\.([^=]+)")

PACKAGE = pathlib.Path(__file__).resolve().parent.parent

CONFIGURATION_FOLDERS = (
    pathlib.Path("configs"),
    PACKAGE / "configs",  # of an installed package
    PACKAGE.parent / "configs",  # of a source tree
)
"""Where a configuration is looked for that is named without its path."""


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are one line and status 1."""

    def __init__(self, command: str, description: str, example: str):
        """Takes the command's name, what it does and an example of its words."""
        super().__init__(
            prog=f"ctjax {command}",
            description=description,
            epilog=f"example:\n  ctjax {command} {example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        raise SystemExit(f"ctjax: error: {one_line(message)}")


def parse_config(
    arguments: Sequence[str], mode: ModeName | None = None, default: str = "default"
) -> Config:
    """Reads `--config NAME` and `--config.FIELD=VALUE`.

    Args:
      arguments: of the command line, without the program's name.
      mode: that the command stands for; None for the one of the configuration.
      default: name of the configuration where none is given.

    Returns:
      The configuration.

    Raises:
      ConfigError: no such file or field, or a value that cannot be used.
      absl.flags.Error: an argument that is neither.
    """
    return resolve.resolve(_parse(list(arguments), mode, default).to_dict())


def _parse(
    arguments: list[str], mode: ModeName | None, default: str
) -> ml_collections.ConfigDict:
    """Returns the configuration file as changed by the command line."""
    words, is_named = [], False
    following = iter(arguments)
    for word in following:
        if word in ("--config", "-config"):
            word = f"--config={next(following, '')}"
        if word.startswith(("--config=", "-config=")):
            is_named = True
            word = f"--config={find_configuration(word.partition('=')[2])}"
        field = FIELD_ARGUMENT.match(word)
        if field:
            describe.check_name(field[1])
            if mode is not None and field[1] == "mode.name":
                raise ConfigError(
                    f"mode.name: expected none, the command {mode.value} says it"
                )
        words.append(word)
    if not is_named:
        words.insert(0, f"--config={find_configuration(default)}")
    if mode is not None:
        words.append(f"--config.mode.name={mode.value}")
    words = ["ctjax", *words]
    # Flags of our own: the program that imports ctjax may have a --config itself.
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", lock_config=True, sys_argv=words, flag_values=values
    )
    left = values(words)
    if left[1:]:
        raise ConfigError(f"{left[1]}: expected --config or --config.FIELD=VALUE")
    return holder.value


def find_configuration(name: str) -> str:
    """Finds a configuration file.

    Args:
      name: its path, or the name of one in `configs/` here or of ctjax.

    Returns:
      Its path.

    Raises:
      ConfigError: there is none.
    """
    if not name:
        raise ConfigError("--config: expected a configuration file, see configs/")
    if os.path.exists(name):
        return name
    if not os.path.dirname(name):
        file_name = f"{name.removesuffix('.py')}.py"
        for folder in CONFIGURATION_FOLDERS:
            if (folder / file_name).is_file():
                return str(folder / file_name)
    known = sorted(
        {path.stem for folder in CONFIGURATION_FOLDERS for path in folder.glob("*.py")}
    )
    raise ConfigError(
        f"--config: no such file: {name}; expected a path or one of {', '.join(known)}"
    )


def one_line(error: Exception | str) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def is_for_the_user(error: Exception) -> bool:
    """Says whether the message of an error says all; others keep their traceback."""
    return isinstance(error, UserError | OSError | flags.Error)


def end_in_one_line(command: Callable[[], None]) -> int:
    """Runs a command; errors that the user can mend become one line on stderr.

    Args:
      command: to be called.

    Returns:
      Exit status: 0, 1 after an error.
    """
    stop_requests.take_sigterm_as_interrupt()
    try:
        command()
    except (UserError, OSError, flags.Error) as error:
        sys.stderr.write(f"ctjax: error: {one_line(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("ctjax: error: interrupted; nothing unfinished was kept\n")
        return 1
    return 0
