"""Checks the ranges of rows that events have of a table."""

import numpy as np

from ctjax.data.larcv.errors import BadEvents, Place


def check_columns(
    table: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    entries: np.ndarray,
    place: Place,
) -> list[str]:
    """Compares the columns that larcv3 ignores with those that it follows."""
    oddities = []
    for name, values in expected.items():
        wrong = np.flatnonzero(table[name] != values)
        if wrong.size:
            row = wrong[0]
            oddities.append(
                f"{place.at(entry=int(entries[row]))}: found {name} = "
                f"{table[name][row]}, expected {values[row]}"
            )
    return oddities


def find_beyond(
    first: np.ndarray, count: np.ndarray, length: int, place: Place, bad: BadEvents
) -> list[int]:
    """Finds events whose range goes beyond a table.

    Args:
      first: [N] int64, row of the table.
      count: [N] int64, rows.
      length: of the table.
      place: of the table with the ranges, for errors.
      bad: takes the events.
    """
    is_beyond = ((count > length) | (first > length - count)) & (count != 0)
    beyond = np.flatnonzero(is_beyond).tolist()
    for entry in beyond:
        found = f"first = {first[entry]} and N = {count[entry]}"
        bad.add(entry, place, found, f"a range of a table of {length} rows")
    return beyond


def check_ranges(first: np.ndarray, count: np.ndarray, place: Place) -> list[str]:
    """Checks that events have ranges of a table of their own.

    Args:
      first: [N] int64, row of the table.
      count: [N] int64, rows, none beyond the table.
      place: of the table with the ranges, for errors.

    Returns:
      What is unusual: rows used by several events, or before those of an earlier one.

    Raises:
      LarcvFileError: for two ranges that overlap in part.
    """
    used = np.flatnonzero(count > 0)
    starts, index, inverse = np.unique(
        first[used], return_index=True, return_inverse=True
    )
    ends = starts + count[used][index]
    shorter = np.flatnonzero(count[used] != count[used][index][inverse])
    overlapping = np.flatnonzero(ends[:-1] > starts[1:])
    if shorter.size or overlapping.size:
        entry = int(used[shorter[0]] if shorter.size else used[index[overlapping[0]]])
        found = f"first = {first[entry]} and N = {count[entry]}"
        place.at(entry=entry).fail(found, "no rows in common with another event")
    oddities = []
    if len(starts) != len(used):
        oddities.append(
            f"{place}: found several events with the same rows, expected rows of their "
            "own"
        )
    if (np.diff(index) < 0).any():
        entry = int(used[index[np.flatnonzero(np.diff(index) < 0)[0]]])
        oddities.append(
            f"{place.at(entry=entry)}: found rows before those of an earlier event, "
            "expected the order of the events"
        )
    return oddities


def find_unused(
    first: np.ndarray, count: np.ndarray, length: int, place: Place, chunk_rows: int = 0
) -> list[str]:
    """Says of a table whether it has rows of no event.

    Args:
      first: [N] int64, row of the table.
      count: [N] int64, rows.
      length: of the table.
      place: of the table with the ranges.
      chunk_rows: an event may begin with a chunk, after unused rows; 0 if not.
    """
    used = count > 0
    starts, index = np.unique(first[used], return_index=True)
    row = _find_unused_row(starts, starts + count[used][index], length, chunk_rows)
    if row is None:
        return []
    return [f"{place}: found row {row} used by no event, expected an event for each"]


def _find_unused_row(
    starts: np.ndarray, ends: np.ndarray, length: int, chunk_rows: int
) -> int | None:
    """Finds the first row of a table between ranges that ascend; None for none.

    Rows before a range that begins with a chunk are not looked at.
    """
    stops, begins = np.append(0, ends), np.append(starts, length)
    unused = begins > stops
    if chunk_rows:
        unused[:-1] &= starts % chunk_rows != 0
    return int(stops[np.argmax(unused)]) if unused.any() else None
