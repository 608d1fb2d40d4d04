"""Sorts the words of a command line into a configuration, groups and fields.

Fields are typed as CosmicTagger's are, `run.id=a`, or as ctjax's first versions had
them, `--config.run.id=a`. Whatever is neither ends in an error with the right form.
"""

import collections
import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from ctjax.base.errors import ConfigError
from ctjax.commands import original_words, typed_values
from ctjax.config import resolve
from ctjax.config.fields import ModeName

EXPECTED = "expected --config NAME or FIELD=VALUE"

CONFIGURATION = re.compile(r"(--?config|--?config-name|-cn)(?:=(.*))?", re.S)
FLAG = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.S)
SETTING = re.compile(r"([^\W\d][\w./@-]*)=(.*)", re.S)

SECTIONS = {name.rpartition(".")[0] for name in typed_values.FIELDS} - {""}
GROUPS = ("mode", "network", "data", "framework")
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "mode": ("mode.name", {mode.value: mode.value for mode in ModeName}),
    "data": ("data.synthetic", {"real": False, "synthetic": True}),
    "network.conv_mode": ("network.architecture", original_words.CONV_MODES),
    "framework.name": ("network.architecture", original_words.FRAMEWORKS),
}
"""What field each group of the original stands for, and its value of each choice."""


