"""Draws events."""

import functools
import io
from typing import Any

import numpy as np

from ctjax.api.evaluation import AVERAGE, checked_classes, metrics
from ctjax.api.events import Event
from ctjax.base.constants import NUM_PLANES, PLANE_METRICS
from ctjax.base.errors import UserError
from ctjax.views import picture
from ctjax.views.event import EventView, PlanePixels, event_name


def draw(event: Event, classes: Any = None) -> Any:
    """Draws the charge of an event and, where known, truth, prediction and errors.

    Args:
      event: of `ctjax.open`.
      classes: predicted, [P, H, W] integers, of the event's shape; None for none.

    Returns:
      A matplotlib figure that belongs to no window; a notebook shows it by itself, and
      `savefig` writes it.

    Raises:
      UserError: `classes` does not fit the event.
      MissingExtraError: matplotlib is not installed.

    Example:
      >>> ctjax.draw(event, tagger.classify(event.charge)).savefig("event.png")
    """
    if not isinstance(event, Event):
        raise UserError(
            f"event: expected an event of ctjax.open, got {type(event).__name__}"
        )
    figure = picture.draw(_view_of(event, classes))
    # Notebooks ask objects for a picture by this name; matplotlib's own way works only
    # where pyplot has been imported.
    figure._repr_png_ = functools.partial(_as_png, figure)
    return figure


def _view_of(event: Event, classes: Any) -> EventView:
    """Brings event and classes into the form that is drawn."""
    shape = NUM_PLANES, *event.image_shape
    predicted = np.zeros(shape, np.uint8)
    if classes is not None:
        predicted = checked_classes("classes", classes)
        if predicted.shape != shape:
            raise UserError(
                f"classes: expected {list(shape)}, got {list(predicted.shape)}"
            )
    label = np.zeros(shape, np.uint8) if event.label is None else event.label
    planes = []
    for charge, true, found in zip(event.charge, label, predicted, strict=True):
        rows, columns = np.nonzero((charge != 0) | (true != 0) | (found != 0))
        taken = [array[rows, columns] for array in (charge, true, found)]
        planes.append(PlanePixels(rows, columns, *taken))
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
    )


def _metrics_of(event: Event, classes: Any) -> dict[str, float]:
    """Returns metrics by the names of tables; none without truth or prediction."""
    if event.label is None or classes is None:
        return {}
    values = metrics(classes, event.label)
    return {(AVERAGE + n if n in PLANE_METRICS else n): v for n, v in values.items()}


def _as_png(figure: Any) -> bytes:
    """Returns a figure as the bytes of a .png file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
