"""Writes TensorBoard's summaries."""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

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
