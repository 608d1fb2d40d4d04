"""Writes a table of metrics, row by row."""

import csv
import io
import logging
import os
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger("ctjax")


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
