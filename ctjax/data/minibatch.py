"""Names the arrays of a minibatch on the host."""

import itertools
from typing import NamedTuple

import numpy as np


class HostMinibatch(NamedTuple):
    """Holds the events of a minibatch, as dense images or in the sparse form.

    Attributes:
      entries: [B] int64, place in the data set; -1 where there is no event.
      event_ids: [B, 3] int64, run, subrun and event; -1 where there is no event.
      mask: [B] float32, 1 for an event, 0 for an empty place.
      image: [B, P, H, W] float32, charges; None in the sparse form.
      label: [B, P, H, W] uint8, classes, zeros where the file has none; None in the
        sparse form.
      ids: [B, P, V] int32, `column * H + row`, ascending in each plane, H * W and above
        for places that hold nothing; None in the dense form.
      values: [B, P, V] float32, charges; None in the dense form.
      labels: [B, P, V] uint8, classes; None in the dense form.
    """

    entries: np.ndarray
    event_ids: np.ndarray
    mask: np.ndarray
    image: np.ndarray | None = None
    label: np.ndarray | None = None
    ids: np.ndarray | None = None
    values: np.ndarray | None = None
    labels: np.ndarray | None = None


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
