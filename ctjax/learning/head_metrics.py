"""Computes the metrics of the heads: events of the right class, vertices found.

Source:
  CosmicTagger v2.1, src/utils/torch/trainer.py.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.event_classes import UNKNOWN_CLASS
from ctjax.base.head_labels import UNKNOWN_CELL, HeadLabels, VertexLabel
from ctjax.learning import heads
from ctjax.learning.heads import Outputs


def event_metrics(
    outputs: Outputs, labels: HeadLabels, is_own: np.ndarray | None = None
) -> jax.Array:
    """Computes the metrics of events.

    Args:
      outputs: of the network.
      labels: of the same events.
      is_own: as of `heads.own_cells`.

    Returns:
      [B, M] float32 in the order of `config.heads.metric_names`; not a number where an
      event does not count: of an unknown class or vertex, or for a distance without a
      vertex.
    """
    columns = []
    if outputs.event is not None and labels.event is not None:
        label = jnp.asarray(labels.event)
        is_right = jnp.argmax(outputs.event, -1) == label
        is_known = label != UNKNOWN_CLASS
        columns.append(jnp.where(is_known, is_right, jnp.nan)[:, None])
    if outputs.vertex is not None and labels.vertex is not None:
        columns.append(_vertex_metrics(outputs.vertex, labels.vertex, is_own))
    return jnp.concatenate(columns, 1).astype(jnp.float32)


def _vertex_metrics(
    scores: jax.Array, label: VertexLabel, is_own: np.ndarray | None
) -> jax.Array:
    """Returns detection and distance of the mean of the planes and of each."""
    # As in the original the cell of what has no vertex is the first one.
    target = heads.best_cell(heads.vertex_of_label(label, scores))
    detection = jax.nn.sigmoid(scores[..., 0])
    is_known = (jnp.asarray(label.cell) != UNKNOWN_CELL).all(-1)
    is_found = heads.best_cell(detection, is_own) == target
    position = heads.locate_vertex(scores, label, is_own)[..., :2]
    distance = jnp.sqrt(jnp.square(position - label.position).sum(-1))
    planes = jnp.stack([jnp.where(is_known, is_found, jnp.nan), distance], -1)
    number = jnp.sum(~jnp.isnan(planes), 1, keepdims=True)
    mean = jnp.nansum(planes, 1, keepdims=True) / number
    return jnp.concatenate([mean, planes], 1).reshape(len(scores), -1)


def sum_known(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums metrics over the events that count and have a number.

    Args:
      values: [B, M] float32.
      mask: [B] float32, 1 for an event that counts.

    Returns:
      The sums [M] and the numbers of events [M], float32.
    """
    weight = jnp.where(jnp.isnan(values), 0.0, mask[:, None])
    return jnp.sum(jnp.where(weight > 0, values, 0.0), 0), weight.sum(0)


def mean_of(sums: jax.Array, counts: jax.Array) -> jax.Array:
    """Divides sums of `sum_known`; not a number without events."""
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), jnp.nan)
