"""Compares predicted with true classes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector
from ctjax.base.errors import UserError
from ctjax.learning import metrics as of_counts

AVERAGE = "Average/"


def metrics(
    classes: Any, label: Any, names: Sequence[str] = COSMIC_TAGGER.classes
) -> dict[str, float]:
    """Computes CosmicTagger's metrics of one event, or their mean over several.

    Args:
      classes: predicted, [P, H, W] or [B, P, H, W] integers: numbers of `names`.
      label: true classes, of the same shape; pixels of 255 do not count, which
        `Event.label` has where a label is ignored or a plane ends.
      names: of the classes, background first, as `Tagger.classes` and `Events.classes`
        have them.

    Returns:
      "Total_Accuracy", "Cosmic_IoU", "Neutrino_IoU" or those of the other names,
      "Non_Bkg_Accuracy" and "mIoU", each the mean of the planes, which tables of runs
      call "Average/Neutrino_IoU" and so on; then the same of each plane,
      "plane0/Neutrino_IoU". An intersection over union is 1 where a class is neither
      there nor predicted.

    Raises:
      UserError: there is no label, or shapes or values are not those of classes.

    Examples:
      >>> ctjax.metrics(tagger.classify(event.charge), event.label)["Neutrino_IoU"]
      0.61
      >>> classes = tagger.classify(event.charge)
      >>> ctjax.metrics(classes, event.label, tagger.classes)["Michel_IoU"]
      0.44
    """
    if label is None:
        raise UserError("label: found None, an event without true classes; no metrics")
    if isinstance(names, str) or len(names) < 2:
        raise UserError(f"names: expected those of two classes or more, got {names!r}")
    predicted = checked_classes("classes", classes, len(names))
    true = checked_classes("label", label, len(names), may_ignore=True)
    if predicted.shape != true.shape:
        raise UserError(
            f"label: expected the shape of classes, {list(predicted.shape)}, got "
            f"{list(true.shape)}"
        )
    detector = Detector(predicted.shape[-3], tuple(names))
    shape = -1, *predicted.shape[-3:]
    values = _event_metrics(len(names), predicted.reshape(shape), true.reshape(shape))
    mean = np.asarray(values).mean(0)
    return short_names(of_counts.named(mean, detector.metric_names))


@functools.partial(jax.jit, static_argnums=0)
def _event_metrics(num_classes: int, classes: jax.Array, label: jax.Array) -> jax.Array:
    """Computes the metrics of events, [B, M], of classes [B, P, H, W]."""
    return of_counts.event_metrics(of_counts.confusion(classes, label, num_classes))


def short_names(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves "Average/" out of the names of values."""
    return {name.removeprefix(AVERAGE): value for name, value in values.items()}


def checked_classes(
    name: str, classes: Any, num_classes: int, may_ignore: bool = False
) -> np.ndarray:
    """Returns classes as uint8, or raises UserError.

    Args:
      name: of the argument, for messages.
      classes: that are given.
      num_classes: K.
      may_ignore: whether pixels may be `IGNORED`.
    """
    array = np.asarray(classes)
    if array.dtype.kind not in "iu":
        raise UserError(f"{name}: expected integer classes, got {array.dtype}")
    if array.ndim not in (3, 4) or not array.size:
        raise UserError(
            f"{name}: expected [P, H, W] or [B, P, H, W], got {list(array.shape)}"
        )
    known = array[array != IGNORED] if may_ignore else array
    if known.size and (known.min() < 0 or known.max() >= num_classes):
        raise UserError(
            f"{name}: expected classes 0 to {num_classes - 1}, got {known.min()} to "
            f"{known.max()}"
        )
    return array.astype(np.uint8)
