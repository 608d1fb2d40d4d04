"""Reads which events a run has skipped, from the table that it has left."""

import csv
import os
from collections.abc import Mapping, Sequence

COLUMNS = ("entry", "run", "subrun", "event", "file", "reason")

MAX_NAMED = 4
"""Events that a line names."""


VALIDATION = "val"
"""In the place of a mode: the events of data.aux_file, those of a validation."""


def table_path(output_dir: str, mode: str) -> str:
    """Returns the path of the table of a mode, or of VALIDATION."""
    return os.path.join(output_dir, f"{mode}_skipped.csv")


def read_table(path: str) -> list[dict[str, str]]:
    """Reads the rows of a table; none of one that is absent or another."""
    if not os.path.isfile(path):
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        try:
            header, *rows = list(csv.reader(file)) or [[]]
        except csv.Error:
            return []
    if tuple(header) != COLUMNS:
        return []
    whole = [row for row in rows if len(row) == len(COLUMNS) and row[0].isdecimal()]
    return [dict(zip(COLUMNS, row, strict=True)) for row in whole]


def describe(rows: Sequence[Mapping[str, str]]) -> str:
    """Names the first of skipped events with their reasons."""
    names = [f"entry {row['entry']}: {row['reason']}" for row in rows[:MAX_NAMED]]
    more = f"; and {len(rows) - MAX_NAMED} more" * (len(rows) > MAX_NAMED)
    return "; ".join(names) + more
