"""Takes an event to look at out of a minibatch that a step has evaluated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctjax.base.detector import Detector, ImageShape
from ctjax.data.minibatch import HostMinibatch, images_of_event
from ctjax.views.event import EventView, PlanePixels, event_name


def view_of_minibatch(
    minibatch: HostMinibatch,
    results: Mapping[str, Any],
    place: int,
    image_shape: tuple[int, int],
    downsample: int,
    detector: Detector,
) -> EventView:
    """Takes an event out of a minibatch that has been evaluated.

    Args:
      minibatch: on the host, in any form.
      results: of `steps.make_eval_step`.
      place: of the event in the minibatch.
      image_shape: (H, W) of its images.
      downsample: halvings of the stored image.
      detector: of the event.

    Returns:
      The event with the pixels of any charge or class, true or predicted; where the
      network computes at sites, with these alone. Its charges may be views of the
      minibatch.
    """
    values = np.asarray(results["metrics"][place]).tolist()
    if minibatch.sites is not None:
        planes = _planes_of_sites(minibatch, results, place, image_shape)
    else:
        shapes = detector.shapes_of_planes(image_shape)
        planes = _planes_of_images(minibatch, results, place, shapes)
    entry = int(minibatch.entries[place])
    return EventView(
        tuple(planes),
        image_shape,
        2**downsample,
        True,
        True,
        event_name(entry, minibatch.event_ids[place]),
        dict(zip(detector.metric_names, values, strict=True)),
        detector,
    )


def _planes_of_sites(
    minibatch: HostMinibatch,
    results: Mapping[str, Any],
    place: int,
    image_shape: tuple[int, int],
) -> list[PlanePixels]:
    """Takes an event's sites."""
    planes = []
    assert minibatch.sites is not None and minibatch.site_ids is not None
    for part, span in images_of_event(minibatch, place):
        columns, rows = np.divmod(minibatch.site_ids[part, span], image_shape[0])
        charge = minibatch.sites.charge[part, span]
        truth = np.asarray(results["label"])[part, span]
        prediction = np.asarray(results["prediction"])[part, span]
        planes.append(PlanePixels(rows, columns, charge, truth, prediction))
    return planes


def _planes_of_images(
    minibatch: HostMinibatch,
    results: Mapping[str, Any],
    place: int,
    shapes: Sequence[ImageShape],
) -> list[PlanePixels]:
    """Takes an event's pixels of any charge or class, within the planes' own shapes."""
    predicted = np.asarray(results["prediction"][place])
    true = np.asarray(results["label"][place])
    num_rows, num_columns = predicted.shape[1:]
    planes = []
    for plane, (height, width) in enumerate(shapes):
        if minibatch.ids is not None and minibatch.values is not None:
            charge = np.zeros((num_rows, num_columns), np.float32)
            ids = minibatch.ids[place, plane]
            stored = ids < charge.size
            columns, rows = np.divmod(ids[stored], num_rows)
            charge[rows, columns] = minibatch.values[place, plane][stored]
        else:
            assert minibatch.image is not None
            charge = minibatch.image[place, plane]
        own = [a[:height, :width] for a in (charge, true[plane], predicted[plane])]
        rows, columns = np.nonzero(np.any([array != 0 for array in own], 0))
        planes.append(PlanePixels(rows, columns, *(a[rows, columns] for a in own)))
    return planes
