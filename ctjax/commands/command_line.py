"""Reads command lines, and ends commands in one line after errors of the user."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ctjax.base import home
from ctjax.base.errors import ConfigError, UserError
from ctjax.commands import configuration_files, original_words, typed_values, words
from ctjax.config import fields, resolve
from ctjax.config.fields import Config, ModeName
from ctjax.outputs import saved_config
from ctjax.processes import stop_requests

MENDABLE = (UserError, OSError)
"""Errors whose message tells the user all; others are defects, with a traceback."""

INTERRUPTED = "interrupted; nothing unfinished was kept"


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

    def parse_known_args(self, args=None, namespace=None) -> Any:
        """Parses words in which `~` is the home folder, after `=` as well."""
        words = sys.argv[1:] if args is None else args
        try:
            words = [_with_home(word) for word in words]
        except UserError as error:
            self.error(str(error))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the process with the message in one line and status 1."""
        raise SystemExit(f"ctjax: error: {one_line(message)}")


def _with_home(word: str) -> str:
    """Puts the home folder for `~` in a path or in `--option=PATH`."""
    option, equals, value = word.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={home.expand(value)}"
    return home.expand(word)


def parse_config(
    arguments: Sequence[str], mode: ModeName | None = None, default: str = "default"
) -> tuple[Config, list[str]]:
    """Reads `--config NAME`, `network=NAME` and `FIELD=VALUE`, in any order.

    Args:
      arguments: of the command line, without the program's name.
      mode: that the command stands for; None for the one of the configuration.
      default: name of the configuration where none is given.

    Returns:
      The configuration, and a line for the log about each word that has no effect and
      each field that an inference has from its weights.

    Raises:
      ConfigError: no such file or field, a value that cannot be used, words that
        contradict each other, or a word that says nothing.
    """
    typed = words.sort(arguments)
    values = typed.values()
    if mode is not None and values.setdefault("mode.name", mode.value) != mode.value:
        raise ConfigError(
            f"mode.name={values['mode.name']}: expected none, the command stands for "
            f"{mode.value}"
        )
    name = default if typed.configuration is None else typed.configuration
    config = configuration_files.load(name).to_dict()
    if typed.network is not None:
        config["network"] = _load_network(typed.network)
    if "network.architecture" in values.keys() - typed.fields.keys():
        _, word = typed.chosen["network.architecture"]
        values["network.architecture"] = _of_group(
            word, values["network.architecture"], config["network"]
        )
    resolved = change(config, values)
    if resolved.mode.name is ModeName.INFERENCE:
        resolved, lines = saved_config.take_unsaid(resolved, values.keys())
        return resolved, [*typed.notes, *lines]
    return resolved, typed.notes


def change(config: dict[str, Any], values: Mapping[str, Any]) -> Config:
    """Changes fields of a configuration and resolves it.

    Args:
      config: nested sections with every field, which are changed.
      values: by dotted name, of fields that exist.

    Raises:
      ConfigError: a value that cannot be used, or values that contradict each other.
    """
    if "network.architecture" in values:
        architecture = values["network.architecture"]
        config["network"] = _choose_network(config["network"], architecture)
    if "network.name" in values:
        _check_label(values["network.name"], config["network"])
    for name, value in values.items():
        *sections, field = name.split(".")
        section = config
        for inner in sections:
            # A group of another network is made, for `resolve` to refuse it by name.
            section = section.setdefault(inner, {})
        section[field] = value
    return resolve.resolve(config)


def _load_network(name: str) -> dict[str, Any]:
    """Loads the network of a configuration, as the original's group `network`."""
    return configuration_files.load(name, "network").to_dict()["network"]


def _of_group(word: str, architecture: str, network: Mapping[str, Any]) -> str:
    """Returns the architecture that a group of the original asks for.

    Args:
      word: that asks for it.
      architecture: that the word stands for.
      network: fields of the configuration's own.

    Raises:
      ConfigError: the original has no such network in that framework.
    """
    own, flat = network["architecture"], original_words.CONV_MODES["2D"]
    if architecture == flat and own in original_words.OTHER_FLAT_NETWORKS:
        return own
    is_framework = architecture in original_words.FRAMEWORKS.values()
    if is_framework and own not in (flat, architecture):
        raise ConfigError(
            f"{word}: expected a configuration with network.architecture={flat}, which "
            f"is the one that CosmicTagger has there, too; got {own}"
        )
    return architecture


def _choose_network(network: dict[str, Any], architecture: Any) -> dict[str, Any]:
    """Returns the fields of the network that a command line asks for.

    Args:
      network: fields of the configuration's own. What it has changed from its defaults
        is kept, for `resolve` to refuse where the other network does not read it.
      architecture: that is asked for.

    Raises:
      ConfigError: no such architecture.
    """
    chosen = {**network, "architecture": architecture}
    own, section = map(resolve.network_section, (network, chosen))
    if section is own:
        return network
    defaults = fields.to_dict(own())
    changed = {
        name: value
        for name, value in chosen.items()
        if name == "architecture" or value != defaults[name]
    }
    return fields.to_dict(section()) | changed


def _check_label(label: Any, network: Mapping[str, Any]) -> None:
    """Refuses a network's name that is the original's for another network.

    Args:
      label: the name to be given to the network.
      network: its fields before others than the architecture are changed.
    """
    name = str(label).lower().replace("scc_21", "scc21")
    if name == str(network["name"]).lower():
        return
    if name in original_words.ABSENT_NETWORKS:
        raise ConfigError(
            f"network.name={label}: a label for the output, expected another one than "
            f"of {original_words.ABSENT_NETWORKS[name]}"
        )
    if name in original_words.LABELS and any(
        network.get(field) != value
        for field, value in _load_network(name).items()
        if not typed_values.FIELDS[f"network.{field}"][1].keeps_parameters
    ):
        raise ConfigError(
            f"network.name={label}: a label for the output, which changes no network; "
            f"expected network={name}"
        )


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
    try:
        with stop_requests.interrupting():
            command()
    except MENDABLE as error:
        sys.stderr.write(f"ctjax: error: {one_line(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"ctjax: error: {INTERRUPTED}\n")
        return 1
    return 0
