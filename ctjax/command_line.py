"""What the commands share: a configuration from arguments, and errors of one line."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from ctjax import config as ctjax_config
from ctjax.config import Config, ConfigError

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration file, see configs/.", lock_config=True
)

FIELD_ARGUMENT = re.compile(r"--?(?:no)?config\.([^=]+)")


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are one line and status 1."""

    def __init__(self, module: str, description: str):
        """Takes the module that is run and what it does."""
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        raise SystemExit(f"ctjax: error: {one_line(message)}")


def parse_config(arguments: Sequence[str]) -> Config:
    """Reads `--config FILE` and `--config.FIELD=VALUE`.

    Args:
      arguments: of the process, its name first.

    Returns:
      The configuration.

    Raises:
      ConfigError: no such file or field, or a value that cannot be used.
      absl.flags.Error: an argument that is neither.
    """
    return ctjax_config.resolve(_parse(list(arguments)).to_dict())


def _parse(arguments: list[str]) -> ml_collections.ConfigDict:
    """The configuration file as changed by the command line."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name = following if word == "--config" else word.partition("--config=")[2]
        if name and not os.path.exists(name):
            raise ConfigError(f"--config: no such file: {name}")
    for word in arguments:
        field = FIELD_ARGUMENT.match(word)
        if field:
            ctjax_config.check_name(field[1])
    flags.FLAGS(arguments)
    if _CONFIG.value is None:
        raise ConfigError("--config: expected a configuration file, see configs/")
    return _CONFIG.value


def is_for_the_user(error: Exception) -> bool:
    """Whether the message of an error says all; others keep their traceback."""
    module = type(error).__module__
    return isinstance(error, flags.Error | OSError) or module.startswith("ctjax.")


def one_line(error: Exception | str) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def ending_in_one_line(command: Callable[[], None]) -> int:
    """Runs a command.

    Args:
      command: to be called; errors that the user can mend become one line on stderr.

    Returns:
      Exit status.
    """
    try:
        command()
    except (flags.Error, ValueError, OSError, ImportError) as error:
        if not is_for_the_user(error):
            raise
        sys.stderr.write(f"ctjax: error: {one_line(error)}\n")
        return 1
    return 0
