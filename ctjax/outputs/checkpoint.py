"""Checkpoints by orbax, each with the configuration it was made with.

A checkpoint holds three items: "variables" (parameters and running statistics),
"training" (step, optimizer state, scale of the loss) and "config". Weights alone can
therefore be restored by a run with another optimizer.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

import ctjax
from ctjax.base.errors import UserError
from ctjax.config import fields, resolve
from ctjax.config.fields import Config, Network
from ctjax.learning.precision import LossScale
from ctjax.learning.state import TrainState
from ctjax.outputs import checksums
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes

MAX_TO_KEEP = 5  # as CosmicTagger
FOLDER = "checkpoints"
SCORE = "Average/mIoU"
"""By which the best checkpoint is kept, besides the last ones."""

logger = logging.getLogger("ctjax")

# What may differ between a checkpoint and the network that takes its weights.
_IRRELEVANT_FIELDS = ("name", "weight_decay", "sync_batch_norm", "kernels")


class CheckpointError(UserError):
    """No checkpoint, or one that does not fit; the message names the folder."""


class _DamagedError(CheckpointError):
    """A checkpoint that cannot be read."""


@dataclasses.dataclass
class Saver:
    """The checkpoints of a run that is under way.

    Attributes:
      folder: that holds them.
      manager: orbax's.
      is_first: whether this is the first process, which takes the checksums.
      failure: words about the last save if it failed, else None.
    """

    folder: str
    manager: ocp.CheckpointManager
    is_first: bool
    failure: str | None = None

    def __post_init__(self):
        """Starts the thread that takes checksums."""
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "ctjax-checksums")
        self._saving: int | None = None

    def save(self, state: TrainState, config: Config, score: float | None) -> None:
        """Starts to save a state under its step; returns when it has been copied.

        A disk that is full or read-only ends nothing: the failure is logged, and the
        older checkpoints stay.

        Args:
          state: to save; may be donated or changed afterwards.
          config: of the run.
          score: mean validation Average/mIoU since the last one; the best is kept.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        with self._loudly(self._saving):
            self._finish()
        with self._loudly(step):
            self.manager.save(
                step,
                args=_arguments(state, config),
                metrics=None if score is None else {SCORE: score},
            )
            self._saving = step

    def close(self) -> None:
        """Waits for what is being written."""
        with self._loudly(self._saving):
            self._finish()
        self._thread.shutdown()
        self.manager.close()

    def _finish(self) -> None:
        """Waits for the last save; its checksums are taken while the run goes on."""
        step, self._saving = self._saving, None
        if step is None:
            return
        self.manager.wait_until_finished()
        self.failure = None
        if self.is_first:
            self._thread.submit(checksums.write_checksums, self.folder, step)

    @contextlib.contextmanager
    def _loudly(self, step: int | None) -> Iterator[None]:
        """Logs what a full disk and its like raise, and goes on."""
        try:
            yield
        except Exception as error:
            # Orbax and tensorstore raise OSError, ValueError and RuntimeError here.
            words = " ".join(str(error).split())[:500]
            self.failure = f"step {step} could not be saved to {self.folder}: {words}"
            logger.error("%s; older checkpoints stay", self.failure)


def _arguments(state: TrainState, config: Config) -> ocp.args.Composite:
    return ocp.args.Composite(
        variables=ocp.args.StandardSave(state.variables),
        training=ocp.args.StandardSave(_training(state)),
        config=_config_item(config),
    )


def _training(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "opt_state": state.opt_state,
        "loss_scale": dataclasses.asdict(state.loss_scale),
    }


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
                variables=ocp.args.StandardSave(variables), config=_config_item(config)
            ),
        )


def _config_item(config: Config) -> ocp.args.JsonSave:
    return ocp.args.JsonSave(
        {"version": ctjax.__version__, "config": fields.to_dict(config)}
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
                raise _DamagedError(f"{saver.folder}/{step}: other bytes than saved")
            restored = _restore_step(saver.manager, step, state, config)
        except _DamagedError as error:
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
    """Whether files are not as they were saved; the first process looks for all."""
    is_damaged = processes.is_first and checksums.find_damage(folder, step)
    if processes.count == 1:
        return is_damaged
    return bool(join.gather(np.asarray(is_damaged))[0])


def _put_aside(folder: str, step: int) -> None:
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
    where = os.path.join(manager.directory, str(step))
    saved = _saved_config(manager, step)
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
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                variables=ocp.args.StandardRestore(_abstract(state.variables)),
                training=ocp.args.StandardRestore(_abstract(_training(state))),
            ),
        )
    except Exception as error:  # of any kind, from orbax, tensorstore and zarr
        words = " ".join(str(error).split())[:300]
        raise _DamagedError(f"{where}: {words}") from error
    variables, training = restored["variables"], restored["training"]
    # A run that goes on in another number format starts with a scale of its own.
    is_same = saved["run"]["precision"] == config.run.precision.value
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
        _compare(_saved_config(manager, step), config, where)
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


def _damaged(where: str, words: str) -> _DamagedError:
    return _DamagedError(
        f"{where}: damaged ({words}); mode.weights_location may name the folder of an "
        "older step"
    )


def read_network(location: str) -> Network:
    """Reads which network a checkpoint is of.

    Args:
      location: see `restore_weights`.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    with _open_existing(location) as (manager, step):
        saved = _saved_config(manager, step)
    return resolve.build(Network, saved["network"], "network.")


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
    except (KeyError, TypeError, OSError, ValueError) as error:
        raise _DamagedError(
            f"{where}: not a checkpoint of ctjax, or a damaged one"
        ) from error


def _compare(saved: dict[str, Any], config: Config, where: str) -> None:
    """Refuses a checkpoint of another network, naming the fields that differ."""
    ours = fields.to_dict(config.network)
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
