"""Lists an event's sites and who is next to whom, for the convolutions on sites.

The sites of a plane are told by their ids, which ascend: column after column, and down
the rows in each. All work is done on such lists; there is no image.
"""

from typing import NamedTuple

import numpy as np

from ctjax.base.constants import NUM_CLASSES
from ctjax.base.sites import Coarsening, Level, Sites
from ctjax.data import native
from ctjax.data.voxels import Voxels

WIDE = 5
"""Side of the square of pixels around each site that a network sees first."""

NARROW = 3
"""Side of that square at all levels before the planes are merged."""


INNER = np.arange(WIDE * WIDE).reshape(WIDE, WIDE)[1:-1, 1:-1].reshape(-1)
"""Numbers in the large square of the pixels in the small one."""

EventSites = tuple[Sites, np.ndarray]
"""The lists of one event, without the axis Q, with E = 1 and as many places as there
are sites; and the ids of these, [N] int32."""


class Grid(NamedTuple):
    """Holds the sites of one resolution.

    Attributes:
      ids: [N] int32, column * H + row, ascending in each plane.
      planes: slices of them, one after the other.
      image_shape: rows H and columns W of this resolution.
    """

    ids: np.ndarray
    planes: tuple[slice, ...]
    image_shape: tuple[int, int]


def make_sites(
    image: Voxels,
    label: Voxels | None,
    image_shape: tuple[int, int],
    depth: int,
    deepest_size: int,
) -> EventSites:
    """Makes the lists of one event.

    Its sites are the voxels of the image, whatever their charge.

    Args:
      image: charges, ids ascending, each once in a plane.
      label: classes, likewise, or None.
      image_shape: rows H and columns W.
      depth: how often the image is halved, >= 0.
      deepest_size: side of the neighbourhood where the planes are merged, odd.
    """
    image = _plane_after_plane(image)
    labels, empty = label_sites(image, label, image_shape[0] * image_shape[1])
    grid = Grid(image.ids, image.planes, image_shape)
    wide = find_neighbours(grid, WIDE)
    levels, steps = [Level(_plane_of_each(grid), np.take(wide, INNER, 1))], []
    for _ in range(depth):
        grid, step = halve(grid)
        levels.append(Level(_plane_of_each(grid), find_neighbours(grid, NARROW)))
        steps.append(step)
    grid, step = merge_planes(grid)
    steps.append(step)
    levels.append(Level(_plane_of_each(grid), find_neighbours(grid, deepest_size)))
    sites = Sites(image.values, labels, wide, tuple(levels), tuple(steps), empty)
    return sites, image.ids


def make_no_sites(num_planes: int, depth: int, deepest_size: int) -> EventSites:
    """Makes the lists of a place without an event: no sites, and no pixels either."""
    planes = (slice(0, 0),) * num_planes
    nothing = Voxels(np.zeros(0, np.int32), np.zeros(0, np.float32), planes, True)
    return make_sites(nothing, None, (0, 0), depth, deepest_size)


def count_sites(sites: Sites) -> list[int]:
    """Returns the number of places at each level."""
    return [level.image.shape[-1] for level in sites.levels]


def level_shapes(image_shape: tuple[int, int], depth: int) -> list[tuple[int, int]]:
    """Returns rows and columns of each level, the last as the one before it."""
    shapes = [image_shape]
    for _ in range(depth):
        shapes.append(_half(shapes[-1]))
    return [*shapes, shapes[-1]]


