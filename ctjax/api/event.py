"""Holds one event of a file."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctjax.base.detector import IGNORED, Detector, ImageShape
from ctjax.config.fields import Data
from ctjax.data import images
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.truth import neutrino_name
from ctjax.data.sparse import sparse_planes
from ctjax.data.voxels import Voxels

CURRENTS = {0: "charged", 1: "neutral"}


class EventId(NamedTuple):
    """Holds run, subrun and event, each -1 where the file does not say."""

    run: int
    subrun: int
    event: int


class Neutrino(NamedTuple):
    """Holds the true neutrino of an event.

    Attributes:
      pdg: its code, 12, 14 or 16, negative for an antineutrino.
      energy_gev: its energy.
      current: of its interaction, "charged" or "neutral"; None where unknown.
      name: all of this in words.
    """

    pdg: int
    energy_gev: float
    current: str | None
    name: str


class StoredPixels(NamedTuple):
    """Holds the stored pixels of one plane, wire after wire, each array [V].

    Attributes:
      wires: int32, column of the image.
      ticks: int32, row of the image.
      charge: float32, 0 where a class alone is stored.
      label: uint8, class, 255 where it is ignored; None where the file has no classes.
    """

    wires: np.ndarray
    ticks: np.ndarray
    charge: np.ndarray
    label: np.ndarray | None


class Event:
    """Holds one event, which no longer needs its file.

    Attributes:
      entry: place in the opened files, from 0.
      id: run, subrun and event.
      neutrino: the true one; None where the file does not have it.
      data: how it was read: `downsample`, `charge_scale` and so on.
      detector: planes and classes.
      image_shape: rows H (drift ticks) and columns W (wires), of the largest plane.
      voxels: charges and classes as they are stored; the latter None without classes.
      metas: geometry of the planes' images, in cm where the file has it so.
    """

    def __init__(
        self,
        entry: int,
        event_id: EventId,
        neutrino: Neutrino | None,
        data: Data,
        detector: Detector,
        image_shape: ImageShape,
        voxels: tuple[Voxels, Voxels | None],
        metas: Sequence[PlaneMeta],
    ):
        """Takes what `Events` has read."""
        self.entry, self.id, self.neutrino = entry, event_id, neutrino
        self.data, self.detector, self.image_shape = data, detector, image_shape
        self.voxels, self.metas = voxels, tuple(metas)

    @property
    def downsample(self) -> int:
        """How often the stored image was halved."""
        return self.data.downsample

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers."""
        return self.detector.classes

    @property
    def plane_shapes(self) -> tuple[ImageShape, ...]:
        """Rows and columns of each plane, where `charge[p]` and `label[p]` begin."""
        return self.detector.shapes_of_planes(self.image_shape)

    @property
    def charge(self) -> np.ndarray:
        """Charges, [P, H, W] float32, 0 where nothing is stored; to read only."""
        return self._images[0]

    @property
    def label(self) -> np.ndarray | None:
        """Numbers of classes, [P, H, W] uint8, or None where the file has none.

        0 background, 1 cosmic, 2 neutrino, unless `ctjax.open` was given others; 255
        where a label is ignored, and outside of a plane that is smaller than others.
        """
        return self._images[1] if self.voxels[1] is not None else None

    @functools.cached_property
    def sparse(self) -> tuple[StoredPixels, ...]:
        """Stored pixels of the P planes."""
        planes = []
        for plane in sparse_planes(*self.voxels):
            wires, ticks = np.divmod(plane.ids, np.int32(self.image_shape[0]))
            label = plane.classes if self.voxels[1] is not None else None
            planes.append(StoredPixels(wires, ticks, plane.values, label))
        return tuple(planes)

    @functools.cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        """Charges and classes as images."""
        shape = self.detector.num_planes, *self.image_shape
        charge, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        images.fill(charge, label, *self.voxels)
        for of_plane, (height, width) in zip(label, self.plane_shapes, strict=True):
            of_plane[height:] = of_plane[:, width:] = IGNORED
        # The same arrays each time: what is written to them would be seen by some
        # functions and not by others.
        charge.flags.writeable = label.flags.writeable = False
        return charge, label

    def __repr__(self) -> str:
        """Names the event."""
        words = [f"Event {self.entry}: {tuple(self.id)}"]
        if self.neutrino is not None:
            words.append(self.neutrino.name)
        return f"<{', '.join(words)}, {format_size(self.detector, self.image_shape)}>"


def format_size(detector: Detector, image_shape: ImageShape) -> str:
    """Formats the shape of an event's images."""
    return f"{detector.num_planes} x {image_shape[0]} x {image_shape[1]}"


def named_neutrino(neutrino: np.void) -> Neutrino | None:
    """Returns a neutrino of `read_neutrinos`, None where there is none."""
    if not neutrino["pdg"]:
        return None
    current = CURRENTS.get(int(neutrino["current"]))
    energy_gev = float(neutrino["energy_gev"])
    return Neutrino(int(neutrino["pdg"]), energy_gev, current, neutrino_name(neutrino))
