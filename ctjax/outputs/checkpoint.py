"""Opens checkpoints of orbax, each with the configuration it was made with.

A checkpoint holds three items: "variables" (parameters and running statistics),
"training" (step, optimizer state, scale of the loss) and "config". Weights alone can
therefore be restored by a run with another optimizer.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ctjax.config.architecture import AnyNetwork
from ctjax.config.fields import Config
from ctjax.learning.precision import LossScale
from ctjax.learning.state import TrainState
from ctjax.outputs import checksums, saved_config
from ctjax.outputs.checkpoint_saver import SCORE, Saver, training_item
from ctjax.outputs.saved_config import CheckpointError, DamagedError, SavedConfig
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes

MAX_TO_KEEP = 5  # as CosmicTagger
FOLDER = "checkpoints"
logger = logging.getLogger("ctjax")


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
    folder = os.path.abspath(os.path.join(output_dir, FOLDER))
    if os.path.isdir(folder):
        raise FileExistsError(
            f"{output_dir}: found a folder {FOLDER}, expected none to write over"
        )
    with ocp.CheckpointManager(folder) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables),
                config=ocp.args.JsonSave(saved_config.to_item(config)),
            ),
        )


@contextlib.contextmanager
def open_for_saving(
    output_dir: str, processes: Processes = SINGLE_PROCESS
) -> Iterator[Saver]:
    """Opens the checkpoints of a run; on leaving, waits for what is being written.

    Args:
      output_dir: folder of the run.
      processes: of the run.

    Yields:
      The saver; `restore_latest` takes it, too.
    """
    folder = os.path.abspath(os.path.join(output_dir, FOLDER))
    options = ocp.CheckpointManagerOptions(
        create=True,
        # Else a folder that cannot be made leaves threads that wait for it for minutes.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        preservation_policy=preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(MAX_TO_KEEP),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[SCORE],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        ),
    )
    manager = ocp.CheckpointManager(folder, options=options)
    saver = Saver(folder, manager, processes.is_first)
    try:
        yield saver
    finally:
        saver.close()


def restore_latest(
    saver: Saver,
    state: TrainState,
    config: Config,
    processes: Processes = SINGLE_PROCESS,
) -> TrainState | None:
    """Restores the newest checkpoint of a run that is whole.

    Damaged ones after it are put aside, to `checkpoints_damaged`.

    Args:
      saver: see `open_for_saving`.
      state: of the right structure; its values are not used.
      config: of the run.
      processes: of the run.

    Returns:
      The state, or None where there is no checkpoint.

    Raises:
      CheckpointError: the checkpoint is of another network or optimizer, or all are
        damaged.
    """
    steps = sorted(saver.manager.all_steps(), reverse=True)
    damaged = []
    for step in steps:
        try:
            if _find_damage(saver.folder, step, processes):
                raise DamagedError(f"{saver.folder}/{step}: other bytes than saved")
            restored = _restore_step(saver.manager, step, state, config)
        except DamagedError as error:
            logger.error("Damaged checkpoint: %s", error)
            damaged.append(step)
            continue
        if processes.is_first:
            for bad in damaged:
                _put_aside(saver.folder, bad)
        if damaged:
            if processes.count > 1:
                join.wait_for_all("damaged checkpoints")
            saver.manager.reload()
        return restored
    if damaged:
        raise CheckpointError(
            f"{saver.folder}: all {len(damaged)} checkpoints are damaged; expected one "
            "that is whole, or another output_dir to start from scratch"
        )
    return None


def _find_damage(folder: str, step: int, processes: Processes) -> bool:
    """Says whether files are not as they were saved; the first process looks."""
    is_damaged = processes.is_first and checksums.find_damage(folder, step)
    if processes.count == 1:
        return is_damaged
    return bool(join.gather(np.asarray(is_damaged))[0])


def _put_aside(folder: str, step: int) -> None:
    """Moves a checkpoint out of the way, under a name that is free."""
    aside = f"{folder}_damaged"
    os.makedirs(aside, exist_ok=True)
    name, count = str(step), 0
    while os.path.exists(os.path.join(aside, name)):
        count += 1
        name = f"{step}-{count}"
    os.rename(os.path.join(folder, str(step)), os.path.join(aside, name))


def _restore_step(
    manager: ocp.CheckpointManager, step: int, state: TrainState, config: Config
) -> TrainState:
    """Restores one checkpoint of a training, or says what is wrong with it."""
    where = os.path.join(manager.directory, str(step))
    saved = _saved_config(manager, step)
    saved_config.check_network(saved, config.network, where)
    if saved.optimizer != config.mode.optimizer.name.value:
        raise CheckpointError(
            f"{where}: its mode.optimizer.name is {saved.optimizer}, expected "
            f"{config.mode.optimizer.name.value}; start in another output_dir, with "
            "mode.weights_location to keep the weights"
        )
    if not os.path.isdir(os.path.join(where, "training")):
        raise CheckpointError(
            f"{where}: weights alone, expected a checkpoint of training; start in "
            "another output_dir, with mode.weights_location to take these weights"
        )
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(_abstract(state.variables)),
                training=ocp.args.StandardRestore(_abstract(training_item(state))),
            ),
        )
    except Exception as error:  # of any kind, from orbax, tensorstore and zarr
        words = " ".join(str(error).split())[:300]
        raise DamagedError(f"{where}: {words}") from error
    variables, training = restored["variables"], restored["training"]
    # A run that goes on in another number format starts with a scale of its own.
    is_same = saved.precision == config.run.precision.value
    loss_scale = LossScale(**training["loss_scale"]) if is_same else state.loss_scale
    return TrainState(
        step=training["step"],
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=training["opt_state"],
        loss_scale=loss_scale,
        halted=state.halted,
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
      CheckpointError: there is no checkpoint, one of another network, or a damaged
        one; an older one is not taken unasked.
    """
    with _open_existing(location) as (manager, step):
        where = os.path.join(manager.directory, str(step))
        if checksums.find_damage(str(manager.directory), step):
            raise _damaged(where, "other bytes than were saved")
        saved = _saved_config(manager, step)
        saved_config.check_network(saved, config.network, where)
        try:
            restored = manager.restore(
                step,
                args=ocp.args.Composite(
                    variables=ocp.args.StandardRestore(_abstract(variables))
                ),
            )
        except Exception as error:  # of any kind, from orbax, tensorstore and zarr
            raise _damaged(where, " ".join(str(error).split())[:300]) from error
    return restored["variables"], step


