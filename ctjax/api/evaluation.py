"""Compares predicted with true classes."""

from typing import Any

import jax
import numpy as np

from ctjax.base.constants import NUM_CLASSES, NUM_PLANES
from ctjax.base.errors import UserError
from ctjax.learning import metrics as of_counts

AVERAGE = "Average/"


def metrics(classes: Any, label: Any) -> dict[str, float]:
    """Computes CosmicTagger's metrics of one event, or their mean over several.

    Args:
      classes: predicted, [P, H, W] or [B, P, H, W] integers: 0 background, 1 cosmic, 2
        neutrino; P is 3.
      label: true classes, of the same shape.

    Returns:
      "Total_Accuracy", "Cosmic_IoU", "Neutrino_IoU", "Non_Bkg_Accuracy" and "mIoU",
      each the mean of the planes, which tables of runs call "Average/Neutrino_IoU" and
      so on; then the same of each plane, "plane0/Neutrino_IoU". An intersection over
      union is 1 where a class is neither there nor predicted.

    Raises:
      UserError: there is no label, or shapes or values are not those of classes.

    Example:
      >>> ctjax.metrics(tagger.classify(event.charge), event.label)["Neutrino_IoU"]
      0.61
    """
    if label is None:
        raise UserError("label: found None, an event without true classes; no metrics")
    predicted, true = (
        checked_classes("classes", classes),
        checked_classes("label", label),
    )
    if predicted.shape != true.shape:
        raise UserError(
            f"label: expected the shape of classes, {list(predicted.shape)}, got "
            f"{list(true.shape)}"
        )
    shape = -1, *predicted.shape[-3:]
    values = np.asarray(_event_metrics(predicted.reshape(shape), true.reshape(shape)))
    return short_names(of_counts.named(values.mean(0)))


@jax.jit
def _event_metrics(classes: jax.Array, label: jax.Array) -> jax.Array:
    """Computes the metrics of events, [B, M], of classes [B, P, H, W]."""
    return of_counts.event_metrics(of_counts.confusion(classes, label))


def short_names(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves "Average/" out of the names of values."""
    return {name.removeprefix(AVERAGE): value for name, value in values.items()}


def checked_classes(name: str, classes: Any) -> np.ndarray:
    """Returns classes as uint8, or raises UserError."""
    array = np.asarray(classes)
    if array.dtype.kind not in "iu":
        raise UserError(f"{name}: expected integer classes, got {array.dtype}")
    is_image = array.ndim in (3, 4) and array.shape[-3] == NUM_PLANES and array.size
    if not is_image:
        raise UserError(
            f"{name}: expected [{NUM_PLANES}, H, W] or [B, {NUM_PLANES}, H, W], got "
            f"{list(array.shape)}"
        )
    if array.min() < 0 or array.max() >= NUM_CLASSES:
        raise UserError(
            f"{name}: expected classes 0 to {NUM_CLASSES - 1}, got {array.min()} to "
            f"{array.max()}"
        )
    return array.astype(np.uint8)
