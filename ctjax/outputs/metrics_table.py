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

    def __init__(
        self,
        path: str,
        columns: Sequence[str],
        before: int | None = None,
        may_lack: int = 0,
    ):
        """Opens the file.

        Args:
          path: of the file.
          columns: names; the first holds the step or the entry.
          before: keep the rows of a former run whose first column is less; None
            begins anew. A file that is damaged, or no such table, is moved aside.
          may_lack: last columns that tables of earlier versions do not have; their
            rows get nan there.
        """
        self.path = path
        kept = [] if before is None else _rows_before(path, columns, before, may_lack)
        # Written beside and renamed, so that no interruption loses the old rows.
        with open(f"{path}.partial", "w", newline="", encoding="utf-8") as file:
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


def _rows_before(
    path: str, columns: Sequence[str], before: int, may_lack: int
) -> list[list[str]]:
    """Reads the rows of a former run; moves a file aside that has more than these."""
    if not os.path.lexists(path):
        return []
    rows: list[list[str]] = []
    damage = None
    if os.path.isfile(path):
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            content = file.read()
        try:
            header, *rows = list(csv.reader(io.StringIO(content))) or [list(columns)]
        except csv.Error as error:
            header, damage = list(columns), str(error)
        if may_lack and header == list(columns[:-may_lack]):
            header = list(columns)
            rows = [[*row, *["nan"] * may_lack] for row in rows]
        if header != list(columns):
            damage, rows = f"columns {','.join(header)[:80]}", []
        # The last row of a run that was killed may be cut.
        if rows and not content.endswith("\n"):
            rows.pop()
    else:
        damage = "no regular file"
    whole = [row for row in rows if _is_whole(row, columns)]
    if len(whole) < len(rows):
        damage = f"{len(rows) - len(whole)} rows that are none"
    if damage is not None:
        aside = _move_aside(path)
        logger.warning(
            "%s: found %s, expected a table of %s, ...; moved to %s, and %d rows kept",
            *(path, damage, ", ".join(columns[:2]), aside, len(whole)),
        )
    return [row for row in whole if int(row[0]) < before]


def _is_whole(row: Sequence[str], columns: Sequence[str]) -> bool:
    """Says whether a row has a step and a number for each other column."""
    try:
        numbers = [float(value) for value in row[1:]]
    except ValueError:
        return False
    return len(row) == len(columns) == len(numbers) + 1 and row[0].isdecimal()


def _move_aside(path: str) -> str:
    """Renames a file to a name that is free, and returns it."""
    aside, count = f"{path}.damaged", 0
    while os.path.lexists(aside):
        count += 1
        aside = f"{path}.damaged-{count}"
    os.rename(path, aside)
    return aside
