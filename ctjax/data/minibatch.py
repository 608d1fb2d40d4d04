"""Names the arrays of a minibatch on the host, and the forms that they come in."""

import dataclasses
import enum
import itertools
from typing import NamedTuple

import numpy as np

from ctjax.base.head_labels import HeadLabels
from ctjax.base.sites import Sites


class HostMinibatch(NamedTuple):
    """Holds the events of a minibatch in one of three forms; others are None.

    Attributes:
      entries: [B] int64, place in the data set; -1 where there is no event.
      event_ids: [B, 3] int64, run, subrun and event; -1 where there is no event.
      mask: [B] float32, 1 for an event, 0 for an empty place or an event that has been
        skipped.
      image: [B, P, H, W] float32, charges; of the dense form.
      label: [B, P, H, W] uint8, classes, zeros where the file has none; likewise.
      ids: [B, P, V] int32, `column * H + row`, ascending in each plane, H * W and above
        for places that hold nothing; of the form of stored pixels.
      values: [B, P, V] float32, charges; likewise.
      labels: [B, P, V] uint8, classes; likewise.
      sites: of the Q parts of the minibatch, which take its events in order; of the
        form of sites.
      site_ids: [Q, N] int32, `column * H + row` of each site in its own image, H * W
        for places without a site; likewise.
      heads: labels of a network's heads, of every form; None for one without.
    """

    entries: np.ndarray
    event_ids: np.ndarray
    mask: np.ndarray
    image: np.ndarray | None = None
    label: np.ndarray | None = None
    ids: np.ndarray | None = None
    values: np.ndarray | None = None
    labels: np.ndarray | None = None
    sites: Sites | None = None
    site_ids: np.ndarray | None = None
    heads: HeadLabels | None = None


class Form(enum.Enum):
    """Says how a device is to get the pixels: all of them, or those stored."""

    DENSE = enum.auto()
    PIXELS = enum.auto()


@dataclasses.dataclass(frozen=True)
class SiteForm:
    """Says which lists of sites a network computes on.

    Attributes:
      depth: how often the image is halved before its planes are merged.
      deepest_size: side of the neighbourhood of the merged planes, in pixels, odd.
      parts: Q, equal parts of a process's minibatch that are computed each on its own.
      is_alone: whether no other process needs arrays of the same sizes.
      map_level: number of the level of which a head makes a map; None for none.
    """

    depth: int
    deepest_size: int
    parts: int = 1
    is_alone: bool = True
    map_level: int | None = None


def images_of_event(minibatch: HostMinibatch, place: int) -> list[tuple[int, slice]]:
    """Finds the sites of an event in a minibatch of sites.

    Args:
      minibatch: in the form of sites.
      place: of the event.

    Returns:
      For each of its P planes the part and the slice of its sites there.
    """
    assert minibatch.sites is not None
    parts, num_images = minibatch.sites.empty.shape[:2]
    part, event = divmod(place, len(minibatch.mask) // parts)
    num_planes = num_images * parts // len(minibatch.mask)
    images = event * num_planes + np.arange(num_planes + 1)
    ends = np.searchsorted(minibatch.sites.levels[0].image[part], images).tolist()
    return [(part, slice(*pair)) for pair in itertools.pairwise(ends)]
