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

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from ctjax.config.architecture import AnyNetwork
from ctjax.config.detectors import read_detector
from ctjax.config.fields import Config
from ctjax.learning.precision import LossScale
from ctjax.learning.state import TrainState
from ctjax.models import other_heads
from ctjax.outputs import checksums, saved_config, saved_tensors
from ctjax.outputs.checkpoint_saver import SCORE, Saver, training_item
from ctjax.outputs.plain_names import plain_name
from ctjax.outputs.saved_config import (
    FOLDER,
    TRAINING,
    CheckpointError,
    DamagedError,
    SavedConfig,
)
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes

MAX_TO_KEEP = 5  # as CosmicTagger

logger = logging.getLogger("ctjax")


def save_weights(
    output_dir: str, variables: dict[str, Any], step: int, config: Config
) -> None:
    """Writes and seals parameters and running statistics, for `restore_weights`.

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
    os.makedirs(folder)
    with (
        plain_name(folder, is_written=True) as name,
        ocp.CheckpointManager(name) as manager,
    ):
        manager.save(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(variables),
                config=ocp.args.JsonSave(saved_config.to_item(config)),
            ),
        )
    checksums.write_checksums(folder, step)


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
    os.makedirs(folder, exist_ok=True)
    with plain_name(folder, is_written=True) as name:
        manager = _open_manager(name, options)
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
      CheckpointError: the checkpoint is of another network, optimizer or kind of
        images, or all are damaged.
      DistributedError: another process sees other checkpoints.
    """
    steps = sorted(saver.manager.all_steps(), reverse=True)
    if processes.count > 1:
        name = os.path.join(config.output_dir, FOLDER)
        found = checksums.describe(name, saver.folder, max(steps, default=None))
        join.check_alike({f"steps in {name}": steps} | found)
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
        # By all processes: orbax has them wait for each other.
        saved = _saved_config(saver.manager, step)
        if processes.is_first:
            for line in saved_config.describe_changes(saved, config):
                logger.warning("Another run than up to step %d: %s", step, line)
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
    if not os.path.isdir(os.path.join(where, TRAINING)):
        raise CheckpointError(
            f"{where}: weights alone, expected a checkpoint of training; start in "
            "another output_dir, with mode.weights_location to take these weights"
        )
    saved_config.check_images(saved, config, where)
    difference = saved_tensors.find_difference(
        manager, step, state.variables, read_detector(config.data), saved
    )
    if difference is not None:
        raise CheckpointError(
            f"{where}: {difference.line}; start in another output_dir, with "
            "mode.weights_location to take what fits of the weights"
        )
    try:
        saved_tensors.check_shapes(manager, step, state.variables)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(
                    saved_tensors.abstract(state.variables)
                ),
                training=ocp.args.StandardRestore(
                    saved_tensors.abstract(training_item(state))
                ),
            ),
        )
    except Exception as error:  # of any kind, from orbax, tensorstore and zarr
        words = " ".join(str(error).split())[:300]
        raise DamagedError(f"{where}: {words}") from error
    variables, training = restored["variables"], restored["training"]
    saved_tensors.check_finite(variables, where)
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
    location: str,
    variables: dict[str, Any],
    config: Config,
    processes: Processes = SINGLE_PROCESS,
    is_for_training: bool = False,
) -> tuple[dict[str, Any], int]:
    """Restores parameters and running statistics alone.

    Args:
      location: output_dir of a run, its checkpoints folder, or one step's folder.
      variables: of the right structure.
      config: of this run, for its network, its planes and classes and its images.
      processes: of the run, all of which restore.
      is_for_training: whether the last layer of `variables` stays where the checkpoint
        is of another number of classes, and a head that it lacks.

    Returns:
      The variables and the step at which they were saved.

    Raises:
      CheckpointError: there is no checkpoint, one of another network, one trained with
        other images, a damaged one or one whose numbers are not all finite; an older
        one is not taken unasked.
      DistributedError: another process sees another checkpoint.
    """
    if processes.count > 1:
        join.check_alike(checksums.describe(location, *saved_config.find(location)))
    with _open_existing(location) as (manager, step):
        where = os.path.join(manager.directory, str(step))
        if checksums.find_damage(str(manager.directory), step):
            raise _damaged(where, "other bytes than were saved")
        saved = _saved_config(manager, step)
        saved_config.check_network(saved, config.network, where, True)
        if os.path.isdir(os.path.join(where, TRAINING)):
            saved_config.check_images(saved, config, where)
        detector = read_detector(config.data)
        heads = saved_tensors.find_heads(manager, step, variables)
        if heads.lacking and not is_for_training:
            raise CheckpointError(f"{where}: {other_heads.refusal(heads)}")
        difference = saved_tensors.find_difference(
            manager, step, variables, detector, saved, heads
        )
        is_replaced = difference is not None and difference.is_of_last_layer
        if difference and not (is_replaced and is_for_training):
            raise CheckpointError(f"{where}: {difference.line}")
        if processes.is_first:
            saved_tensors.log_classes(where, saved, detector, difference)
            other_heads.log(where, heads)
        try:
            taken = manager, step, variables, is_replaced, heads
            restored = saved_tensors.restore(*taken)
        except Exception as error:  # of any kind, from orbax, tensorstore and zarr
            raise _damaged(where, " ".join(str(error).split())[:300]) from error
    saved_tensors.check_finite(restored, where)
    return restored, step


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
    return read_config(location)[0].network


def read_config(location: str) -> tuple[SavedConfig, bool]:
    """Reads what a checkpoint says of itself.

    Args:
      location: see `restore_weights`.

    Returns:
      It, and whether the checkpoint is of a training: weights alone do not know the
      images they were trained with.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    with _open_existing(location) as (manager, step):
        folder = os.path.join(manager.directory, str(step), TRAINING)
        return _saved_config(manager, step), os.path.isdir(folder)


@contextlib.contextmanager
def _open_existing(location: str) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """Opens the checkpoints of a location; yields the step it names, else the last."""
    folder, step = saved_config.find(location)
    with (
        plain_name(folder, is_written=False) as name,
        _open_manager(name) as manager,
    ):
        if step is None:
            step = manager.latest_step()
        if step is None or step not in manager.all_steps():
            raise CheckpointError(f"{location}: expected a checkpoint, found none")
        yield manager, step


def _open_manager(
    folder: str, options: ocp.CheckpointManagerOptions | None = None
) -> ocp.CheckpointManager:
    """Returns orbax's manager of a folder, which reads what the checkpoints say."""
    try:
        return ocp.CheckpointManager(folder, options=options)
    except OSError:
        raise
    except Exception as error:  # of any kind, where what it reads is damaged
        words = " ".join(str(error).split())[:300]
        raise DamagedError(
            f"{folder}: checkpoints that cannot be read ({type(error).__name__}: "
            f"{words})"
        ) from error


def _saved_config(manager: ocp.CheckpointManager, step: int) -> SavedConfig:
    """Reads what a checkpoint says of itself."""
    where = os.path.join(manager.directory, str(step))
    try:
        restored = manager.restore(
            step, args=ocp.args.Composite(config=ocp.args.JsonRestore())
        )
        item = restored["config"]
    except Exception as error:  # of any kind, as above
        raise DamagedError(
            f"{where}: not a checkpoint of ctjax, or a damaged one"
        ) from error
    return saved_config.from_item(item, where)
