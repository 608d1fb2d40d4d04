"""What a run leaves behind: log, tables of metrics, summaries, timings. No jax here."""

import contextlib
import csv
import importlib.metadata
import io
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import ctjax
from ctjax import config as ctjax_config
from ctjax.config import Config, Mode

logger = logging.getLogger("ctjax")

LOG_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"

TIMING_TYPE = np.dtype(
    [("iteration", np.int64), ("wait_s", np.float64), ("step_s", np.float64)]
)
"""One step: its number, seconds waited for reading, seconds in all."""


def start_logging(output_dir: str, process: int = 0) -> None:
    """Sends the log to the terminal and to `process.log`, after what is there.

    Args:
      output_dir: of the run; made where absent.
      process: number of this one; all but the first show their warnings alone, on the
        terminal.
    """
    stop_logging()
    logging.raiseExceptions = False  # a full disk is told by what matters more
    formatter = logging.Formatter(LOG_FORMAT)
    handlers: list[logging.Handler] = [_StdoutHandler()]
    if process == 0:
        os.makedirs(output_dir, exist_ok=True)
        path = os.path.join(output_dir, "process.log")
        handlers.append(logging.FileHandler(path))
    else:
        formatter = logging.Formatter(f"rank {process}: {LOG_FORMAT}")
        handlers[0].setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _StdoutHandler(logging.StreamHandler):
    """Writes to what sys.stdout is now: a bar of progress takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        self.stream = sys.stdout
        super().emit(record)


def stop_logging() -> None:
    """Closes what `start_logging` opened."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


def save_config(config: Config) -> None:
    """Writes `<mode>_config.json`: configuration, versions and machine of a run.

    Args:
      config: of the run; its output folder exists.
    """
    record = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("ctjax", "jax", "flax", "optax")},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "config": ctjax_config.to_dict(config),
    }
    name = f"{config.mode.name.value}_config.json"
    with open(os.path.join(config.output_dir, name), "w") as file:
        json.dump(record, file, indent=1)


