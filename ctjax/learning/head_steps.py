"""Makes what the heads of a network add to a training and an evaluation step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.detector import Detector
from ctjax.base.head_labels import HeadLabels
from ctjax.config.heads import ActiveHeads
from ctjax.learning import head_metrics, heads, metrics, sharding
from ctjax.learning.head_losses import make_head_loss
from ctjax.learning.heads import Outputs


class Losses(NamedTuple):
    """Holds the loss of a minibatch.

    Attributes:
      total: scalar.
      parts: [N] float32, what it is the sum of, and it; None without heads.
    """

    total: jax.Array
    parts: jax.Array | None


class MetricSums(NamedTuple):
    """Holds sums of metrics over events, and the numbers of events.

    Attributes:
      of_pixels: [M] and a scalar.
      of_heads: [N] and [N]; None without heads.
    """

    of_pixels: tuple[jax.Array, jax.Array]
    of_heads: tuple[jax.Array, jax.Array] | None


def make_head_parts(
    active: ActiveHeads, axis_name: str | None, detector: Detector
) -> Callable[[Outputs, Any, jax.Array], tuple[jax.Array, Any, Any]]:
    """Returns what adds the losses of the heads to that of the pixels.

    Args:
      active: the heads.
      axis_name: as in `steps.StepOptions`.
      detector: likewise.

    Returns:
      `(outputs, minibatch, loss) -> (loss, parts, sums)`, the latter two as of `Losses`
      and `MetricSums`. Without heads the loss is that of the pixels.
    """
    head_loss = make_head_loss(active, axis_name, detector)

    def add(outputs: Outputs, minibatch: Any, loss: jax.Array):
        if not active:
            return loss, None, None
        labels = find_labels(outputs, minibatch, active.halvings)
        parts = [loss, *head_loss(outputs, labels, minibatch.mask).values()]
        total = sum(parts[1:], parts[0])
        is_own = heads.own_cells(outputs, detector, active.halvings)
        values = head_metrics.event_metrics(outputs, labels, is_own)
        sums = head_metrics.sum_known(values, minibatch.mask)
        return total, jnp.stack([*parts, total]), sums

    return add


def find_labels(outputs: Outputs, minibatch: Any, halvings: int) -> HeadLabels:
    """Returns the labels of the heads; unknown ones where the minibatch has none."""
    if minibatch.heads is not None:
        return jax.tree.map(jnp.asarray, minibatch.heads)
    return heads.unknown_label(outputs, halvings)


def head_results(
    active: ActiveHeads,
    outputs: Outputs,
    minibatch: Any,
    detector: Detector,
    axis_name: str | None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Computes what an evaluation step returns of the heads.

    Args:
      active: the heads.
      outputs: of the network.
      minibatch: of the same events, this device's.
      detector: as in `steps.StepOptions`.
      axis_name: likewise.

    Returns:
      For all devices' events, those of the heads that there are: `event_score` [B, 4]
      float32, probabilities of `EVENT_CLASSES`; `event_label` [B] int32, -1
      where unknown; `vertex` [B, P, 3] float32, row and column in cm and the score of
      that cell; `vertex_label` [B, P, 2] float32, row and column in cm, not numbers
      where there is none. And of this device's events the metrics, [B, M] float32, of
      `config.heads.metric_names`.
    """
    labels = find_labels(outputs, minibatch, active.halvings)
    is_own = heads.own_cells(outputs, detector, active.halvings)
    found = {}
    if outputs.event is not None:
        found["event_score"] = jax.nn.softmax(outputs.event, -1)
        found["event_label"] = labels.event
    if outputs.vertex is not None and labels.vertex is not None:
        found["vertex"] = heads.locate_vertex(outputs.vertex, labels.vertex, is_own)
        found["vertex_label"] = labels.vertex.position
    values = head_metrics.event_metrics(outputs, labels, is_own)
    gathered = {name: sharding.gather(a, axis_name) for name, a in found.items()}
    return gathered, values


def add_results(
    active: ActiveHeads,
    detector: Detector,
    axis_name: str | None,
    is_finite: jax.Array,
    values: jax.Array,
    outputs: Outputs,
    minibatch: Any,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Adds the heads, if there are any, to what is known of this device's events.

    Args:
      active: the heads.
      detector: as in `steps.StepOptions`.
      axis_name: likewise.
      is_finite: [B] bool, whether all scores of an event's pixels are numbers.
      values: [B, M] float32, the metrics of the pixels.
      outputs: of the network.
      minibatch: of the same events.

    Returns:
      The two with what the heads add, and the results of `head_results`.
    """
    if not active:
        return is_finite, values, {}
    is_finite &= are_finite(outputs)
    of_heads, more = head_results(active, outputs, minibatch, detector, axis_name)
    return is_finite, jnp.concatenate([values, more], 1), of_heads


EVENT_RESULTS = ("event_score", "event_label")
VERTEX_RESULTS = ("vertex", "vertex_label")
ALL_RESULTS = (*EVENT_RESULTS, *VERTEX_RESULTS)


def result_names(active: ActiveHeads) -> tuple[str, ...]:
    """Returns the names of the results of `head_results`, for their layout."""
    of_event = EVENT_RESULTS if active.classification else ()
    return (*of_event, *(VERTEX_RESULTS if active.vertex else ()))


def mean_metrics(sums: MetricSums) -> jax.Array:
    """Returns the means of metrics, those of the heads last."""
    means = metrics.mean_of(*sums.of_pixels)
    if sums.of_heads is None:
        return means
    return jnp.concatenate([means, head_metrics.mean_of(*sums.of_heads)])


def mean_over_events(
    values: jax.Array, mask: jax.Array, num_of_pixels: int
) -> np.ndarray:
    """Averages the metrics of an evaluation step over its events.

    Args:
      values: [B, M + N], N of the heads.
      mask: [B] float32, 1 for an event that counts.
      num_of_pixels: M.

    Returns:
      [M + N] float32, on the host.
    """
    of_heads = None
    if values.shape[1] > num_of_pixels:
        of_heads = head_metrics.sum_known(values[:, num_of_pixels:], mask)
    of_pixels = metrics.sum_metrics(values[:, :num_of_pixels], mask)
    return np.asarray(mean_metrics(MetricSums(of_pixels, of_heads)))


def are_finite(outputs: Outputs) -> jax.Array:
    """Says of each event, [B] bool, whether all that its heads say is a number."""
    found = [a for a in (outputs.event, outputs.vertex) if a is not None]
    each = [jnp.isfinite(a.reshape(len(a), -1)).all(1) for a in found]
    return jnp.stack(each).all(0)
