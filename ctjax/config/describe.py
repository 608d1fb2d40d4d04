"""Describes a configuration: for the log, for `--help` and for the documentation."""

import dataclasses
import difflib
import enum
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config, to_dict


def describe(config: Config) -> str:
    """Formats a configuration as an indented list, one field a line."""
    lines = ["-- CONFIG --"]

    def walk(values: Mapping[str, Any], indent: int) -> None:
        for name in sorted(values):
            value = values[name]
            if isinstance(value, Mapping):
                lines.append(f"{' ' * indent}{name}:")
                walk(value, indent + 2)
            else:
                lines.append(f"{' ' * indent}{name:.<{30 - indent}}: {value}")

    walk(to_dict(config), 0)
    return "\n".join(lines)


class _Described(typing.NamedTuple):
    """A field in words: dotted name, default, type or choices, meaning."""

    name: str
    default: str
    kind: str
    meaning: str


def _described_fields(section: Any, prefix: str = "") -> Iterator[_Described]:
    """Every field of a section and of those inside it."""
    types = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        name, value = f"{prefix}{field.name}", getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _described_fields(value, f"{name}.")
            continue
        kind = types[field.name].__name__
        if isinstance(value, enum.Enum):
            kind = "|".join(str(member.value) for member in type(value))
            value = value.value
        if field.metadata["at_least"] is not None:
            kind += f", at least {field.metadata['at_least']}"
        yield _Described(name, str(value), kind, field.metadata["meaning"])


def check_name(name: str) -> None:
    """Raises ConfigError where no field has this dotted name, with the nearest one."""
    names = [field.name for field in _described_fields(Config())]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: no such field{hint}")


def help_text(command: str) -> str:
    """Formats the usage and every field with its type or choices and its default.

    Args:
      command: that the user has typed after `ctjax`.
    """
    lines = [
        f"usage: ctjax {command} [--config NAME] [--config.FIELD=VALUE ...]",
        "",
        "example:",
        f"  ctjax {command} --config scc21 --config.data.file=events.h5",
        "",
        "NAME is a configuration file, or the name of one of ctjax's. The fields:",
        "",
    ]
    for field in _described_fields(Config()):
        lines.append(f"  --config.{field.name}={field.default}  ({field.kind})")
        lines.append(f"      {field.meaning}")
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """Formats docs/configuration.md: a table of the fields of every section."""
    lines = [
        "# Configuration",
        "",
        "Every field of a run, as `ctjax run --help` has it, to be set by",
        "`--config.FIELD=VALUE` after `--config configs/NAME.py`, or in such a file.",
        "This page is made from `ctjax/config/fields.py`; after a change there:",
        "",
        "    python -m ctjax.config.describe > docs/configuration.md",
    ]
    section = None
    for field in _described_fields(Config()):
        if section != (section := field.name.rpartition(".")[0]):
            head = f"`{section}`" if section else "The rest"
            lines += ["", f"## {head}", "", "| field | default | type | meaning |"]
            lines.append("|---|---|---|---|")
        default = f"`{field.default}`" if field.default else "empty"
        kind = field.kind.replace("|", ", ")
        lines.append(f"| `{field.name}` | {default} | {kind} | {field.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
