"""Computes CosmicTagger's metrics, one value an event."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import COSMIC_TAGGER


def event_metrics(counts: jax.Array) -> jax.Array:
    """Computes the metrics of events from their pixels of each class.

    Args:
      counts: [B, P, K, K] integers, see `confusion`.

    Returns:
      [B, M] float32 in the order of `Detector.metric_names`: for the mean of the planes
      and for each plane the fraction of pixels that are right, the intersection over
      union of the pixels of each class but the background, the fraction of the pixels
      labelled as one of these that are right, and the mean of the intersections over
      union.

    Source:
      CosmicTagger, src/utils/torch/trainer.py. As there, the intersection over union
      is 1 where a class is neither present nor predicted. Where an event has no
      labelled pixel, Non_Bkg_Accuracy is 1 here and not a number there.
    """

    def ratio_or_one(part: jax.Array, whole: jax.Array) -> jax.Array:
        return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 1.0)

    def iou(wanted: int) -> jax.Array:
        both = correct[..., wanted]
        either = labelled[..., wanted] + counts[..., wanted].sum(-1) - both
        return ratio_or_one(both, either)

    correct = jnp.diagonal(counts, axis1=-2, axis2=-1)
    labelled = counts.sum(-1)
    ious = [iou(number) for number in range(1, counts.shape[-1])]
    right, everywhere = correct.sum(-1), labelled.sum(-1)
    planes = jnp.stack(
        [
            ratio_or_one(right, everywhere),
            *ious,
            ratio_or_one(
                right - correct[..., BACKGROUND],
                everywhere - labelled[..., BACKGROUND],
            ),
            (1 / len(ious)) * sum(ious[1:], ious[0]),
        ],
        axis=-1,
    )
    groups = jnp.concatenate([planes.mean(1, keepdims=True), planes], axis=1)
    return groups.reshape(len(counts), -1).astype(jnp.float32)


def confusion(
    prediction: jax.Array,
    label: jax.Array,
    num_classes: int = COSMIC_TAGGER.num_classes,
) -> jax.Array:
    """Counts the pixels of every true and predicted class, event by event.

    Args:
      prediction: [B, P, H, W] integer class.
      label: [B, P, H, W] integer class; pixels that are `IGNORED` do not count.
      num_classes: K.

    Returns:
      [B, P, K, K] int32, the true class first; in the order of
      `Detector.confusion_names` when flattened.
    """
    classes = range(num_classes)
    counts = [
        jnp.sum((label == true) & (prediction == found), (2, 3), dtype=jnp.int32)
        for true in classes
        for found in classes
    ]
    return jnp.stack(counts, -1).reshape(*label.shape[:2], num_classes, num_classes)


def sum_metrics(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums metrics over the events that count, for means over any number of parts.

    Args:
      values: [B, M] float32.
      mask: [B] float32, 1 for an event that counts.

    Returns:
      The sums [M] and the number of events, float32.
    """
    return jnp.sum(values * mask[:, None], 0), mask.sum()


def mean_of(sums: jax.Array, count: jax.Array) -> jax.Array:
    """Divides sums of `sum_metrics` by their number of events; 0 without events."""
    return sums / jnp.maximum(count, 1)


def named(
    values: jax.Array | np.ndarray, names: Sequence[str] = COSMIC_TAGGER.metric_names
) -> dict[str, float]:
    """Gives [M] metrics their names."""
    numbers = np.asarray(values).tolist()
    return dict(zip(names, numbers, strict=True))
