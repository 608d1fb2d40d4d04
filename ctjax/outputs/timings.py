"""Writes the duration of every step."""

import logging
import os

import numpy as np

logger = logging.getLogger("ctjax")

TIMING_TYPE = np.dtype(
    [("iteration", np.int64), ("wait_s", np.float64), ("step_s", np.float64)]
)
"""One step: its number, seconds waited for reading, seconds in all."""


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
