"""Finds signs that chunks of a table have changed places, which no checksum shows.

Every id order is legal, and so are labels at other pixels than charges. But a disorder
that keeps to the edges of chunks is no writer's: larcv3 stores ids ascending, and both
products on the same ids.
"""

from collections.abc import Sequence

import numpy as np

MIN_TELLING_CHUNK_ROWS = 100
"""Disorder may keep to the edges of smaller chunks by chance."""


def find_broken_seam(
    ids: np.ndarray, planes: Sequence[slice], first: int, chunk_rows: int
) -> int | None:
    """Finds where ids descend from one chunk to the next, in otherwise good order.

    Args:
      ids: [V] int32, of one event.
      planes: slices of the ids.
      first: row of the event's first voxel.
      chunk_rows: of the table; 0 where it has no chunks.

    Returns:
      The first row of the later chunk; None where there is none, or where descents
      are so many that the order is simply another.
    """
    if chunk_rows < MIN_TELLING_CHUNK_ROWS:
        return None
    descents = np.concatenate(
        [
            first + plane.start + 1 + np.flatnonzero(np.diff(ids[plane]) < 0)
            for plane in planes
        ]
    )
    num_chunks = ids.size // chunk_rows + 2
    at_seams = descents[descents % chunk_rows == 0]
    if descents.size > 2 * num_chunks or not at_seams.size:
        return None
    return int(at_seams[0])


def differ_by_whole_chunks(
    ids: np.ndarray, others: np.ndarray, first: int, chunk_rows: int
) -> bool:
    """Tells whether lists that agree for a chunk or more differ in whole chunks only.

    Args:
      ids: [V] int32, of one product of an event.
      others: [V] int32, of the other product, not all the same.
      first: row of the event's first voxel in both tables.
      chunk_rows: of both tables; 0 where they have no chunks.
    """
    different = np.flatnonzero(ids != others)
    start, stop = int(different[0]), int(different[-1]) + 1
    return (
        chunk_rows >= MIN_TELLING_CHUNK_ROWS
        and ids.size - different.size >= chunk_rows
        and (start == 0 or (first + start) % chunk_rows == 0)
        and (stop == ids.size or (first + stop) % chunk_rows == 0)
    )
