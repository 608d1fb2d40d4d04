"""Reads the values of fields as they are typed, by hydra's rules."""

import re
from typing import Any

from ctjax.base.errors import ConfigError
from ctjax.config import dotted, fields, resolve
from ctjax.config.fields import Config

FIELDS = resolve.field_types(Config)
"""Type and declaration of every field, by its dotted name."""

MAY_BE_EMPTY = {
    name
    for name, default in dotted.flatten(fields.to_dict(Config())).items()
    if default == ""
}
"""Fields whose value may be no character at all."""

LISTS = (
    *("data.file", "data.aux_file", "data.test_file"),
    *("data.planes", "data.classes", "data.label_map"),
    "mode.optimizer.class_weights",
)
"""Fields that take several names or numbers, separated by commas."""

SWITCHES = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}

SIGNED_LOG = ("data.img_transform", "signed_log")
"""A word for the logarithm that keeps the sign, which is the one that there is."""

NOTHING = ("None", "null", "Null", "NULL")


def is_switch(name: str) -> bool:
    """Says whether a field is on or off."""
    return FIELDS[name][0] is bool


def read(name: str, text: str) -> Any:
    """Turns what is typed into a value of a field's type.

    Args:
      name: dotted, of a field that exists.
      text: what stands behind the sign =, as the shell hands it on. Quotes around it
        are taken away; `null` and `None` unset a field; a list of file names may stand
        in brackets, and one of numbers, too.

    Returns:
      The value; choices as their strings.

    Raises:
      ConfigError: the text is no value of this field.
    """
    kind, option = FIELDS[name]
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if is_quoted:
        text = text[1:-1]
    elif text in NOTHING or (option.if_unset is not None and text == "none"):
        return None
    _check_is_plain(name, text, is_quoted)
    if (name, text) == SIGNED_LOG:
        return True
    if kind is bool:
        if text.lower() not in SWITCHES:
            raise ConfigError(f"{name}: expected True or False, got {text!r}")
        return SWITCHES[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError as error:
            raise ConfigError(
                f"{name}: expected {kind.__name__}, got {text!r}"
            ) from error
    if kind is tuple:
        return _read_numbers(name, text)
    if text.startswith("[") and not is_quoted:
        return _joined(name, text)
    return text


def _check_is_plain(name: str, text: str, is_quoted: bool) -> None:
    """Refuses what stands for no value, or for one that is written elsewhere."""
    kind, option = FIELDS[name]
    if text == "" and not (option.if_unset or name in MAY_BE_EMPTY):
        raise ConfigError(f"{name}=: expected a value, got nothing")
    if text.startswith("=") and not is_quoted:
        raise ConfigError(f"{name}={text}: expected {name}={text.lstrip('=')}")
    if text == "???":
        raise ConfigError(f"{name}: expected a value, got ???")
    if "${" in text:
        raise ConfigError(
            f"{name}: expected the value itself, got {text}, which is not looked up"
        )
    is_list = text.startswith("[") and kind is not tuple and name not in LISTS
    if (is_list or text.startswith("{")) and not is_quoted:
        raise ConfigError(f"{name}: expected one value, got {text}")


def _read_numbers(name: str, text: str) -> tuple[int, ...]:
    """Reads whole numbers, separated by commas, in brackets or not."""
    found = re.fullmatch(r"\[(.*)\]|\((.*)\)|(.*)", text, re.S)
    assert found is not None
    try:
        return tuple(int(number) for number in found[found.lastindex or 0].split(","))
    except ValueError as error:
        raise ConfigError(f"{name}: expected a list of int, got {text!r}") from error


def _joined(name: str, text: str) -> str:
    """Returns the names of a list in brackets, separated by commas alone."""
    if not text.endswith("]"):
        raise ConfigError(f"{name}: expected a list [A,B], got {text}")
    names = [part.strip().strip("'\"") for part in text[1:-1].split(",")]
    if not all(names):
        raise ConfigError(f"{name}: expected names in the list, got {text}")
    return ",".join(names)