def label_sites(
    image: Voxels, label: Voxels | None, num_pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Looks up the classes of the sites and counts those of all other pixels.

    Args:
      image: the sites, plane after plane.
      label: classes, ids ascending, each once in a plane, or None.
      num_pixels: of a plane.

    Returns:
      Classes [N] uint8, background where none is stored, and counts [P, K] int32.
    """
    classes = np.zeros(len(image.ids), np.uint8)
    empty = np.zeros((len(image.planes), NUM_CLASSES), np.int32)
    same = label is not None and label.ids is image.ids and label.planes == image.planes
    if label is not None and same:
        classes = label.values
    elif label is not None:
        for plane, span in enumerate(image.planes):
            found = label.values[label.planes[plane]]
            at, is_site = _look_up(label.ids[label.planes[plane]], image.ids[span])
            classes[span][at[is_site]] = found[is_site]
            empty[plane] = np.bincount(found[~is_site], minlength=NUM_CLASSES)
    counts = [plane.stop - plane.start for plane in image.planes]
    empty[:, 0] = num_pixels - np.array(counts) - empty[:, 1:].sum(1)
    return classes, empty


def find_neighbours(grid: Grid, size: int) -> np.ndarray:
    """Finds the sites in the square around each.

    Args:
      grid: the sites.
      size: side k of the square, odd.

    Returns:
      [N, k * k] int32 as in `ctjax.base.sites.Level`, N where there is no site.
    """
    table = native.find_neighbours(*grid, size)
    return _find_neighbours_in_numpy(grid, size) if table is None else table


def _find_neighbours_in_numpy(grid: Grid, size: int) -> np.ndarray:
    num_sites, reach = len(grid.ids), size // 2
    num_rows, num_columns = grid.image_shape
    # Rows and columns without a site keep columns and planes apart.
    pitch = num_rows + reach
    column, row = np.divmod(grid.ids.astype(np.int64), num_rows)
    first_column = _plane_of_each(grid) * (num_columns + reach)
    keys = (first_column + column) * pitch + row
    sought = np.append(keys, np.iinfo(np.int64).max)
    table = np.empty((num_sites, size, size), np.int32)
    for column_step in range(size):
        wanted = keys + (column_step - reach) * pitch - reach
        at = np.searchsorted(keys, wanted)
        for row_step in range(size):
            found = sought[at] == wanted + row_step
            table[:, row_step, column_step] = np.where(found, at, num_sites)
            at += found
    return table.reshape(num_sites, size * size)


def halve(grid: Grid) -> tuple[Grid, Coarsening]:
    """Makes the sites of half the resolution: active where any of the four is."""
    shape = _half(grid.image_shape)
    ids, planes, *step = native.halve(*grid) or _halve_in_numpy(grid, shape)
    return Grid(ids, planes, shape), Coarsening(*step)


def _halve_in_numpy(grid: Grid, image_shape: tuple[int, int]) -> native.Groups:
    num_rows, num_columns = image_shape
    column, row = np.divmod(grid.ids, np.int32(grid.image_shape[0]))
    first_column = _plane_of_each(grid).astype(np.int64) * num_columns
    keys = (first_column + (column >> 1)) * num_rows + (row >> 1)
    keys, parts, place = _group(keys, 2 * (row & 1) + (column & 1), 4)
    bounds = num_rows * num_columns * np.arange(len(grid.planes) + 1)
    ends = np.searchsorted(keys, bounds).tolist()
    ids = (keys % (num_rows * num_columns)).astype(np.int32)
    return ids, tuple(map(slice, ends, ends[1:])), parts, place


def merge_planes(grid: Grid) -> tuple[Grid, Coarsening]:
    """Makes the sites of all planes in one: active where any plane is."""
    ids, planes, *step = native.merge_planes(*grid) or _merge_planes_in_numpy(grid)
    return Grid(ids, planes, grid.image_shape), Coarsening(*step)


def _merge_planes_in_numpy(grid: Grid) -> native.Groups:
    ids, parts, place = _group(grid.ids, _plane_of_each(grid), len(grid.planes))
    return ids, (slice(0, len(ids)),), parts, place


def _look_up(ids: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the places of ids among others that ascend, and which are there."""
    place = np.searchsorted(among, ids)
    return place, np.append(among, -1)[place] == ids


def _group(
    keys: np.ndarray, numbers: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Brings sites of one key together; a number of theirs tells them apart.

    Returns:
      The keys, ascending; parts and place of groups of up to `size`.
    """
    keys, group = np.unique(keys, return_inverse=True)
    place = (group * size + numbers).astype(np.int32)
    parts = np.full((len(keys), size), len(place), np.int32)
    parts.reshape(-1)[place] = np.arange(len(place), dtype=np.int32)
    return keys, parts, place


def _plane_after_plane(voxels: Voxels) -> Voxels:
    """Brings the planes into their order, in which a file may not have them."""
    counts = [plane.stop - plane.start for plane in voxels.planes]
    ends = np.cumsum([0, *counts]).tolist()
    planes = tuple(map(slice, ends, ends[1:]))
    if planes == voxels.planes:
        return voxels
    ids = np.concatenate([voxels.ids[plane] for plane in voxels.planes])
    values = np.concatenate([voxels.values[plane] for plane in voxels.planes])
    return Voxels(ids, values, planes, voxels.ascending)


def _plane_of_each(grid: Grid) -> np.ndarray:
    """Returns the plane of each site, [N] int32."""
    counts = [plane.stop - plane.start for plane in grid.planes]
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def _half(image_shape: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of half the resolution; what is odd is rounded up."""
    return (image_shape[0] + 1) // 2, (image_shape[1] + 1) // 2
