"""Makes random events of the same form as stored ones.

Straight tracks of cosmic and neutrino charge on a thin background: enough structure
and the right share of active pixels for tests and throughput, nothing physical.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctjax.base.constants import BACKGROUND, COSMIC, NEUTRINO
from ctjax.base.detector import COSMIC_TAGGER, ImageShape
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.true_vertices import TrueNeutrino
from ctjax.data.voxels import Voxels

ACTIVE_FRACTION = 0.007
"""Share of the pixels that hold charge in CosmicTagger's public events (0.704 %)."""

CLASS_SHARES = ((BACKGROUND, 0.54), (COSMIC, 0.37), (NEUTRINO, 0.09))
"""Share of each class in the active pixels of the same events."""

MIN_CHARGE, MEAN_CHARGE = 5.0, 25.0
"""Threshold of the stored charges and their mean."""

SYNTHETIC_NAME = "synthetic"
"""Takes the place of a file's name."""


class SyntheticEvents:
    """Gives synthetic events the interface of files."""

    has_label = True

    def __init__(
        self,
        image_shape: ImageShape,
        seed: int,
        num_events: int,
        num_planes: int = COSMIC_TAGGER.num_planes,
        num_classes: int = COSMIC_TAGGER.num_classes,
    ):
        """Takes rows and columns, the seed and the number of different events."""
        self.num_events = num_events
        self.plane_shapes = (image_shape,) * num_planes
        self.planes = (tuple(range(num_planes)),)
        self.bad_entries: dict[int, str] = {}
        self._image_shape = image_shape
        self._num_classes = num_classes
        active = ACTIVE_FRACTION * image_shape[0] * image_shape[1]
        self.max_voxels = max(3, round(active)) + 3
        self._seed = seed

    def read_voxels(self, entry: int) -> tuple[Voxels, Voxels]:
        """Reads charges and classes of an event."""
        return make_event(
            self._seed,
            entry,
            self._image_shape,
            len(self.plane_shapes),
            self._num_classes,
        )

    def event_id(self, entry: int) -> np.ndarray:
        """Returns run 0, subrun 0 and the entry, [3] int64."""
        return np.array([0, 0, entry], np.int64)

    def plane_metas(self, entry: int) -> Sequence[PlaneMeta]:
        """Returns the geometry of an image, whose unit is the pixel, by plane."""
        height, width = self._image_shape
        meta = PlaneMeta((width, height), (float(width), float(height)))
        return [meta] * len(self.plane_shapes)

    def neutrino(self, entry: int) -> TrueNeutrino:
        """Returns that nothing is known of a neutrino."""
        return TrueNeutrino()

    def file_of(self, entry: int) -> str:
        """Returns what takes the place of a file's name."""
        return SYNTHETIC_NAME

    def files(self) -> list[tuple[str, int, int]]:
        """Returns nothing: there are no files."""
        return []

    def describe(self) -> dict[str, Any]:
        """Returns nothing: the configuration alone makes the events."""
        return {}

    def close(self) -> None:
        """Does nothing: nothing is open."""


def make_event(
    seed: int,
    entry: int,
    image_shape: ImageShape,
    num_planes: int = COSMIC_TAGGER.num_planes,
    num_classes: int = COSMIC_TAGGER.num_classes,
) -> tuple[Voxels, Voxels]:
    """Makes one event, the same for the same arguments.

    Args:
      seed: of the data set, >= 0.
      entry: of the event, >= 0.
      image_shape: rows H and columns W.
      num_planes: P.
      num_classes: K; those beyond the neutrino share its pixels with it.

    Returns:
      Charges and classes, on the same ascending ids.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, entry]))
    num_rows, num_columns = image_shape
    active = max(3, round(ACTIVE_FRACTION * num_rows * num_columns))
    ids, classes, planes, total = [], [], [], 0
    for _ in range(num_planes):
        label = np.zeros(num_columns * num_rows, np.uint8)
        hit = np.zeros(num_columns * num_rows, bool)
        for which, share in _class_shares(num_classes):
            pixels = _draw_pixels(random, which, round(share * active), image_shape)
            hit[pixels] = True
            label[pixels] = which
        ids.append(np.flatnonzero(hit).astype(np.int32))
        classes.append(label[ids[-1]])
        planes.append(slice(total, total + len(ids[-1])))
        total += len(ids[-1])
    charges = MIN_CHARGE + random.exponential(MEAN_CHARGE - MIN_CHARGE, total)
    all_ids = np.concatenate(ids)
    image = Voxels(all_ids, charges.astype(np.float32), tuple(planes), True)
    return image, Voxels(all_ids, np.concatenate(classes), tuple(planes), True)


def _class_shares(num_classes: int) -> list[tuple[int, float]]:
    """Returns the classes with their shares of the active pixels."""
    *usual, (_, last) = CLASS_SHARES
    others = range(NEUTRINO, num_classes)
    return [*usual, *((which, last / len(others)) for which in others)]


def _draw_pixels(
    random: np.random.Generator, which: int, count: int, image_shape: tuple[int, int]
) -> np.ndarray:
    """Draws ids of `count` pixels: scattered for background, on lines otherwise."""
    num_rows, num_columns = image_shape
    if which == BACKGROUND:
        return random.integers(0, num_rows * num_columns, count)
    num_tracks = 8 if which == COSMIC else 2
    ends = random.random((num_tracks, 2, 2)) * (num_columns - 1, num_rows - 1)
    track = random.integers(0, num_tracks, count)
    along = random.random((count, 1))
    points = ends[track, 0] * (1 - along) + ends[track, 1] * along
    points = np.clip(
        np.rint(points + random.normal(0, 1, (count, 2))),
        0,
        (num_columns - 1, num_rows - 1),
    ).astype(np.int64)
    return points[:, 0] * num_rows + points[:, 1]
