"""Writes the duration of every step."""

import logging
import os
import time

import numpy as np

logger = logging.getLogger("ctjax")

TIMING_TYPE = np.dtype(
    [("iteration", np.int64), ("wait_s", np.float64), ("step_s", np.float64)]
)
"""One step: its number, seconds waited for reading, seconds in all."""


class StepTimings:
    """Measures one step after the other, each from the end of the one before."""

    def __init__(self, most: int):
        """Takes the largest number of steps; the first step begins now."""
        self._rows = np.zeros(most, TIMING_TYPE)
        self._count = 0
        self._last_end = time.perf_counter()

    @property
    def done(self) -> np.ndarray:
        """Returns the steps that have ended, [N] of `TIMING_TYPE`."""
        return self._rows[: self._count]

    def end_step(self, step: int, wait_s: float) -> float:
        """Notes that a step ends now.

        Args:
          step: its number.
          wait_s: seconds that it waited for reading.

        Returns:
          Seconds of the step.
        """
        now = time.perf_counter()
        step_s = now - self._last_end
        self._rows[self._count] = step, wait_s, step_s
        self._count, self._last_end = self._count + 1, now
        return step_s


def save_timings(output_dir: str, name: str, timings: np.ndarray) -> None:
    """Writes `profiles/<name>_timings.npy`.

    Args:
      output_dir: of the run.
      name: of the mode.
      timings: [N] of `TIMING_TYPE`.
    """
    folder = os.path.join(output_dir, "profiles")
    os.makedirs(folder, exist_ok=True)
    np.save(os.path.join(folder, f"{name}_timings.npy"), timings)
