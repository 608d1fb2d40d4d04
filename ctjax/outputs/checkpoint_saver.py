"""Saves the states of a training while it goes on."""

import concurrent.futures
import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp

from ctjax.config.fields import Config
from ctjax.learning.state import TrainState
from ctjax.outputs import checksums, saved_config
from ctjax.outputs.saved_config import CheckpointError

logger = logging.getLogger("ctjax")

SCORE = "Average/mIoU"
"""By which the best checkpoint is kept, besides the last ones."""

MAX_FAILURES = 3
"""Saves that fail in a row before a training ends."""

# A full disk, a read-only one, a limit on the size of files and a missing folder were
# tried: Python's file calls raise OSError, tensorstore's ValueError.
STORAGE_ERRORS = (OSError, ValueError)


@dataclasses.dataclass
class Saver:
    """Saves the states of a run that is under way.

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
        self._checksums: concurrent.futures.Future | None = None
        self._saving: int | None = None
        self._failures_in_a_row = 0

    def save(self, state: TrainState, config: Config, score: float | None) -> None:
        """Starts to save a state under its step; returns when it has been copied.

        A disk that is full or read-only does not end a run at once: the failure is
        logged, and the older checkpoints stay.

        Args:
          state: to save; may be donated or changed afterwards.
          config: of the run.
          score: mean validation Average/mIoU since the last one; the best is kept.

        Raises:
          CheckpointError: `MAX_FAILURES` saves in a row have failed.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        self._finish()
        with self._noting_failure(step):
            self.manager.save(
                step,
                args=_arguments(state, config),
                metrics=None if score is None else {SCORE: score},
            )
            self._saving = step
        if self._failures_in_a_row >= MAX_FAILURES:
            raise CheckpointError(
                f"{self.failure}; {MAX_FAILURES} saves in a row have failed, expected "
                "a disk that takes them"
            )

    def wait(self) -> None:
        """Waits for what is being written; a failure is noted in `failure`."""
        self._finish()

    def close(self) -> None:
        """Waits for what is being written; a failure is noted."""
        last = self._saving
        try:
            self._finish()
            with self._noting_failure(last):
                self.manager.close()
        finally:
            self._thread.shutdown()
        self._check_checksums()

    def _finish(self) -> None:
        """Waits for the last save; its checksums are taken while the run goes on."""
        step, self._saving = self._saving, None
        if step is None:
            return
        with self._noting_failure(step):
            self.manager.wait_until_finished()
            self.failure, self._failures_in_a_row = None, 0
            if self.is_first:
                self._check_checksums()
                self._checksums = self._thread.submit(
                    checksums.write_checksums, self.folder, step
                )

    def _check_checksums(self) -> None:
        """Raises what the last checksums have raised, which can only be a defect."""
        if self._checksums is not None:
            self._checksums.result()

    @contextlib.contextmanager
    def _noting_failure(self, step: int | None) -> Iterator[None]:
        """Logs and counts what a full disk and its like raise, and goes on."""
        try:
            yield
        except STORAGE_ERRORS as error:
            words = " ".join(str(error).split())[:500]
            self.failure = f"step {step} could not be saved to {self.folder}: {words}"
            self._failures_in_a_row += 1
            logger.error("%s; older checkpoints stay", self.failure)


def _arguments(state: TrainState, config: Config) -> ocp.args.Composite:
    """Returns the three items of a checkpoint."""
    return ocp.args.Composite(
        variables=ocp.args.StandardSave(state.variables),
        training=ocp.args.StandardSave(training_item(state)),
        config=ocp.args.JsonSave(saved_config.to_item(config)),
    )


def training_item(state: TrainState) -> dict[str, Any]:
    """Returns what a checkpoint holds of a state besides the network's variables."""
    return {
        "step": state.step,
        "opt_state": state.opt_state,
        "loss_scale": dataclasses.asdict(state.loss_scale),
    }
