"""Writes and reads what a checkpoint says of itself: format, version, configuration."""

import dataclasses
import enum
import json
import os
from collections.abc import Collection
from typing import Any

import ctjax
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.errors import ConfigError, UserError
from ctjax.config import dotted, fields, resolve
from ctjax.config.architecture import AnyNetwork
from ctjax.config.detectors import name_planes, read_detector
from ctjax.config.fields import Config, Data, LearningRateSchedule

FORMAT = 1
"""Format of the checkpoints written here, and the newest one read.

To be raised when versions that read the format before would misread what is written. A
new field of the configuration is no reason: checkpoints without it have its default.
"""

FOLDER = "checkpoints"
"""Of a run's folder, where its checkpoints are."""

TRAINING = "training"
"""In the folder of a step; weights alone are without it."""


class CheckpointError(UserError):
    """No checkpoint, or one that does not fit; the message names the folder."""


class DamagedError(CheckpointError):
    """A checkpoint that cannot be read."""


TRAINED_WITH = (
    "run.minibatch_size",
    "run.precision",
    "run.seed",
    "data.data_directory",
    "data.file",
    "data.aux_file",
    "data.downsample",
    "data.synthetic",
    "data.img_transform",
    "data.image_product",
    "data.label_product",
    "data.planes",
    "data.classes",
    "data.label_map",
    "data.charge_scale",
    "data.on_bad_event",
    "data.seed",
    "network.sync_batch_norm",
    "network.weight_decay",
    "network.classification.detach",
    "network.classification.weight",
    "network.vertex.detach",
    "network.vertex.weight",
    "network.vertex.l_det",
    "network.vertex.l_coord",
    "mode.optimizer.learning_rate",
    "mode.optimizer.gradient_accumulation",
    "mode.optimizer.bfloat16_gradients",
    "mode.optimizer.loss_balance_scheme",
    "mode.optimizer.class_weights",
    "mode.optimizer.loss_charged_pixels_only",
    "mode.optimizer.lr_schedule",
)
"""Fields by which a training that goes on may differ from the one before, and is then
no longer the run that it would have been."""

IMAGES = ("data.downsample", "data.img_transform", "data.charge_scale")
"""Fields that say what images weights were trained with."""

HEADS = ("network.classification.active", "network.vertex.active")
"""Fields that say whether a network has a head; of one alone no others are compared."""

DEFAULT_PLANES = name_planes([range(COSMIC_TAGGER.num_planes)])

OF_DETECTOR = ("planes", "classes", "label_map")
"""Fields of the data that say of what detector the network is."""


@dataclasses.dataclass(frozen=True)
class SavedConfig:
    """The part of a checkpoint's configuration that decides what can take it.

    Attributes:
      version: of the ctjax that wrote the checkpoint.
      network: whose parameters it holds.
      optimizer: its `mode.optimizer.name`.
      precision: its `run.precision`.
      data: what it says of its planes and classes, by which `read_detector` does; all
        other fields have their defaults.
      values: every field by its dotted name, as it was saved.
    """

    version: str
    network: AnyNetwork
    optimizer: str
    precision: str
    data: Data
    values: dict[str, Any]

    @property
    def detector(self) -> Detector:
        """Returns the detector of the network, its planes' sizes not among it."""
        return read_detector(self.data)


def find(location: str) -> tuple[str, int | None]:
    """Returns the folder of the checkpoints and the step, if the location names one.

    Args:
      location: output_dir of a run, its checkpoints folder, or one step's folder.

    Raises:
      CheckpointError: there is no folder.
    """
    path = os.path.abspath(location)
    inner = os.path.join(path, FOLDER)
    if os.path.isdir(inner):
        return inner, None
    name = os.path.basename(path)
    if name.isdigit() and os.path.isdir(path):
        return os.path.dirname(path), int(name)
    if not os.path.isdir(path):
        raise CheckpointError(f"{location}: expected a folder with checkpoints")
    return path, None


def to_item(config: Config) -> dict[str, Any]:
    """Returns what a checkpoint stores about the run that writes it."""
    return {
        "format": FORMAT,
        "version": ctjax.__version__,
        "config": fields.to_dict(config),
    }


def from_item(item: Any, where: str) -> SavedConfig:
    """Reads what a checkpoint of this or an older version has stored.

    Args:
      item: as `to_item` made it; without a format, it is of format 1. Fields that it
        lacks have been added since and have their defaults.
      where: folder of the checkpoint, for messages.

    Raises:
      CheckpointError: it is of a newer format, or its network has a field or value
        that this version does not know.
      DamagedError: it is not what ctjax writes.
    """
    try:
        number, version = item.get("format", 1), str(item["version"])
        is_readable = number <= FORMAT
        network = dict(item["config"]["network"]) if is_readable else {}
        optimizer = item["config"]["mode"]["optimizer"]["name"] if is_readable else ""
        precision = item["config"]["run"]["precision"] if is_readable else ""
        values = dotted.flatten(item["config"]) if is_readable else {}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{where}: not a checkpoint of ctjax, or a damaged one"
        ) from error
    if not is_readable:
        raise CheckpointError(
            f"{where}: checkpoint of format {number}, written by ctjax {version}; "
            f"expected at most format {FORMAT}, which is what ctjax "
            f"{ctjax.__version__} reads"
        )
    try:
        network = resolve.build(AnyNetwork, network, "network.")
        told = {
            name: values[f"data.{name}"]
            for name in OF_DETECTOR
            if f"data.{name}" in values
        }
        data = resolve.build(Data, told, "data.")
        read_detector(data)
    except ConfigError as error:
        raise CheckpointError(
            f"{where}: written by ctjax {version}, unknown to ctjax "
            f"{ctjax.__version__}: {error}"
        ) from error
    return SavedConfig(version, network, optimizer, precision, data, values)


