"""Turns a mapping of values into a checked `Config`."""

import dataclasses
import difflib
import enum
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from ctjax.base.errors import ConfigError
from ctjax.config import networks
from ctjax.config.architecture import AnyNetwork, Architecture
from ctjax.config.fields import Config, Data, ModeName, Precision
from ctjax.config.option import Option, plain_type

DEFAULT_ITERATIONS = 500  # CosmicTagger's run.iterations


def resolve(config: Mapping[str, Any]) -> Config:
    """Checks a configuration and gives it its final form.

    Args:
      config: nested mapping with every field of `Config` or some of them.

    Returns:
      The configuration. None is replaced by the value that it stands for, if there is
      one before the run begins.

    Raises:
      ConfigError: an unknown field, a value of the wrong type or out of range, or
        fields that contradict each other; the message names the field.
    """
    result = build(Config, config)
    run, mode, network = result.run, result.mode, result.network
    trains = mode.name in (ModeName.TRAIN, ModeName.QUICKSTART)
    if trains and run.precision is Precision.FLOAT16:
        raise ConfigError(
            "run.precision=float16 is for inference: expected float32, bfloat16 or "
            f"mixed with mode.name={mode.name.value}"
        )
    networks.check(network)
    _check_files(result.data, mode.name)
    if run.iterations is None and mode.name is not ModeName.INFERENCE:
        run = dataclasses.replace(run, iterations=DEFAULT_ITERATIONS)
    if run.aux_minibatch_size is None:
        run = dataclasses.replace(run, aux_minibatch_size=run.minibatch_size)
    output_dir = result.output_dir
    if output_dir is None:
        output_dir = os.path.join("output", network.name, run.id)
    return dataclasses.replace(result, run=run, output_dir=output_dir)


def _check_files(data: Data, mode: ModeName) -> None:
    """Refuses a run without events; quickstart alone makes its own."""
    if mode is ModeName.QUICKSTART:
        if data.synthetic:
            raise ConfigError(
                "data.synthetic: expected False with mode.name=quickstart"
            )
        if (data.file is None) != (data.aux_file is None):
            raise ConfigError(
                "data.file, data.aux_file: expected both or none with "
                f"mode.name=quickstart, got {data.file} and {data.aux_file}"
            )
    elif not data.synthetic and data.file is None:
        raise ConfigError(
            f"data.file: expected a larcv3 file with mode.name={mode.value}, got None"
        )


def check_name(name: str) -> None:
    """Raises ConfigError where no field has this dotted name, with the nearest one."""
    _check_known(name, list(field_names(Config)))


def field_names(section: type, prefix: str = "") -> Iterator[str]:
    """Yields the dotted name of every field of a section and of those inside it."""
    for field in dataclasses.fields(section):
        kind = plain_type(section, field.name)
        if kind is AnyNetwork:
            for network in networks.SECTIONS.values():
                yield from field_names(network, f"{prefix}{field.name}.")
        elif dataclasses.is_dataclass(kind):
            yield from field_names(kind, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _check_known(name: str, known: Iterable[str]) -> None:
    """Raises ConfigError where a name is unknown."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{name}: no such field{hint}")


def build(section: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Makes one dataclass of options, with defaults where `values` has no entry.

    Args:
      section: `Config` or the class of one of its sections; for `AnyNetwork` the values
        say by "architecture" which network's it is.
      values: field name to value; choices as their strings.
      prefix: dotted name of the section with a final dot, for messages.

    Returns:
      An instance of `section`.

    Raises:
      ConfigError: an unknown field, or a value of the wrong type or out of range.
    """
    if section is AnyNetwork:
        section = network_section(values)
    fields = {f"{prefix}{field.name}": field for field in dataclasses.fields(section)}
    arguments = {}
    for name, value in values.items():
        full_name = f"{prefix}{name}"
        if issubclass(section, AnyNetwork):
            networks.check_reads(section, name)
        _check_known(full_name, fields)
        kind = plain_type(section, name)
        if dataclasses.is_dataclass(kind):
            if isinstance(value, ml_collections.ConfigDict):
                value = value.to_dict()
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{full_name}: expected a group of fields, got {value!r}"
                )
            arguments[name] = build(kind, value, f"{full_name}.")
        else:
            option = fields[full_name].metadata["option"]
            arguments[name] = _checked(value, kind, option, full_name)
    return section(**arguments)


def network_section(values: Mapping[str, Any]) -> type[AnyNetwork]:
    """Returns the class of a section `network`, by its field `architecture`.

    Raises:
      ConfigError: there is no such architecture.
    """
    value = values.get("architecture", Architecture.URESNET)
    return networks.SECTIONS[_convert(value, Architecture, "network.architecture")]


def _checked(value: Any, kind: type, option: Option, name: str) -> Any:
    """Returns the value of one option, or raises ConfigError with its name."""
    if option.if_unset is None:
        advice = ""
    elif value is None:
        return None
    else:
        advice = f"; leave it out for {option.if_unset}"
    result = _convert(value, kind, name)
    numbers = result if isinstance(result, tuple) else (result,)
    if option.at_least is not None and not min(numbers) >= option.at_least:
        raise ConfigError(
            f"{name}: expected at least {option.at_least:g}, got {value}{advice}"
        )
    if advice and result == "":
        raise ConfigError(f"{name}: expected a name, got an empty one{advice}")
    return result


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
    if expected is tuple:
        numbers = value if isinstance(value, list | tuple) else ()
        if not numbers or not all(type(number) is int for number in numbers):
            raise ConfigError(f"{name}: expected a list of int, got {value!r}")
        return tuple(numbers)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (
        isinstance(value, bool) and expected is not bool
    ):
        raise ConfigError(f"{name}: expected {expected.__name__}, got {value!r}")
    return value
