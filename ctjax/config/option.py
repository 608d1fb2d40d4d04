"""Declares one option of a section, in the words that help and checks need."""

import dataclasses
import functools
import typing
from typing import Any


@dataclasses.dataclass(frozen=True)
class Option:
    """What the declaration of an option says beside its name, type and default.

    Attributes:
      meaning: a phrase for the help and the documentation.
      at_least: the smallest number allowed, or None.
      if_unset: what None stands for; without it None is refused.
      keeps_parameters: whether networks that differ in this option alone have the same
        parameters, so that each can take a checkpoint of the other.
    """

    meaning: str
    at_least: float | None = None
    if_unset: str | None = None
    keeps_parameters: bool = False


def option(
    default: Any,
    meaning: str,
    at_least: float | None = None,
    *,
    if_unset: str | None = None,
    keeps_parameters: bool = False,
) -> Any:
    """Declares an option in a dataclass; the arguments are those of `Option`."""
    declared = Option(meaning, at_least, if_unset, keeps_parameters)
    return dataclasses.field(default=default, metadata={"option": declared})


@functools.cache
def plain_type(section: type, name: str) -> type:
    """Returns the type of an option that is set: `int` where it is `int | None`.

    That of `tuple[int, ...]` is `tuple`; there are no tuples but of whole numbers.
    """
    annotation = typing.get_type_hints(section)[name]
    if typing.get_origin(annotation) is tuple:
        return tuple
    types = [t for t in typing.get_args(annotation) if t is not type(None)]
    return types[0] if types else annotation