def _damaged(where: str, words: str) -> DamagedError:
    """Returns an error that says how to take an older checkpoint."""
    return DamagedError(
        f"{where}: damaged ({words}); mode.weights_location may name the folder of an "
        "older step"
    )


def read_network(location: str) -> AnyNetwork:
    """Reads which network a checkpoint is of.

    Args:
      location: see `restore_weights`.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    with _open_existing(location) as (manager, step):
        return _saved_config(manager, step).network


@contextlib.contextmanager
def _open_existing(location: str) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """Opens the checkpoints of a location; yields the step it names, else the last."""
    folder, step = _find(location)
    with ocp.CheckpointManager(folder) as manager:
        if step is None:
            step = manager.latest_step()
        if step is None or step not in manager.all_steps():
            raise CheckpointError(f"{location}: expected a checkpoint, found none")
        yield manager, step


def _find(location: str) -> tuple[str, int | None]:
    """Returns the folder of the checkpoints and the step, if the location names one."""
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
    """Returns shapes, types and shardings in place of arrays."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _saved_config(manager: ocp.CheckpointManager, step: int) -> SavedConfig:
    """Reads what a checkpoint says of itself."""
    where = os.path.join(manager.directory, str(step))
    try:
        restored = manager.restore(
            step, args=ocp.args.Composite(config=ocp.args.JsonRestore())
        )
        item = restored["config"]
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise DamagedError(
            f"{where}: not a checkpoint of ctjax, or a damaged one"
        ) from error
    return saved_config.from_item(item, where)
