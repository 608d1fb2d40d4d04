"""Checkpoints by orbax, each with the configuration it was made with.

A checkpoint holds three items: "variables" (parameters and running statistics),
"training" (step and optimizer state) and "config". Weights alone can therefore be
restored by a run with another optimizer.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

import ctjax
from ctjax import config as ctjax_config
from ctjax.config import Config, Network
from ctjax.state import TrainState

MAX_TO_KEEP = 5  # as CosmicTagger
FOLDER = "checkpoints"

# What may differ between a checkpoint and the network that takes its weights.
_IRRELEVANT_FIELDS = ("name", "weight_decay", "sync_batch_norm")


class CheckpointError(ValueError):
    """No checkpoint, or one that does not fit; the message names the folder."""


@contextlib.contextmanager
def open_for_saving(output_dir: str) -> Iterator[ocp.CheckpointManager]:
    """Opens the checkpoints of a run; on leaving, waits for what is being written.

    Args:
      output_dir: folder of the run.

    Yields:
      Orbax's manager, for `save` and `restore_latest`.
    """
    folder = os.path.abspath(os.path.join(output_dir, FOLDER))
    options = ocp.CheckpointManagerOptions(max_to_keep=MAX_TO_KEEP, create=True)
    manager = ocp.CheckpointManager(folder, options=options)
    try:
        yield manager
    finally:
        manager.close()


def save(manager: ocp.CheckpointManager, state: TrainState, config: Config) -> None:
    """Starts to save a state under its step; returns when it has been copied.

    Args:
      manager: see `open_for_saving`.
      state: to save; may be donated or changed afterwards.
      config: of the run.
    """
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            variables=ocp.args.StandardSave(state.variables),
            training=ocp.args.StandardSave(
                {"step": state.step, "opt_state": state.opt_state}
            ),
            config=_config_item(config),
        ),
    )


def save_weights(
    output_dir: str, variables: dict[str, Any], step: int, config: Config
) -> None:
    """Writes parameters and running statistics alone, for `restore_weights`.

    Args:
      output_dir: folder to make, which may exist but hold no checkpoints.
      variables: "params" and "batch_stats".
      step: to save them under.
      config: whose network they are of.

    Raises:
      FileExistsError: there are checkpoints already.
    """
    if os.path.isdir(os.path.join(output_dir, FOLDER)):
        raise FileExistsError(
            f"{output_dir}: found a folder {FOLDER}, expected none to write over"
        )
    with open_for_saving(output_dir) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables), config=_config_item(config)
            ),
        )


def _config_item(config: Config) -> ocp.args.JsonSave:
    return ocp.args.JsonSave(
        {"version": ctjax.__version__, "config": ctjax_config.to_dict(config)}
    )


def restore_latest(
    manager: ocp.CheckpointManager, state: TrainState, config: Config
) -> TrainState | None:
    """Restores the newest checkpoint of a run.

    Args:
      manager: see `open_for_saving`.
      state: of the right structure; its values are not used.
      config: of the run.

    Returns:
      The state, or None where there is no checkpoint.

    Raises:
      CheckpointError: the checkpoint is of another network or optimizer.
    """
    step = manager.latest_step()
    if step is None:
        return None
    saved = _saved_config(manager, step)
    where = os.path.join(manager.directory, str(step))
    _compare(saved, config, where)
    rule = saved["mode"]["optimizer"]["name"]
    if rule != config.mode.optimizer.name.value:
        raise CheckpointError(
            f"{where}: its mode.optimizer.name is {rule}, expected "
            f"{config.mode.optimizer.name.value}; start in another output_dir, with "
            "mode.weights_location to keep the weights"
        )
    if not os.path.isdir(os.path.join(where, "training")):
        raise CheckpointError(
            f"{where}: weights alone, expected a checkpoint of training; start in "
            "another output_dir, with mode.weights_location to take these weights"
        )
    training = {"step": state.step, "opt_state": state.opt_state}
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            variables=ocp.args.StandardRestore(_abstract(state.variables)),
            training=ocp.args.StandardRestore(_abstract(training)),
        ),
    )
    variables, training = restored["variables"], restored["training"]
    return TrainState(
        step=training["step"],
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=training["opt_state"],
    )


def restore_weights(
    location: str, variables: dict[str, Any], config: Config
) -> tuple[dict[str, Any], int]:
    """Restores parameters and running statistics alone.

    Args:
      location: output_dir of a run, its checkpoints folder, or one step's folder.
      variables: of the right structure; their values are not used.
      config: of this run, for its network.

    Returns:
      The variables and the step at which they were saved.

    Raises:
      CheckpointError: there is no checkpoint, or one of another network.
    """
    with _open_existing(location) as (manager, step):
        where = os.path.join(manager.directory, str(step))
        _compare(_saved_config(manager, step), config, where)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(_abstract(variables))
            ),
        )
    return restored["variables"], step


def read_network(location: str) -> Network:
    """Reads which network a checkpoint is of.

    Args:
      location: see `restore_weights`.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    with _open_existing(location) as (manager, step):
        saved = _saved_config(manager, step)
    return ctjax_config.build(Network, saved["network"], "network.")


@contextlib.contextmanager
def _open_existing(location: str) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """The checkpoints of a location, and the step it names or else the last."""
    folder, step = _find(location)
    with ocp.CheckpointManager(folder) as manager:
        if step is None:
            step = manager.latest_step()
        if step is None or step not in manager.all_steps():
            raise CheckpointError(f"{location}: expected a checkpoint, found none")
        yield manager, step


def _find(location: str) -> tuple[str, int | None]:
    """Folder of the checkpoints and, where the location names one, the step."""
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


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _saved_config(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    where = os.path.join(manager.directory, str(step))
    try:
        restored = manager.restore(
            step, args=ocp.args.Composite(config=ocp.args.JsonRestore())
        )
        return restored["config"]["config"]
    except (KeyError, TypeError, FileNotFoundError, ValueError) as error:
        raise CheckpointError(f"{where}: not a checkpoint of ctjax") from error


def _compare(saved: dict[str, Any], config: Config, where: str) -> None:
    """Refuses a checkpoint of another network, naming the fields that differ."""
    ours = ctjax_config.to_dict(config.network)
    theirs = saved["network"]
    different = [
        f"network.{name} is {theirs.get(name)}, expected {ours[name]}"
        for name in ours
        if name not in _IRRELEVANT_FIELDS and theirs.get(name) != ours[name]
    ]
    if different:
        raise CheckpointError(
            f"{where}: checkpoint of another network: {'; '.join(different)}"
        )
