"""Writes the duration of every step."""

import contextlib
import os
import time
from collections.abc import Iterator

import numpy as np

TIMING_TYPE = np.dtype(
    [
        ("iteration", np.int64),
        ("wait_s", np.float64),
        ("step_s", np.float64),
        ("start_up_s", np.float64),
        ("images", np.int64),
        ("begin_s", np.float64),
    ]
)
"""One step: its number, seconds waited for reading, seconds in all but for those of the
start-up before it (compilation), these, events in it, and when it began (Unix time)."""

RANK_TYPE = np.dtype(
    [
        ("i", np.int32),
        ("start", "datetime64[us]"),
        ("iteration", "timedelta64[us]"),
        ("io", "timedelta64[us]"),
    ]
)
"""The same in CosmicTagger's names (src/utils/core/trainercore.py), of one process. Its
other columns are parts of a step that one compiled program does here."""


class StepTimings:
    """Measures one step after the other, each from the end of the one before."""

    def __init__(self, most: int):
        """Takes the largest number of steps; the first step begins now."""
        self._rows = np.zeros(most, TIMING_TYPE)
        self._count = 0
        self._start_up_s = self._wait_s = 0.0
        self._last_end = time.perf_counter()
        self._to_unix_s = time.time() - self._last_end

    @property
    def done(self) -> np.ndarray:
        """Returns the steps that have ended, [N] of `TIMING_TYPE`."""
        return self._rows[: self._count]

    @contextlib.contextmanager
    def start_up(self) -> Iterator[None]:
        """Leaves the time of the block out of the step under way: it is start-up."""
        before = time.perf_counter()
        yield
        self._start_up_s += time.perf_counter() - before

    def add_wait(self, wait_s: float) -> None:
        """Notes seconds of the step under way that were waited for reading.

        Where the next minibatch is fetched before a step ends, they are its own.
        """
        self._wait_s += wait_s

    def end_step(self, step: int, images: int) -> tuple[float, float]:
        """Notes that a step ends now.

        Args:
          step: its number.
          images: events in it, in all processes; empty places do not count.

        Returns:
          Seconds waited for reading since the step before, and those of the step,
          without those of the start-up.
        """
        now = time.perf_counter()
        start_up_s, self._start_up_s = self._start_up_s, 0.0
        wait_s, self._wait_s = self._wait_s, 0.0
        step_s = now - self._last_end - start_up_s
        begin_s = self._to_unix_s + self._last_end
        row = step, wait_s, step_s, start_up_s, images, begin_s
        self._rows[self._count] = row
        self._count, self._last_end = self._count + 1, now
        return wait_s, step_s


def find_rates(timings: np.ndarray, skipped: int = 1) -> dict[str, float | int]:
    """Returns images per second over the steps of a run.

    Args:
      timings: [N] of `TIMING_TYPE`.
      skipped: first steps that are left out, where there are others.

    Returns:
      "steps" that count, "mean", which is all images by all seconds of these, and
      "median" of the steps' own rates; empty without any step.
    """
    counted = timings[skipped:] if len(timings) > skipped else timings
    if not len(counted):
        return {}
    images, step_s = counted["images"], counted["step_s"]
    return {
        "steps": len(counted),
        "mean": float(images.sum() / step_s.sum()),
        "median": float(np.median(images / step_s)),
    }


def save_timings(output_dir: str, name: str, timings: np.ndarray) -> None:
    """Writes `profiles/<name>_timings.npy`.

    Args:
      output_dir: of the run.
      name: of the mode.
      timings: [N] of `TIMING_TYPE`.
    """
    np.save(os.path.join(_folder(output_dir), f"{name}_timings.npy"), timings)


def save_rank_timings(output_dir: str, rank: int, timings: np.ndarray) -> None:
    """Writes one process's `profiles/profiling_info_rank_<rank>.npy`, of `RANK_TYPE`.

    Args:
      output_dir: of the run.
      rank: of the process.
      timings: [N] of `TIMING_TYPE`.
    """
    rows = np.zeros(len(timings), RANK_TYPE)
    rows["i"] = timings["iteration"]
    for theirs, ours, kind in (
        ("start", "begin_s", "datetime64[us]"),
        ("iteration", "step_s", "timedelta64[us]"),
        ("io", "wait_s", "timedelta64[us]"),
    ):
        rows[theirs] = np.rint(1e6 * timings[ours]).astype(np.int64).astype(kind)
    path = os.path.join(_folder(output_dir), f"profiling_info_rank_{rank}.npy")
    np.save(path, rows)


def _folder(output_dir: str) -> str:
    folder = os.path.join(output_dir, "profiles")
    os.makedirs(folder, exist_ok=True)
    return folder
