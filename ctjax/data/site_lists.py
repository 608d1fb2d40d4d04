"""Lists an event's sites and who is next to whom, for the convolutions on sites.

The sites of a plane are told by their ids, which ascend: column after column, and down
the rows in each. All work is done on such lists; there is no image.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector
from ctjax.base.sites import Coarsening
from ctjax.data import native
from ctjax.data.voxels import Voxels, no_voxels


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


class SiteList(NamedTuple):
    """Holds the sites of an event.

    Attributes:
      charge: [N] float32.
      label: [N] uint8, classes.
      grids: depth + 2 of them: each halves the image; the last merges the planes.
      steps: depth + 1 of them, from each grid to the next.
      empty: [P, K] int32, pixels of each plane without a site, by their class.
    """

    charge: np.ndarray
    label: np.ndarray
    grids: tuple[Grid, ...]
    steps: tuple[Coarsening, ...]
    empty: np.ndarray


def list_sites(
    image: Voxels,
    label: Voxels | None,
    image_shape: tuple[int, int],
    depth: int,
    detector: Detector = COSMIC_TAGGER,
) -> SiteList:
    """Lists the sites of one event: the voxels of its image, whatever their charge.

    Args:
      image: charges, ids ascending, each once in a plane.
      label: classes, likewise, or None.
      image_shape: rows H and columns W.
      depth: how often the image is halved, >= 0.
      detector: whose planes' own pixels count, by its classes.
    """
    image = _plane_after_plane(image)
    shapes = detector.plane_shapes or (image_shape,) * len(image.planes)
    sizes = np.array([height * width for height, width in shapes])
    labels, empty = label_sites(image, label, sizes, detector.num_classes)
    grids, steps = [Grid(image.ids, image.planes, image_shape)], []
    for level in range(depth + 1):
        coarsen = halve if level < depth else merge_planes
        grid, step = coarsen(grids[-1])
        grids.append(grid)
        steps.append(step)
    return SiteList(image.values, labels, tuple(grids), tuple(steps), empty)


def list_no_sites(detector: Detector, depth: int) -> SiteList:
    """Lists what is at a place without an event: no sites, and no pixels either."""
    detector = dataclasses.replace(detector, plane_shapes=None)
    nothing = no_voxels(detector.num_planes)
    return list_sites(nothing, None, (0, 0), depth, detector)


def count_sites(event: SiteList) -> list[int]:
    """Returns the number of sites at each level."""
    return [len(grid.ids) for grid in event.grids]


def level_shapes(image_shape: tuple[int, int], depth: int) -> list[tuple[int, int]]:
    """Returns rows and columns of each level, the last as the one before it."""
    shapes = [image_shape]
    for _ in range(depth):
        shapes.append(_half(shapes[-1]))
    return [*shapes, shapes[-1]]


def label_sites(
    image: Voxels, label: Voxels | None, num_pixels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Looks up the classes of the sites and counts those of all other pixels.

    Args:
      image: the sites, plane after plane.
      label: classes, ids ascending, each once in a plane, or None.
      num_pixels: [P], of each plane.
      num_classes: K.

    Returns:
      Classes [N] uint8, background where none is stored, and counts [P, K] int32, of
      which ignored pixels are in none.
    """
    classes = np.zeros(len(image.ids), np.uint8)
    empty = np.zeros((len(image.planes), num_classes), np.int32)
    ignored = np.zeros(len(image.planes), np.int32)
    same = label is not None and label.ids is image.ids and label.planes == image.planes
    if label is not None and same:
        classes = label.values
    elif label is not None:
        for plane, span in enumerate(image.planes):
            found = label.values[label.planes[plane]]
            at, is_site = _look_up(label.ids[label.planes[plane]], image.ids[span])
            classes[span][at[is_site]] = found[is_site]
            others = found[~is_site]
            counted = others[others != IGNORED]
            empty[plane] = np.bincount(counted, minlength=num_classes)
            ignored[plane] = len(others) - len(counted)
    counts = [plane.stop - plane.start for plane in image.planes]
    empty[:, 0] = num_pixels - np.array(counts) - ignored - empty[:, 1:].sum(1)
    return classes, empty


def plane_of_each(grid: Grid) -> np.ndarray:
    """Returns the plane of each site, [N] int32."""
    counts = [plane.stop - plane.start for plane in grid.planes]
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def find_neighbours(
    grid: Grid, size: int, first: int, absent: int, out: np.ndarray
) -> None:
    """Finds the sites in the square around each.

    Args:
      grid: the sites.
      size: side k of the square, odd.
      first: number of the first of these sites among all.
      absent: number that stands for no site.
      out: [N, k * k] int32, takes what `ctjax.base.sites.Level` has.
    """
    if not native.find_neighbours(*grid, size, first, absent, out):
        _find_neighbours_in_numpy(grid, size, first, absent, out)


def _find_neighbours_in_numpy(grid, size, first, absent, out):
    reach = size // 2
    num_rows, num_columns = grid.image_shape
    # Rows and columns without a site keep columns and planes apart.
    pitch = num_rows + reach
    column, row = np.divmod(grid.ids.astype(np.int64), num_rows)
    first_column = plane_of_each(grid) * (num_columns + reach)
    keys = (first_column + column) * pitch + row
    sought = np.append(keys, np.iinfo(np.int64).max)
    table = out.reshape(-1, size, size)
    for column_step in range(size):
        wanted = keys + (column_step - reach) * pitch - reach
        at = np.searchsorted(keys, wanted)
        for row_step in range(size):
            found = sought[at] == wanted + row_step
            table[:, row_step, column_step] = np.where(found, first + at, absent)
            at += found


def halve(grid: Grid) -> tuple[Grid, Coarsening]:
    """Makes the sites of half the resolution: active where any of the four is."""
    shape = _half(grid.image_shape)
    ids, planes, *step = native.halve(*grid) or _halve_in_numpy(grid, shape)
    return Grid(ids, planes, shape), Coarsening(*step)


def _halve_in_numpy(grid: Grid, image_shape: tuple[int, int]) -> native.Groups:
    num_rows, num_columns = image_shape
    column, row = np.divmod(grid.ids, np.int32(grid.image_shape[0]))
    first_column = plane_of_each(grid).astype(np.int64) * num_columns
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
    ids, parts, place = _group(grid.ids, plane_of_each(grid), len(grid.planes))
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


def _half(image_shape: tuple[int, int]) -> tuple[int, int]:
    """Returns rows and columns of half the resolution; what is odd is rounded up."""
    return (image_shape[0] + 1) // 2, (image_shape[1] + 1) // 2
