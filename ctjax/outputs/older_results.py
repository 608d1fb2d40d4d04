"""Sets the results of an inference aside before another one begins in its folder.

What stands in a folder then belongs together: the predictions are those of the table
beside them.
"""

import logging
import os

from ctjax.outputs.predictions import PREDICTIONS
from ctjax.views import skipped
from ctjax.views.event_table import EVENT_TABLE

logger = logging.getLogger("ctjax")

FOLDER = "older_inferences"
"""Holds a numbered folder for each inference before the last one."""

RESULTS = (
    *(PREDICTIONS, EVENT_TABLE),
    *("inference_metrics.csv", "inference_confusion.csv"),
)

# Moved along with results, but no results themselves: a new run writes its own first.
RECORDS = (
    "inference_config.json",
    os.path.join("profiles", "inference_timings.npy"),
    skipped.table_path("", "inference"),
)


def set_aside(output_dir: str) -> None:
    """Moves the results of the last inference out of the way, if there are any.

    Args:
      output_dir: of the run; only its first process may call this.

    Raises:
      OSError: they cannot be moved.
    """

    def is_there(name: str) -> bool:
        return os.path.lexists(os.path.join(output_dir, name))

    if not any(map(is_there, RESULTS)):
        return
    aside = _make_folder(os.path.join(output_dir, FOLDER))
    # The predictions first: should this be interrupted, no newer table joins them.
    for name in filter(is_there, RESULTS + RECORDS):
        target = os.path.join(aside, os.path.basename(name))
        os.replace(os.path.join(output_dir, name), target)
    logger.info("Set the results of the last inference aside: %s", aside)


def _make_folder(parent: str) -> str:
    """Makes the first numbered folder that is not there yet."""
    number = 1
    while True:
        path = os.path.join(parent, str(number))
        try:
            os.makedirs(path)
            return path
        except FileExistsError:
            number += 1