def read(location: str) -> tuple[SavedConfig, bool] | None:
    """Reads what a checkpoint says of itself, without jax, before a run begins.

    Args:
      location: see `find`; without a step, its last one.

    Returns:
      It, and whether the checkpoint is of a training; None where there is none that can
      be read, which restoring tells.
    """
    try:
        folder, step = find(location)
        if step is None:
            step = max(int(name) for name in os.listdir(folder) if name.isdigit())
        where = os.path.join(folder, str(step))
        with open(os.path.join(where, "config", "metadata"), encoding="utf-8") as file:
            saved = from_item(json.load(file), where)
        return saved, os.path.isdir(os.path.join(where, TRAINING))
    except (UserError, OSError, ValueError):
        return None


def take_unsaid(config: Config, said: Collection[str]) -> tuple[Config, list[str]]:
    """Gives an inference what its weights were trained with, where nobody said it.

    Args:
      config: of the inference.
      said: dotted names of the fields that its command line has.

    Returns:
      The configuration, and a line for the log about each field that it has now. What
      is not as by default has been said, too, by a configuration file.
    """
    location = config.mode.weights_location or str(config.output_dir)
    found = read(location)
    if found is None:
        return config, []
    saved, is_of_training = found
    names = ("data.classes", "data.label_map")
    if is_of_training and not config.mode.allow_other_images:
        names = (*names, "data.img_transform", "data.charge_scale")
    defaults = dotted.flatten(fields.to_dict(Config()))
    ours = dotted.flatten(fields.to_dict(config))
    taken = {
        name.removeprefix("data."): theirs
        for name, theirs, _ in _differences(saved, config, names)
        if name not in said and ours[name] == defaults[name]
    }
    if "classes" not in taken and config.data.classes != saved.data.classes:
        taken.pop("label_map", None)  # which would be of other classes
    lines = [
        f"data.{name}={value}: so {location} was trained, and nothing else is said"
        for name, value in taken.items()
    ]
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, **taken)
    ), lines


def check_network(
    saved: SavedConfig,
    network: AnyNetwork,
    where: str,
    may_have_other_heads: bool = False,
) -> None:
    """Refuses a checkpoint of a network with other parameters, naming the fields.

    Args:
      saved: of the checkpoint.
      network: that is to take its parameters.
      where: folder of the checkpoint.
      may_have_other_heads: whether heads do not count that one of the two alone has.

    Raises:
      CheckpointError: fields differ that change the parameters.
    """
    theirs, ours = (
        _shaping_options(net, "network.") for net in (saved.network, network)
    )
    if type(saved.network) is not type(network):
        common = _shaping_options(AnyNetwork(), "network.")
        ours = {name: ours[name] for name in common}
    different = [
        f"{name} is {theirs[name]}, expected {value}"
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
        if not (may_have_other_heads and name in HEADS)
    ]
    if different:
        raise CheckpointError(
            f"{where}: checkpoint of another network, written by ctjax "
            f"{saved.version}: {'; '.join(different)}"
        )


def _shaping_options(section: Any, prefix: str) -> dict[str, Any]:
    """Returns what decides which parameters a network has, by dotted name.

    Of a head that is not there nothing else counts.
    """
    found = {}
    for field in dataclasses.fields(section):
        name, value = f"{prefix}{field.name}", getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            inner = _shaping_options(value, f"{name}.")
            active = f"{name}.active"
            found |= inner if inner[active] else {active: False}
        elif not field.metadata["option"].keeps_parameters:
            found[name] = value.value if isinstance(value, enum.Enum) else value
    return found


def check_images(saved: SavedConfig, config: Config, where: str) -> None:
    """Refuses weights that were trained with other images, unless asked for them.

    Args:
      saved: of a checkpoint of training; weights alone do not say it.
      config: of the run that is to take it.
      where: folder of the checkpoint.

    Raises:
      CheckpointError: a field of `IMAGES` differs.
    """
    different = [
        f"{name} is {theirs}, expected {ours}"
        for name, theirs, ours in _differences(saved, config, IMAGES)
    ]
    if different and not config.mode.allow_other_images:
        raise CheckpointError(
            f"{where}: weights trained with other images: {'; '.join(different)}; "
            "mode.allow_other_images=True takes them all the same"
        )


def describe_changes(saved: SavedConfig, config: Config) -> list[str]:
    """Says, a line each, in what a training differs that goes on from a checkpoint."""
    lines = [
        f"{name}={ours} from here on, {theirs} before"
        for name, theirs, ours in _differences(saved, config, TRAINED_WITH)
    ]
    one_cycle = config.mode.optimizer.lr_schedule is LearningRateSchedule.ONE_CYCLE
    for name, theirs, ours in _differences(saved, config, ("run.iterations",)):
        if one_cycle:
            lines.append(
                f"{name}={ours}, {theirs} before: mode.optimizer.lr_schedule=one_cycle "
                "is stretched over all of them, and the learning rate jumps"
            )
    return lines


def _differences(
    saved: SavedConfig, config: Config, names: tuple[str, ...]
) -> list[tuple[str, Any, Any]]:
    """Lists name, saved value and new value; fields added since had their defaults.

    Fields that the network does not read are passed over.
    """
    ours, defaults = (dotted.flatten(fields.to_dict(c)) for c in (config, Config()))
    theirs = defaults | saved.values
    for values in (ours, theirs):
        # Where it is not known there are as many as CosmicTagger has.
        values["data.planes"] = values["data.planes"] or DEFAULT_PLANES
    read = [name for name in names if name in ours]
    return [(n, theirs[n], ours[n]) for n in read if theirs[n] != ours[n]]
