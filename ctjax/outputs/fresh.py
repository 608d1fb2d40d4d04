"""Moves the folder of a former run aside, for a run that starts anew."""

import os

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config, ModeName
from ctjax.outputs import lock
from ctjax.processes import join
from ctjax.processes.join import Processes


def move_aside(config: Config, processes: Processes) -> str | None:
    """Renames `output_dir`, if there is anything in it, as `run.fresh` asks for.

    Args:
      config: of the run; nothing is done unless `run.fresh` is set.
      processes: of the run; the first one renames, and the others wait for it.

    Returns:
      The new name, in the first process; None where nothing has been moved.

    Raises:
      ConfigError: the weights of this run are in the folder.
      RunLockError: another run is writing into it.
    """
    if not config.run.fresh:
        return None
    _check_weights_stay(config)
    moved = None
    if processes.is_first and os.path.isdir(config.output_dir):
        moved = _rename(os.path.normpath(config.output_dir))
    if processes.count > 1:
        join.wait_for_all("folder moved aside")
    return moved


def _rename(folder: str) -> str | None:
    """Gives a folder a name that is free, unless it is empty."""
    if not os.listdir(folder):
        return None
    count = 1
    while os.path.exists(f"{folder}.old-{count}"):
        count += 1
    with lock.hold(folder):
        os.rename(folder, f"{folder}.old-{count}")
    return f"{folder}.old-{count}"


def _check_weights_stay(config: Config) -> None:
    """Refuses to move the weights away that a run is to begin with."""
    folder, location = config.output_dir, config.mode.weights_location
    if location is None and config.mode.name is ModeName.INFERENCE:
        location = folder
    if location is None:
        return
    inside = os.path.commonpath([os.path.realpath(p) for p in (folder, location)])
    if inside == os.path.realpath(folder):
        raise ConfigError(
            f"run.fresh=True: {location} holds the weights of this run and would be "
            "moved aside; expected another output_dir or run.id"
        )
