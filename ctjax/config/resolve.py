"""Turns a mapping of values into a checked `Config`."""

import dataclasses
import difflib
import enum
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from ctjax.base import home
from ctjax.base.errors import ConfigError
from ctjax.config import detectors, heads, networks
from ctjax.config.architecture import AnyNetwork, Architecture
from ctjax.config.fields import Config, Data, Densify, ModeName, Precision
from ctjax.config.option import Option, plain_type

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

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
    result = _with_home(build(Config, config))
    run, mode, network = result.run, result.mode, result.network
    trains = mode.name in (ModeName.TRAIN, ModeName.QUICKSTART)
    if trains and run.precision is Precision.FLOAT16:
        raise ConfigError(
            "run.precision=float16 is for inference: expected float32, bfloat16 or "
            f"mixed with mode.name={mode.name.value}"
        )
    networks.check(network)
    is_sparse = isinstance(network, networks.UResNetSparse)
    if is_sparse and result.data.densify is Densify.DEVICE:
        raise ConfigError(
            "data.densify=device: expected host with network.architecture="
            "uresnet_sparse, for which no images are made"
        )
    _check_files(result.data, mode.name)
    detectors.check(result.data, mode.optimizer)
    detector = detectors.read_detector(result.data)
    learns = mode.name not in (ModeName.INFERENCE, ModeName.IOTEST)
    heads.check(network, detector, learns and result.data.synthetic)
    if run.iterations is None and mode.name is not ModeName.INFERENCE:
        run = dataclasses.replace(run, iterations=DEFAULT_ITERATIONS)
    if run.aux_minibatch_size is None:
        run = dataclasses.replace(run, aux_minibatch_size=run.minibatch_size)
    output_dir = result.output_dir
    if output_dir is None:
        output_dir = os.path.join("output", network.name, run.id)
    return dataclasses.replace(result, run=run, output_dir=output_dir)


def _with_home(config: Config) -> Config:
    """Puts the user's home folder for `~` in paths, which the shell leaves after =."""

    def expand(names: str | None) -> str | None:
        if names is None or "~" not in names:
            return names
        return ",".join(home.expand(name.strip()) for name in names.split(","))

    data, mode = config.data, config.mode
    data = dataclasses.replace(
        data,
        data_directory=home.expand(data.data_directory),
        file=expand(data.file),
        aux_file=expand(data.aux_file),
        test_file=expand(data.test_file),
    )
    location, output_dir = mode.weights_location, config.output_dir
    return dataclasses.replace(
        config,
        data=data,
        mode=dataclasses.replace(
            mode, weights_location=location and home.expand(location)
        ),
        output_dir=output_dir and home.expand(output_dir),
    )


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
    elif data.test_file is not None:
        raise ConfigError(
            f"data.test_file={data.test_file}: of the quickstart, expected none with "
            f"mode.name={mode.value}, where data.file is what is gone over"
        )
    elif not data.synthetic and data.file is None:
        raise ConfigError(
            f"data.file: expected a larcv3 file with mode.name={mode.value}, got None"
        )


def check_name(name: str) -> None:
    """Raises ConfigError where no field has this dotted name, with the nearest one."""
    _check_known(name, field_types(Config))


def field_types(section: type, prefix: str = "") -> dict[str, tuple[type, Option]]:
    """Returns type and declaration of every field, by its dotted name.

    Those of every network are among them; a name has one type in all of them.
    """
    found = {}
    for field in dataclasses.fields(section):
        kind, name = plain_type(section, field.name), f"{prefix}{field.name}"
        if kind is AnyNetwork:
            for network in networks.SECTIONS.values():
                found |= field_types(network, f"{name}.")
        elif dataclasses.is_dataclass(kind):
            found |= field_types(kind, f"{name}.")
        else:
            found[name] = (kind, field.metadata["option"])
    return found


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """Finds what a name was meant to be.

    Args:
      name: dotted, as somebody has written it.
      known: dotted names.

    Returns:
      The nearest of those that end in the same word, else the nearest of all, else
      None where none is near.
    """
    word = name.lower()
    last = word.rpartition(".")[2]
    alike = [other for other in known if other.rpartition(".")[2] == last]
    near = difflib.get_close_matches(word, alike, n=1, cutoff=0.0)
    near = near or difflib.get_close_matches(word, known, n=1)
    return near[0] if near else None


def _check_known(name: str, known: Collection[str]) -> None:
    """Raises ConfigError where a name is unknown."""
    if name not in known:
        near = nearest_name(name, known)
        hint = f"; did you mean {near}?" if near else ""
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
    if isinstance(value, str) and _CONTROL.search(value):
        raise ConfigError(
            f"{name}: expected no line breaks or other control characters, "
            f"got {value!r}"
        )
    return value
