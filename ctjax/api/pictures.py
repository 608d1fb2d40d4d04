"""Draws events."""

import functools
import io
from typing import Any

import numpy as np

from ctjax.api.evaluation import AVERAGE, checked_classes, metrics
from ctjax.api.event import Event
from ctjax.base.errors import UserError
from ctjax.views import picture
from ctjax.views.event import EventView, PlanePixels, event_name
from ctjax.views.event_table import Vertices


def draw(event: Event, classes: Any = None, vertex: Any = None) -> Any:
    """Draws the charge of an event and, where known, truth, prediction and errors.

    Args:
      event: of `ctjax.open`.
      classes: predicted, [P, H, W] integers, of the event's shape, numbers of its
        `classes`; None for none. These have the colours that `ctjax.open` was given.
      vertex: predicted, [P, 3] of `Tagger.find_vertex`; None for none.

    Returns:
      A matplotlib figure that belongs to no window; a notebook shows it by itself, and
      `savefig` writes it.

    Raises:
      UserError: `classes` or `vertex` does not fit the event.
      MissingExtraError: matplotlib is not installed.

    Examples:
      >>> ctjax.draw(event, tagger.classify(event.charge)).savefig("event.png")
    """
    if not isinstance(event, Event):
        raise UserError(
            f"event: expected an event of ctjax.open, got {type(event).__name__}"
        )
    figure = picture.draw(_view_of(event, classes, vertex))
    # Notebooks ask objects for a picture by this name; matplotlib's own way works only
    # where pyplot has been imported.
    figure._repr_png_ = functools.partial(_as_png, figure)
    return figure


def _view_of(event: Event, classes: Any, vertex: Any) -> EventView:
    """Brings event and classes into the form that is drawn."""
    shape = event.charge.shape
    predicted = np.zeros(shape, np.uint8)
    if classes is not None:
        predicted = checked_classes("classes", classes, len(event.classes))
        if predicted.shape != shape:
            raise UserError(
                f"classes: expected {list(shape)}, got {list(predicted.shape)}"
            )
    label = np.zeros(shape, np.uint8) if event.label is None else event.label
    planes = []
    for plane, (height, width) in enumerate(event.plane_shapes):
        own = [a[plane, :height, :width] for a in (event.charge, label, predicted)]
        rows, columns = np.nonzero(np.any([array != 0 for array in own], 0))
        planes.append(PlanePixels(rows, columns, *(a[rows, columns] for a in own)))
    name = event_name(event.entry, np.array(event.id))
    neutrino = event.neutrino.name if event.neutrino is not None else ""
    return EventView(
        planes=tuple(planes),
        image_shape=event.image_shape,
        pixel_size=2**event.downsample,
        has_truth=event.label is not None,
        has_prediction=classes is not None,
        title=", ".join(filter(None, [name, neutrino])),
        metrics=_metrics_of(event, classes),
        detector=event.detector,
        vertices=None if vertex is None else _vertices_of(event, vertex),
    )


def _vertices_of(event: Event, vertex: Any) -> Vertices:
    """Brings predicted vertices into the form that is drawn."""
    found, expected = np.asarray(vertex), (event.detector.num_planes, 3)
    if found.shape != expected or found.dtype.kind != "f":
        raise UserError(
            f"vertex: expected {list(expected)} of a tagger's find_vertex, got "
            f"{found.dtype} {list(found.shape)}"
        )
    unknown = np.full(expected[0], np.nan)
    nowhere = np.full((expected[0], 2), np.nan)
    vertices = Vertices(nowhere, found[:, :2], found[:, 2], unknown)
    return vertices.in_pixels(event.metas)


def _metrics_of(event: Event, classes: Any) -> dict[str, float]:
    """Returns metrics by the names of tables; none without truth or prediction."""
    if event.label is None or classes is None:
        return {}
    values = metrics(classes, event.label, event.classes)
    averages = event.detector.plane_metrics
    return {(AVERAGE + n if n in averages else n): v for n, v in values.items()}


def _as_png(figure: Any) -> bytes:
    """Returns a figure as the bytes of a .png file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