@dataclasses.dataclass
class Words:
    """What a command line says.

    Attributes:
      configuration: its name or path; None where none is typed.
      network: name of the configuration whose network is asked for, or None.
      fields: dotted name to value.
      chosen: dotted name to value and word of what groups such as `mode=iotest` set.
      notes: a line for the log about each word that has no effect.
    """

    configuration: str | None = None
    network: str | None = None
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    chosen: dict[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """Returns dotted name to value of all that is typed.

        Raises:
          ConfigError: a group and a field contradict each other.
        """
        values = dict(self.fields)
        for name, (value, word) in self.chosen.items():
            if values.setdefault(name, value) != value:
                raise ConfigError(
                    f"{word} and {name}={values[name]} contradict each other: expected "
                    "one of them"
                )
        return values


def sort(arguments: Sequence[str]) -> Words:
    """Sorts the words of a command line.

    Args:
      arguments: without the program's name.

    Raises:
      ConfigError: a word that says nothing, or something that ctjax does not have.
    """
    words, left = Words(), collections.deque(arguments)
    while left:
        word = left.popleft()
        if match := CONFIGURATION.fullmatch(word):
            option, name = match.groups()
            if name is None:
                name = left.popleft() if left else ""
            _set_configuration(words, option, name)
        elif match := FLAG.fullmatch(word):
            _take_flag(words, word, match, left)
        elif word.startswith(("+", "~")):
            _refuse_prefix(word)
        elif match := SETTING.fullmatch(word):
            _set(words, match[1], match[2])
        elif word.startswith("-"):
            _refuse_option(word)
        else:
            _refuse_word(word, left)
    return words


def _set_configuration(words: Words, option: str, name: str) -> None:
    if words.configuration not in (None, name):
        raise ConfigError(
            f"{option} {name}: expected one configuration, got {words.configuration} "
            "before"
        )
    words.configuration = name


def _take_flag(
    words: Words, word: str, match: re.Match[str], left: collections.deque[str]
) -> None:
    """Takes `--config.FIELD=VALUE`, its value in the next word, or a switch."""
    negation, name, text = match.groups()
    if not name:
        raise ConfigError(f"{word}: {EXPECTED}")
    is_switch = name in typed_values.FIELDS and typed_values.is_switch(name)
    if negation:
        if text is not None or not is_switch:
            raise ConfigError(f"{word}: expected --config.{name}=VALUE")
        text = "False"
    elif text is None and is_switch:
        is_value = bool(left) and left[0].lower() in typed_values.SWITCHES
        text = left.popleft() if is_value else "True"
    elif text is None:
        if not left or SETTING.fullmatch(left[0]) or re.match(r"-\D", left[0]):
            raise ConfigError(f"{word}: expected --config.{name}=VALUE, got no value")
        text = left.popleft()
    _set(words, name, text)


def _set(words: Words, name: str, text: str) -> None:
    """Takes `FIELD=VALUE` and `GROUP=CHOICE`."""
    word = f"{name}={text}"
    name = "framework.name" if name == "framework" else name
    name = original_words.SAME_FIELDS.get(name, name)
    if name in typed_values.FIELDS:
        value = typed_values.read(name, text)
        before = words.fields.get(name, value)
        if before != value:
            words.notes.append(
                f"{name}={before} has no effect: {name}={value} is typed behind it"
            )
        words.fields[name] = value
    elif name == "network" or (name in CHOICES and not _is_nothing(name, text)):
        _choose(words, word, name, text)
    else:
        _set_nothing(words, word, name, text)


def _is_nothing(name: str, text: str) -> bool:
    """Says whether a group's value is not one of its choices but what ctjax does."""
    is_choice = text.strip("'\"") in CHOICES[name][1]
    return not is_choice and name in original_words.ABSENT_FIELDS


def _choose(words: Words, word: str, group: str, text: str) -> None:
    """Takes the choice of a group, which says several fields at once."""
    text = text.strip("'\"")
    if group == "network":
        if words.network not in (None, text):
            raise ConfigError(
                f"{word}: expected one network, got network={words.network} before"
            )
        words.network = text
        return
    name, choices = CHOICES[group]
    if text not in choices:
        raise ConfigError(f"{word}: expected one of {', '.join(choices)}")
    before, value = words.chosen.get(name), choices[text]
    if before is None or _is_said_by(before[0], value):
        words.chosen[name] = (value, word)
    elif before[0] != value and not _is_said_by(value, before[0]):
        raise ConfigError(f"{before[1]} and {word}: expected one of them")


def _is_said_by(value: Any, other: Any) -> bool:
    """Says whether one choice is part of the other: 2D convolutions of networks."""
    is_flat = value == original_words.CONV_MODES["2D"]
    return is_flat and other in original_words.OTHER_FLAT_NETWORKS


def _set_nothing(words: Words, word: str, name: str, text: str) -> None:
    """Notes what ctjax does anyhow, and refuses all else that is no field."""
    if name.startswith(("hydra.", "hydra/")):
        raise ConfigError(f"{word}: ctjax has no hydra; expected output_dir=FOLDER")
    if name in ("config", "config-name", "config_name"):
        raise ConfigError(f"{word}: expected --config {text}")
    if name in original_words.OTHER_NAMES:
        right = original_words.OTHER_NAMES[name]
        raise ConfigError(f"{word}: expected {right}={text or 'VALUE'}, its name here")
    for group, reason in original_words.ABSENT_GROUPS.items():
        if name == group or name.startswith(f"{group}."):
            raise ConfigError(f"{word}: {reason}")
    absent = original_words.ABSENT_FIELDS.get(name)
    if absent is None:
        if name in SECTIONS:
            raise ConfigError(
                f"{name}: no such field but a group of them; expected "
                f"{name}.FIELD=VALUE"
            )
        near = difflib.get_close_matches(name, SECTIONS, n=1)
        if near and "." not in name:
            raise ConfigError(f"{name}: no such field; did you mean {near[0]}?")
        return resolve.check_name(name)
    harmless = [value.lower() for value in absent.harmless]
    if text.strip("'\"").lower() not in harmless:
        right = f"; expected {' or '.join(absent.harmless)}" if absent.harmless else ""
        raise ConfigError(f"{word}: {absent.reason}{right}")
    words.notes.append(f"{word} has no effect: {absent.reason}")


def _refuse_prefix(word: str) -> None:
    """Refuses hydra's ways to add fields and to delete them."""
    rest = word.lstrip("+~")
    name, _, text = rest.partition("=")
    if word.startswith("~"):
        raise ConfigError(
            f"{word}: no field can be taken away; expected {name}=VALUE, or "
            f"{name}=null where it need not be set"
        )
    _set(Words(), name, text)  # for its error, where it is no field or value
    raise ConfigError(f"{word}: every field is there already; expected {rest}")


def _refuse_option(word: str) -> None:
    """Refuses an option, with what is near it."""
    option, equals, _ = word.partition("=")
    if option in original_words.HYDRA_OPTIONS:
        raise ConfigError(
            f"{word}: an option of hydra; {original_words.HYDRA_OPTIONS[option]}"
        )
    rest = word.lstrip("-")
    name = rest.partition("=")[0]
    name = name.partition(".")[2] if name.startswith("configs.") else name
    if difflib.get_close_matches(option, ["--config", "--config-name"], cutoff=0.8):
        raise ConfigError(f"{word}: {EXPECTED}")
    near = resolve.nearest_name(name, typed_values.FIELDS)
    near = name if name in GROUPS else near
    hint = f"; did you mean {near}={'…' if not equals else word.partition('=')[2]}?"
    raise ConfigError(f"{word}: {EXPECTED}{hint if near else ''}")


def _refuse_word(word: str, left: collections.deque[str]) -> None:
    """Refuses a word that is neither an option nor sets anything."""
    is_apart = bool(left) and left[0].startswith("=")
    if word in typed_values.FIELDS or is_apart:
        values = (w.lstrip("=") for w in left if w != "=")
        value = next(values, "VALUE")
        if SETTING.fullmatch(value) or value.startswith("-"):
            value = "VALUE"
        hint = f"; expected {word}={value}, without blanks"
    elif word in [mode.value for mode in ModeName]:
        hint = f"; did you mean mode={word}?"
    elif word.endswith((".h5", ".hdf5")):
        hint = f"; did you mean data.file={word}?"
    elif word.endswith("exec.py"):
        hint = "; ctjax is a program by itself"
    elif word.endswith((".py", ".yaml")) or word in original_words.LABELS:
        hint = f"; did you mean --config {word}?"
    elif ":" in word and word.partition(":")[0] in typed_values.FIELDS:
        hint = f"; did you mean {word.replace(':', '=', 1)}?"
    else:
        hint = ""
    raise ConfigError(f"{word or repr(word)}: {EXPECTED}{hint}")
