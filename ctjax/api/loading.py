"""Loads a network with its weights."""

import os
from typing import Any

from ctjax.api.tagger import Tagger
from ctjax.base import home
from ctjax.base.errors import ConfigError, UserError
from ctjax.commands import configuration_files, import_weights
from ctjax.config import fields, resolve
from ctjax.config.fields import Config, Data, Densify
from ctjax.learning import devices, sharding
from ctjax.outputs import checkpoint, saved_config
from ctjax.outputs.saved_config import SavedConfig
from ctjax.runs import parts

TOLD = (*saved_config.IMAGES, "mode.mask_empty_pixels")
"""Fields that a training tells of its images."""


def load(
    path: str | os.PathLike,
    config: str | os.PathLike | None = None,
    *,
    img_transform: bool | None = None,
    mask_empty_pixels: bool | None = None,
    precision: str | None = None,
    allow_other_images: bool = False,
) -> Tagger:
    """Loads a network with its weights.

    A checkpoint of ctjax says itself which network it is of, for which planes and
    classes, and, where it is of a training, what was done to its images. Of other
    weights the configuration says it.

    Args:
      path: folder of a run, of its checkpoints or of one of their steps; or weights of
        others: an .npz or .safetensors, CosmicTagger's torch or TensorFlow checkpoint.
      config: a configuration's name or file, such as "scc21"; of a checkpoint of ctjax
        it need not be given, and must be of the same network.
      img_transform: whether the network sees the logarithm of the charge; None for what
        checkpoint or configuration say.
      mask_empty_pixels: whether pixels without charge are background whatever the
        network says; None likewise.
      precision: number format, as `run.precision` has it; None for float32, or for what
        the configuration says.
      allow_other_images: whether the network may see images that were halved or
        transformed otherwise than those of its training.

    Returns:
      The network.

    Raises:
      CheckpointError, WeightsError: the weights cannot be read, are not finite or are
        of another network.
      ConfigError: there is no such configuration, or a value that cannot be used.

    Examples:
      >>> ctjax.load("weights.npz", config="scc21")
    """
    location = home.expand(os.fspath(path))
    saved, of_training = _read_saved(location, config)
    changes = {
        ("data", "img_transform"): img_transform,
        ("mode", "mask_empty_pixels"): mask_empty_pixels,
        ("mode", "allow_other_images"): allow_other_images,
        ("run", "precision"): precision,
    }
    resolved = _configure(saved, of_training, config, changes)
    mesh = devices.select(resolved.run.compute_mode)
    model, variables = parts.make_network(resolved, None)
    first = sharding.make_mesh(list(mesh.devices.flat[:1]))
    variables = sharding.replicate(variables, first)
    variables, step = parts.restore_weights(location, variables, resolved)
    is_said = config is not None and not allow_other_images
    downsample = resolved.data.downsample if is_said else None
    weights = location, step
    return Tagger(resolved, model, variables, weights, of_training, downsample)


def _read_saved(
    location: str, config: Any
) -> tuple[SavedConfig | None, SavedConfig | None]:
    """Reads what a checkpoint says of itself, and again if it is of a training.

    Both are None for other weights, which need a configuration.
    """
    if import_weights.is_foreign(location):
        if config is None:
            raise ConfigError(
                f"{location}: weights that do not say of which network they are; "
                'expected config=NAME, such as config="scc21"'
            )
        return None, None
    if not os.path.exists(location):
        raise UserError(
            f"{location}: found nothing, expected a run, a checkpoint or weights"
        )
    saved, is_of_training = checkpoint.read_config(location)
    return saved, saved if is_of_training else None


def _configure(
    saved: SavedConfig | None,
    of_training: SavedConfig | None,
    config: str | os.PathLike | None,
    changes: dict[tuple[str, str], Any],
) -> Config:
    """Makes the configuration of an inference.

    Args:
      saved: of a checkpoint.
      of_training: the same where it is of a training, which says what images it saw.
      config: name of a configuration, which comes before the rest of what is saved.
      changes: value by section and field; None for none.
    """
    if config is not None:
        values = configuration_files.load(os.fspath(config), "config").to_dict()
    else:
        assert saved is not None
        values = fields.to_dict(Config(network=saved.network))
    told = of_training if config is not None else saved
    # The planes and classes of a checkpoint are those of its tensors.
    detector = [f"data.{name}" for name in saved_config.OF_DETECTOR]
    for source, names in ((saved, detector), (told, TOLD)):
        for name in names:
            section, field = name.split(".")
            if source is not None and name in source.values:
                values[section][field] = source.values[name]
    values["data"]["file"] = values["data"]["file"] or Data().file  # none is opened
    values["mode"]["name"] = "inference"
    values["data"]["densify"] = Densify.HOST.value
    for (section, field), value in changes.items():
        if value is not None:
            values[section][field] = value
    return resolve.resolve(values)
