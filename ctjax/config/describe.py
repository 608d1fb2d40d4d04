"""Describes options in words: for the log, for `--help` and for the documentation."""

import dataclasses
import enum
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ctjax.config import networks
from ctjax.config.architecture import AnyNetwork
from ctjax.config.fields import Config, to_dict
from ctjax.config.option import Option, plain_type

UNSET = "not set"
"""What the log and the documentation say instead of None."""


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
                shown = UNSET if value is None else value
                lines.append(f"{' ' * indent}{name:.<{30 - indent}}: {shown}")

    walk(to_dict(config), 0)
    return "\n".join(lines)


class _Described(typing.NamedTuple):
    """A field in words: section, dotted name, default, type or choices, meaning.

    A section `network` is of one architecture: "network, architecture=segformer".
    """

    section: str
    name: str
    default: str | None
    kind: str
    meaning: str


def _described_fields(section: Any, prefix: str = "") -> Iterator[_Described]:
    """Yields every field of a section and of those inside it; of every network."""
    title = prefix.removesuffix(".")
    if isinstance(section, AnyNetwork):
        title += f", architecture={section.architecture.value}"
    inside = []
    for field in dataclasses.fields(section):
        name, value = f"{prefix}{field.name}", getattr(section, field.name)
        if isinstance(value, AnyNetwork):
            for network in networks.SECTIONS.values():
                yield from _described_fields(network(), f"{name}.")
            continue
        if dataclasses.is_dataclass(value):
            if isinstance(section, AnyNetwork):
                inside.append((value, f"{name}."))
            else:
                yield from _described_fields(value, f"{name}.")
            continue
        option: Option = field.metadata["option"]
        kind = plain_type(type(section), field.name).__name__
        if isinstance(value, enum.Enum):
            kind = "|".join(str(member.value) for member in type(value))
            value = value.value
        if isinstance(value, tuple):
            kind, value = "list of int", ",".join(map(str, value))
        if option.at_least is not None:
            kind += f", at least {option.at_least:g}"
        meaning = option.meaning
        if option.if_unset is not None:
            meaning += f" ({UNSET}: {option.if_unset})"
        default = None if value is None else str(value)
        yield _Described(title, name, default, kind, meaning)
    for value, name in inside:
        yield from _described_fields(value, name)


def help_text(command: str) -> str:
    """Formats the usage and every field with its type or choices and its default.

    Args:
      command: what the user has typed after `ctjax`.
    """
    lines = [
        f"usage: ctjax {command} [--config NAME] [network=NAME] [FIELD=VALUE ...]",
        "",
        "example:",
        f"  ctjax {command} --config scc21 data.file=events.h5",
        "",
        "NAME is a configuration file, or the name of one of ctjax's; network=NAME is",
        "its network alone. Of a field that is set twice, the last word holds. None or",
        "null stands for a field that is not set. The fields, with their defaults:",
        "",
    ]
    section = None
    for field in _described_fields(Config()):
        if section != (section := field.section) and "=" in section:
            lines += ["", f"  With network.{section.partition(', ')[2]}:"]
        lines.append(f"  {field.name}={field.default}  ({field.kind})")
        lines.append(f"      {field.meaning}")
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """Formats docs/configuration.md: a table of the fields of every section."""
    lines = [
        "# Configuration",
        "",
        "Every field of a run, as `ctjax run --help` has it, to be set by",
        "`FIELD=VALUE` or `--config.FIELD=VALUE` beside `--config NAME`, or in a file",
        "like those in `configs/`. `None` or `null` unsets a field whose meaning says",
        "what stands for it when it is not set; of a field that is set twice, the last",
        "word holds.",
        "",
        "This page is made from the fields in `ctjax/config/`; after a change there:",
        "",
        "    python -m ctjax.config.describe > docs/configuration.md",
    ]
    section = None
    for field in _described_fields(Config()):
        if section != (section := field.section):
            words = [f"`{word}`" for word in section.split(", ") if word]
            head = ", ".join(words) or "The rest"
            lines += ["", f"## {head}", "", "| field | default | type | meaning |"]
            lines.append("|---|---|---|---|")
        if field.default is None:
            default = UNSET
        else:
            default = f"`{field.default}`" if field.default else "empty"
        kind = field.kind.replace("|", ", ")
        lines.append(f"| `{field.name}` | {default} | {kind} | {field.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
