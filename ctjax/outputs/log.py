"""Writes the log of a run, to the terminal and to `process.log`."""

import logging
import os
import shlex
import sys
from collections.abc import Mapping

import numpy as np

from ctjax.config.fields import Mode
from ctjax.config.heads import EVENT_LABEL, TOTAL_LOSS, VERTEX_METRICS

logger = logging.getLogger("ctjax")

LOG_FORMAT = "%(asctime)s - %(levelname)s - %(message)s"

_opened: list[logging.Handler] = []
"""Handlers of the run under way."""

_levels: list[int] = []
"""The logger's level before that run."""


def start_logging(output_dir: str, process: int = 0, on_terminal: bool = True) -> None:
    """Sends the log to the terminal and to `process.log`, after what is there.

    Args:
      output_dir: of the run; made where absent.
      process: number of this one; all but the first show their warnings alone, on the
        terminal.
      on_terminal: whether this program is ctjax's own. In another one that program
        decides what is shown, and gets what it gets without a `process.log`.
    """
    stop_logging()
    formatter = logging.Formatter(LOG_FORMAT)
    handlers: list[logging.Handler] = [_StdoutHandler() if on_terminal else _ToParent()]
    if process == 0:
        os.makedirs(output_dir, exist_ok=True)
        path = os.path.join(output_dir, "process.log")
        # Names of files need be no text.
        handlers.append(
            _ProcessLogHandler(path, encoding="utf-8", errors="backslashreplace")
        )
    else:
        formatter = logging.Formatter(f"rank {process}: {LOG_FORMAT}")
        handlers[0].setLevel(logging.WARNING)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    _opened.extend(handlers)
    _levels.append(logger.level)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _ProcessLogHandler(logging.FileHandler):
    """Writes to the file, and drops what does not fit on its disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing: of a full disk, what matters more tells."""


class _ToParent(logging.Handler):
    """Passes on what would be passed on if there were no run."""

    def __init__(self):
        """Takes the level that this program has chosen."""
        super().__init__(logger.getEffectiveLevel())

    def emit(self, record: logging.LogRecord) -> None:
        """Hands a record to the handlers of this program."""
        if logger.parent is not None:
            logger.parent.callHandlers(record)


class _StdoutHandler(logging.StreamHandler):
    """Writes to what sys.stdout is now: a bar of progress takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line."""
        self.stream = sys.stdout
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Says nothing: whoever reads the terminal may be gone."""


def stop_logging() -> None:
    """Closes what `start_logging` opened."""
    while _opened:
        handler = _opened.pop()
        logger.removeHandler(handler)
        handler.close()
    while _levels:
        logger.setLevel(_levels.pop())
    logger.propagate = True


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

LOGGED_HEAD_METRICS = tuple(
    f"Average/{name}" for name in (EVENT_LABEL, *VERTEX_METRICS)
)
"""Those of networks with heads that a line of the log shows, too."""


def shown_metrics(named: Mapping[str, float]) -> dict[str, float]:
    """Picks the metrics that a line of the log shows."""
    shown = *LOGGED_METRICS, *LOGGED_HEAD_METRICS
    return {name: named[name] for name in shown if name in named}


def shown_losses(parts: Mapping[str, float]) -> dict[str, float]:
    """Picks the parts of a loss that a line of the log shows beside it."""
    return {name: part for name, part in parts.items() if name != TOTAL_LOSS}


def log_launch_arguments() -> None:
    """Writes down the command line of this process, as a shell would take it."""
    logger.info("Launch arguments: %s", shlex.join(sys.argv))


def rate(num_images: int, wait_s: float, step_s: float) -> str:
    """Formats the speed of a step: images per second, seconds of IO, seconds.

    CosmicTagger's bin/analyze_profiles.py finds the three by their places.
    """
    return (
        f"{num_images / step_s:.3g} Img/s / {wait_s:.2g} IOs / {step_s:.2g} (Step)(s)"
    )


def log_step(
    kind: str, step: int, values: Mapping[str, float], speed: str | None = None
) -> None:
    """Writes a step's line: its values, and its speed where given."""
    line = ", ".join(f"{name}: {value:.4g}" for name, value in values.items())
    suffix = f" ({speed})" if speed else ""
    logger.info("%s Step %d metrics: %s%s", kind, step, line, suffix)


def log_totals(
    step_s: np.ndarray, images: np.ndarray | int, start_up_s: float = 0.0
) -> None:
    """Writes the four closing lines of the competition's guide.

    Args:
      step_s: [N], seconds of each step.
      images: [N], events of each step that exist, or their number in every one.
      start_up_s: seconds before the first step, which are a part of the total time.
    """
    images = np.broadcast_to(images, step_s.shape)
    if start_up_s:
        logger.info(
            "Start-up (compilation): %.4f, in the total time and in no step's rate",
            start_up_s,
        )
    logger.info("Total time to batch_process: %.4f", start_up_s + step_s.sum())
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
                images[skipped:].sum() / total,
            )
