"""Gives events that are in memory already, in place of those of files."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctjax.base.detector import ImageShape
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.true_vertices import TrueNeutrino
from ctjax.data.voxels import Voxels

NAME = "array"
"""What messages name in place of a file."""


class GivenEvents:
    """Is a `sources.Source` of events that are given.

    Attributes:
      num_events: N.
      plane_shapes: rows H and columns W of each plane.
      planes: numbers of the planes.
      has_label: False: what is given is to be predicted.
      max_voxels: most voxels of one plane.
      bad_entries: none.
    """

    has_label = False

    def __init__(self, events: Sequence[Voxels], plane_shapes: Sequence[ImageShape]):
        """Takes the charges of events, ids ascending, each once in a plane."""
        self._events = events
        self.num_events = len(events)
        self.plane_shapes = tuple(plane_shapes)
        self.planes = (tuple(range(len(plane_shapes))),)
        self.bad_entries: dict[int, str] = {}
        self.max_voxels = max(
            (p.stop - p.start for event in events for p in event.planes), default=0
        )

    def read_voxels(self, entry: int) -> tuple[Voxels, Voxels | None]:
        """Returns the charges of an event, and None for its classes."""
        return self._events[entry], None

    def event_id(self, entry: int) -> np.ndarray:
        """Returns [3] int64, all -1: unknown."""
        return np.full(3, -1)

    def plane_metas(self, entry: int) -> list[PlaneMeta]:
        """Returns the geometry of an image of which only the pixels are known."""
        return [
            PlaneMeta((width, height), (float(width), float(height)))
            for height, width in self.plane_shapes
        ]

    def neutrino(self, entry: int) -> TrueNeutrino:
        """Returns that nothing is known of a neutrino."""
        return TrueNeutrino()

    def file_of(self, entry: int) -> str:
        """Returns NAME."""
        return NAME

    def files(self) -> list[tuple[str, int, int]]:
        """Returns nothing: there are no files."""
        return []

    def describe(self) -> dict[str, Any]:
        """Returns nothing: one process alone has these events."""
        return {}

    def close(self) -> None:
        """Does nothing: nothing is open."""


def voxels_of(charge: np.ndarray) -> Voxels:
    """Lists the pixels of an image [P, H, W] that are not 0, as a file stores them."""
    ids = [np.flatnonzero(plane.T) for plane in charge]
    ends = np.cumsum([0, *map(len, ids)]).tolist()
    values = [plane.T.reshape(-1)[at] for plane, at in zip(charge, ids, strict=True)]
    return Voxels(
        np.concatenate(ids).astype(np.int32),
        np.concatenate(values),
        tuple(map(slice, ends, ends[1:])),
        True,
    )
