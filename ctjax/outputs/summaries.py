"""Writes TensorBoard's summaries."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ctjax.config import dotted

logger = logging.getLogger("ctjax")


def open_summary(output_dir: str, name: str, start: int) -> Any:
    """Opens TensorBoard's writer of a folder.

    Args:
      output_dir: of the run.
      name: of the folder in it, a run of TensorBoard's.
      start: first step to be written; later ones of a former run are purged.
    """
    from tensorboardX import SummaryWriter  # slow to import, and not for iotest

    # It warns of any NaN and does not say of which; the lines of the run do.
    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
    summary = SummaryWriter(
        os.path.join(output_dir, name),
        purge_step=start or None,
        # Its own name counts seconds: the second file of one would replace the first.
        filename_suffix=f".{time.time_ns()}",
    )
    # Its thread would end at the first error, and whoever adds to its queue then waits
    # for ever.
    writer: Any = summary.file_writer
    file = writer.event_writer._ev_writer
    for method in ("write_event", "flush", "close"):
        setattr(file, method, _without_disk_errors(getattr(file, method), name))
    return summary


def add_config(
    summary: Any, values: Mapping[str, Any], metrics: Sequence[str], step: int
) -> None:
    """Writes a configuration: as text, and as the hyperparameters of this run.

    Args:
      summary: of `open_summary`.
      values: sections of options, as `fields.to_dict` returns them.
      metrics: tags of the scalars that are shown beside the hyperparameters.
      step: first step of this start.
    """
    from tensorboardX.summary import hparams  # slow to import, as above

    options = dotted.flatten(values)
    lines = [f"| {name} | {value} |" for name, value in options.items()]
    text = "\n".join(["| field | value |", "|---|---|", *lines])
    summary.add_text("config", text, step)
    # add_hparams would begin another run of TensorBoard's, named by the seconds. The
    # last part says that the run has ended well, which nobody knows yet.
    for part in hparams(options, dict.fromkeys(metrics, 0.0))[:2]:
        summary.file_writer.add_summary(part)


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
