"""Says which events a run has skipped, in its log and in a table of its folder.

Events are skipped where data.on_bad_event is skip. The table stands there only if there
are some; a training that goes on adds to it.
"""

import contextlib
import csv
import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ctjax.config.choices import OnBadEvent
from ctjax.config.fields import Config
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.outputs.predictions import in_utf8
from ctjax.processes import join
from ctjax.processes.join import Processes
from ctjax.views.skipped import (
    COLUMNS,
    VALIDATION,
    describe,
    read_table,
    table_path,
)

logger = logging.getLogger("ctjax")

ELSEWHERE = "read by another process, which says why"
"""In place of the reason that only another process has."""


def report_training(
    config: Config,
    source: EventSource,
    processes: Processes,
    goes_on: bool,
    part: str | None = None,
) -> None:
    """Reports the events that any process of a training has skipped so far.

    All processes must call it; the first one reports.

    Args:
      config: of the run.
      source: of the events, which knows those that this process has read.
      processes: of the run.
      goes_on: whether a former start of the run has skipped those of its table.
      part: VALIDATION where these are the events of its validation.
    """
    if config.data.on_bad_event is not OnBadEvent.SKIP:
        return
    entries = _of_all(source, processes)
    if processes.is_first:
        report(config, source, entries, goes_on, part)


def report(
    config: Config,
    source: EventSource,
    entries: Iterable[int],
    goes_on: bool = False,
    part: str | None = None,
) -> None:
    """Logs how many events have been skipped, names the first, and lists them all.

    Args:
      config: of the run.
      source: of the events, which knows why those that this process has read were.
      entries: of all that were skipped.
      goes_on: whether to keep those that the table has of the same files.
      part: VALIDATION for events of data.aux_file; None for those of the mode.

    Raises:
      LarcvFileError: no event of the data could be read.
    """
    path = table_path(config.output_dir, part or config.mode.name.value)
    rows = _of_source(read_table(path), source) if goes_on else {}
    for entry in entries:
        run, subrun, event = map(str, source.event_id(entry).tolist())
        reason = source.bad_events.get(entry, ELSEWHERE)
        file = in_utf8(source.file_of(entry))
        values = (str(entry), run, subrun, event, file, reason)
        rows[entry] = dict(zip(COLUMNS, values, strict=True))
    if not rows:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return
    ordered = [rows[entry] for entry in sorted(rows)]
    _write(path, ordered)
    if len(ordered) == source.num_events:
        raise LarcvFileError(f"{ordered[0]['reason']}; and no other event is better")
    logger.warning(
        "Skipped %d event%s%s (data.on_bad_event=skip), in no loss or metric: %s",
        *(len(ordered), "s" * (len(ordered) != 1)),
        *(" of data.aux_file" * (part == VALIDATION), describe(ordered)),
    )


def _of_source(
    rows: Iterable[Mapping[str, str]], source: EventSource
) -> dict[int, Mapping[str, str]]:
    """Returns by entry the rows of events that are still read from the same file."""
    found = {int(row["entry"]): row for row in rows}
    return {
        entry: row
        for entry, row in found.items()
        if entry < source.num_events and in_utf8(source.file_of(entry)) == row["file"]
    }


def _of_all(source: EventSource, processes: Processes) -> list[int]:
    """Returns the entries that any process has skipped."""
    mine = list(source.bad_events)
    if processes.count == 1:
        return mine
    most = int(join.gather(np.array(len(mine))).max())
    if most == 0:
        return mine
    padded = np.full(most, PADDING, np.int32)
    padded[: len(mine)] = mine
    return [entry for entry in np.unique(join.gather(padded)).tolist() if entry >= 0]


def _write(path: str, rows: Sequence[Mapping[str, str]]) -> None:
    with open(f"{path}.partial", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([row[name] for name in COLUMNS] for row in rows)
    os.replace(f"{path}.partial", path)
