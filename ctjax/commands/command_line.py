"""Reads command lines, and ends commands in one line after errors of the user."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import flags
from ml_collections import config_flags

from ctjax.base.errors import ConfigError, UserError
from ctjax.commands import configuration_files
from ctjax.config import fields, networks, resolve
from ctjax.config.fields import Config, ModeName
from ctjax.processes import stop_requests

FIELD_ARGUMENT = re.compile(r"--?(?:no)?config\.(?P<name>[^=]+)(?:=(?P<value>.*))?")

EXPECTED = "expected --config NAME or --config.FIELD=VALUE"

MENDABLE = (UserError, OSError)
"""Errors whose message tells the user all; others are defects, with a traceback."""


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
        """Ends the process with the message in one line and status 1."""
        raise SystemExit(f"ctjax: error: {one_line(message)}")


def parse_config(
    arguments: Sequence[str], mode: ModeName | None = None, default: str = "default"
) -> Config:
    """Reads `--config NAME` and `--config.FIELD=VALUE`, in any order.

    Args:
      arguments: of the command line, without the program's name.
      mode: that the command stands for; None for the one of the configuration.
      default: name of the configuration where none is given.

    Returns:
      The configuration.

    Raises:
      ConfigError: no such file or field, a value that cannot be used, or an argument
        that is neither.
    """
    name, words = default, []
    following = iter(arguments)
    for word in following:
        if word in ("--config", "-config"):
            name = next(following, "")
        elif word.startswith(("--config=", "-config=")):
            name = word.partition("=")[2]
        else:
            words.append(word)
    for word in words:
        field = FIELD_ARGUMENT.match(word)
        if field is None:
            if word.startswith("-"):
                raise ConfigError(f"{word}: {EXPECTED}")
            continue
        resolve.check_name(field["name"])
        if mode is not None and field["name"] == "mode.name":
            raise ConfigError(
                f"mode.name: expected none, the command stands for {mode.value}"
            )
    if mode is not None:
        words.append(f"--config.mode.name={mode.value}")
    config = configuration_files.load(name)
    _choose_network(config, words)
    return resolve.resolve(_override(config, words))


def _choose_network(config: ml_collections.ConfigDict, words: Sequence[str]) -> None:
    """Gives a configuration the section of the network that the words ask for.

    What the configuration's own network has changed from its defaults is kept, and
    refused where the other does not read it.

    Raises:
      ConfigError: no such network, or a field of the configuration or of the words that
        it does not read.
    """
    values = config.to_dict()["network"]
    fields_named = [field for word in words if (field := FIELD_ARGUMENT.match(word))]
    chosen = dict(values)
    for field in fields_named:
        if field["name"] == "network.architecture":
            chosen["architecture"] = field["value"]
    own, section = map(resolve.network_section, (values, chosen))
    if section is not own:
        defaults = fields.to_dict(own())
        changed = {
            name: value for name, value in values.items() if value != defaults[name]
        }
        changed["architecture"] = chosen["architecture"]
        for name in changed:
            networks.check_reads(section, name)
        config.network = fields.to_dict(section()) | changed
    for field in fields_named:
        group, _, name = field["name"].rpartition(".")
        if group == "network":
            networks.check_reads(section, name)


def _override(
    config: ml_collections.ConfigDict, words: Sequence[str]
) -> dict[str, Any]:
    """Sets the fields of a configuration as `--config.FIELD=VALUE` says.

    None can be said of every field; `resolve` knows which ones may have it.
    """
    program = ["ctjax"]
    unset = set()
    for word in words:
        field = FIELD_ARGUMENT.match(word)
        if field:
            unset.discard(field["name"])
        if field and field["value"] == "None":
            unset.add(field["name"])
        else:
            program.append(word)
    # Flags of our own: the program that imports ctjax may have a --config itself.
    values = flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, lock_config=True, sys_argv=program, flag_values=values
        )
        left = values(program)[1:]
    except (flags.Error, ValueError) as error:
        raise ConfigError(str(error)) from error
    if left:
        raise ConfigError(f"{left[0]}: {EXPECTED}")
    config = holder.value
    config.update_from_flattened_dict(dict.fromkeys(unset))
    return config.to_dict()


def one_line(error: Exception | str) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


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
    except MENDABLE as error:
        sys.stderr.write(f"ctjax: error: {one_line(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("ctjax: error: interrupted; nothing unfinished was kept\n")
        return 1
    return 0