def _version(package: str) -> str:
    if package == "ctjax":
        return ctjax.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """The processor's own name where Linux tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


LAUNCHED_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "SLURM_PROCID",
)
"""Where launchers write the rank; some give each rank what looks like a terminal."""


@contextlib.contextmanager
def progress(
    kind: str, done: int, total: int, images_per_step: int
) -> Iterator[Callable[[int], None]]:
    """Shows a bar with images per second and the time left, on a terminal only.

    Lines of the log go on above it. In a file, a pipe or under mpirun they are all.

    Args:
      kind: what is under way.
      done: steps done before.
      total: steps in the end.
      images_per_step: events of a step.

    Yields:
      A function to be called with the number of steps done.
    """
    is_launched = any(name in os.environ for name in LAUNCHED_VARIABLES)
    if is_launched or not sys.stdout.isatty():
        yield lambda now_done: None
        return
    from rich import console, progress  # not for those who see no bar

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("left"),
    )
    screen = console.Console(file=sys.stdout, highlight=False)
    with progress.Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(kind, total=total, completed=done, rate="")

        def advance(now_done: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed * images_per_step:.3g} images/s" if speed else ""
            bar.update(task, completed=now_done, rate=rate)

        yield advance


class MetricsTable:
    """A CSV file with a row a step, written row by row.

    Attributes:
      path: of the file.
    """

    def __init__(self, path: str, columns: Sequence[str], before: int | None = None):
        """Opens the file.

        Args:
          path: of the file.
          columns: names; the first holds the step or the entry.
          before: keep the rows of a former run whose first column is less; None
            begins anew.
        """
        self.path = path
        kept = [] if before is None else _rows_before(path, columns, before)
        # Written beside and renamed, so that no interruption loses the old rows.
        with open(f"{path}.partial", "w", newline="") as file:
            csv.writer(file).writerows([list(columns), *kept])
        os.replace(f"{path}.partial", path)
        self._file = open(path, "ab", buffering=0)
        self._waiting = b""
        self._has_failed = False

    def write(self, values: Sequence[Any]) -> None:
        """Appends a row; floats keep seven digits.

        Rows that a full disk does not take wait in memory for the next attempt.
        """
        text = io.StringIO()
        row = [f"{v:.7g}" if isinstance(v, float) else v for v in values]
        csv.writer(text).writerow(row)
        self._waiting += text.getvalue().encode()
        self._flush()

    def close(self) -> None:
        """Closes the file."""
        self._flush()
        if self._waiting:
            rows = self._waiting.count(b"\n")
            logger.error("%s: the last %d rows are not written", self.path, rows)
        self._file.close()

    def _flush(self) -> None:
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._waiting = self._waiting[written:]
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                logger.error("%s: rows wait in memory: %s", self.path, error)
            self._has_failed = True


def _rows_before(path: str, columns: Sequence[str], before: int) -> list[list[str]]:
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != list(columns):
        return []
    # The last row of a run that was killed may be cut.
    return [
        row
        for row in rows[1:]
        if len(row) == len(columns) and row[0].isdigit() and int(row[0]) < before
    ]


def open_summary(output_dir: str, name: str, start: int) -> Any:
    """Opens TensorBoard's writer of a folder.

    Args:
      output_dir: of the run.
      name: of the folder in it, a run of TensorBoard's.
      start: first step to be written; later ones of a former run are purged.
    """
    from tensorboardX import SummaryWriter  # slow to import, and not for iotest

    summary = SummaryWriter(os.path.join(output_dir, name), purge_step=start or None)
    # Its thread would end at the first error, and whoever adds to its queue then waits
    # for ever.
    writer: Any = summary.file_writer
    file = writer.event_writer._ev_writer
    for method in ("write_event", "flush", "close"):
        setattr(file, method, _without_disk_errors(getattr(file, method), name))
    return summary


def _without_disk_errors(method: Callable, name: str) -> Callable:
    """The method of a writer, whose first OSError is logged and the others dropped."""
    failed: list[OSError] = []

    def attempt(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            if not failed:
                logger.error("TensorBoard's %s: summaries are lost: %s", name, error)
            failed.append(error)

    return attempt


def pixel_rules(mode: Mode) -> str:
    """Says what a run does with the pixels without charge; every report names it."""
    prediction = "background" if mode.mask_empty_pixels else "as the network has it"
    only = mode.optimizer.loss_charged_pixels_only
    return (
        f"Pixels without charge: predicted {prediction} "
        f"(mode.mask_empty_pixels={mode.mask_empty_pixels}), "
        f"{'not ' if only else ''}in the loss "
        f"(mode.optimizer.loss_charged_pixels_only={only})"
    )


LOGGED_METRICS = ("Average/Non_Bkg_Accuracy", "Average/mIoU")


def shown_metrics(named: Mapping[str, float]) -> dict[str, float]:
    """Picks the metrics that a line of the log shows."""
    return {name: named[name] for name in LOGGED_METRICS if name in named}


def rate(num_images: int, wait_s: float, step_s: float) -> str:
    """Formats the speed of a step: images per second, seconds of IO, seconds."""
    return f"{num_images / step_s:.3g} Img/s / {wait_s:.2g} IO s / {step_s:.2g} step s"


def log_step(
    kind: str, step: int, values: Mapping[str, float], speed: str | None = None
) -> None:
    """Writes a step's line: its values, and its speed where given."""
    line = ", ".join(f"{name}: {value:.4g}" for name, value in values.items())
    suffix = f" ({speed})" if speed else ""
    logger.info("%s Step %d metrics: %s%s", kind, step, line, suffix)


def log_totals(step_s: np.ndarray, images_per_step: float) -> None:
    """Writes the four closing lines of the competition's guide.

    Args:
      step_s: [N], seconds of each step, compilation in the first.
      images_per_step: events of a step.
    """
    logger.info("Total time to batch_process: %.4f", step_s.sum())
    for skipped, words in (
        (1, "except first iteration"),
        (2, "except first two iterations"),
        (len(step_s) - 40, "last 40 iterations"),
    ):
        rest = step_s[skipped:]
        if skipped > 0 and len(rest):
            total = rest.sum()
            logger.info(
                "Total time to batch process %s: %.4f, throughput: %.4f",
                words,
                total,
                len(rest) * images_per_step / total,
            )


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
