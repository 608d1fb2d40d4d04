"""Turns a mapping of values into a checked `Config`."""

import dataclasses
import difflib
import enum
import os
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config, Data, ModeName, Precision

DEFAULT_ITERATIONS = 500  # CosmicTagger's run.iterations


def resolve(config: Mapping[str, Any]) -> Config:
    """Checks a configuration and gives it its final form.

    Args:
      config: nested mapping with every field of `Config` or some of them.

    Returns:
      The configuration; zero and empty values that stand for another one are replaced.

    Raises:
      ConfigError: an unknown field, a value of the wrong type or out of range, or
        fields that contradict each other; the message names the field.
    """
    result = build(Config, config, "")
    run, mode, network = result.run, result.mode, result.network
    trains = mode.name in (ModeName.TRAIN, ModeName.QUICKSTART)
    if trains and run.precision is Precision.FLOAT16:
        raise ConfigError(
            "run.precision=float16 is for inference: expected float32, bfloat16 or "
            f"mixed with mode.name={mode.name.value}"
        )
    if network.filter_size_deepest % 2 == 0:
        raise ConfigError(
            "network.filter_size_deepest: expected an odd number, "
            f"got {network.filter_size_deepest}"
        )
    _check_files(result.data, mode.name)
    iterations = run.iterations
    if iterations == 0 and mode.name is not ModeName.INFERENCE:
        iterations = DEFAULT_ITERATIONS
    run = dataclasses.replace(
        run,
        iterations=iterations,
        aux_minibatch_size=run.aux_minibatch_size or run.minibatch_size,
    )
    output_dir = result.output_dir or os.path.join("output", network.name, run.id)
    return dataclasses.replace(result, run=run, output_dir=output_dir)


def _check_files(data: Data, mode: ModeName) -> None:
    """Refuses a run without events; quickstart alone makes its own."""
    if mode is ModeName.QUICKSTART:
        if data.synthetic:
            raise ConfigError(
                "data.synthetic: expected False with mode.name=quickstart"
            )
        if bool(data.file) != bool(data.aux_file):
            raise ConfigError(
                "data.file, data.aux_file: expected both or none with "
                f"mode.name=quickstart, got {data.file!r} and {data.aux_file!r}"
            )
    elif not data.synthetic and not data.file:
        raise ConfigError("data.file: expected a larcv3 file, got an empty name")


def build(section: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Makes one dataclass of options, defaults where `values` has no entry.

    Args:
      section: `Config` or the class of one of its sections.
      values: field name to value; choices as their strings.
      prefix: dotted name of the section with a final dot, for messages.

    Returns:
      An instance of `section`.

    Raises:
      ConfigError: as of `resolve`.
    """
    fields = {field.name: field for field in dataclasses.fields(section)}
    types = typing.get_type_hints(section)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"{prefix}{name}: no such field{hint}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]):
            if isinstance(value, ml_collections.ConfigDict):
                value = value.to_dict()
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{prefix}{name}: expected a group of fields, got {value!r}"
                )
            arguments[name] = build(types[name], value, f"{prefix}{name}.")
        else:
            arguments[name] = _convert(value, types[name], f"{prefix}{name}")
            at_least = fields[name].metadata.get("at_least")
            if at_least is not None and not arguments[name] >= at_least:
                raise ConfigError(
                    f"{prefix}{name}: expected at least {at_least}, got {value}"
                )
    return section(**arguments)


def _convert(value: Any, expected: type, name: str) -> Any:
    """Checks the type of one value; choices become members of their enum."""
    if issubclass(expected, enum.Enum):
        if isinstance(value, expected):
            return value
        choices = {member.value: member for member in expected}
        if not isinstance(value, str) or value not in choices:
            raise ConfigError(
                f"{name}: expected one of {', '.join(choices)}, got {value!r}"
            )
        return choices[value]
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (
        isinstance(value, bool) and expected is not bool
    ):
        raise ConfigError(f"{name}: expected {expected.__name__}, got {value!r}")
    return value


def file_patterns(data: Data, names: str) -> list[str]:
    """Joins data_directory with each name of a comma-separated list.

    Args:
      data: the data section.
      names: its `file` or `aux_file`.

    Returns:
      Paths or glob patterns, in the order given.
    """
    return [
        os.path.join(data.data_directory, name.strip())
        for name in names.split(",")
        if name.strip()
    ]
