"""Computes the losses of the heads: which event it is, and where its vertex.

Source:
  CosmicTagger v2.1, src/networks/torch/LossCalculator.py. Its log calls the sum of all
  losses that of the pixels where the vertex's head is the only one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.event_classes import NUM_EVENT_CLASSES
from ctjax.base.head_labels import HeadLabels
from ctjax.config.heads import ActiveHeads, Classification, Vertex
from ctjax.learning import heads, sharding
from ctjax.learning.heads import Outputs

EVENT_WEIGHTS = (0.16, 0.1666, 0.16666, 0.5)
"""Of the classes of events."""

VERTEX_FACTOR = 3.0

LOWEST_LOGARITHM = -100.0  # torch.nn.BCELoss's, for a probability of 0

HeadLoss = Callable[[Outputs, HeadLabels, jax.Array], dict[str, jax.Array]]
"""`(outputs, labels, mask) -> parts`, see `make_head_loss`."""


def make_head_loss(
    active: ActiveHeads,
    axis_name: str | None = None,
    detector: Detector = COSMIC_TAGGER,
) -> HeadLoss:
    """Returns the losses of the heads, weights included.

    Args:
      active: the heads.
      axis_name: of the mesh over which the minibatch is sharded; None where it is
        whole.
      detector: whose planes' cells count.

    Returns:
      `loss(outputs, labels, mask [B] float32)`, a scalar for each name: this device's
      shares, whose sums over the axis are the losses. Events of mask 0 do not count.
    """

    def loss(
        outputs: Outputs, labels: HeadLabels, mask: jax.Array
    ) -> dict[str, jax.Array]:
        parts = {}
        if active.classification is not None and outputs.event is not None:
            assert labels.event is not None
            label = jnp.asarray(labels.event)
            parts["event_label"] = _event_loss(
                active.classification, outputs.event, label, mask, axis_name
            )
        if active.vertex is not None and outputs.vertex is not None:
            assert labels.vertex is not None
            is_own = heads.own_cells(outputs, detector, active.halvings)
            target = heads.vertex_of_label(labels.vertex, outputs.vertex)
            offset = jnp.asarray(labels.vertex.offset)
            parts |= _vertex_losses(
                *(active.vertex, outputs.vertex, target, offset, mask),
                *(is_own, axis_name),
            )
        return parts

    return loss


def _event_loss(
    head: Classification,
    scores: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """Averages the cross entropy of events, weighted by their class."""
    own = jax.nn.one_hot(label, NUM_EVENT_CLASSES)
    entropy = -jnp.sum(own * jax.nn.log_softmax(scores), -1)
    # None where the class is unknown, which is no one of them.
    weight = mask * jnp.sum(own * jnp.array(EVENT_WEIGHTS)[None], -1)
    norm = sharding.total(weight.sum(), axis_name)
    return head.weight * jnp.sum(weight * entropy) / _at_least(norm)


def _vertex_losses(
    head: Vertex,
    scores: jax.Array,
    target: jax.Array,
    offset: jax.Array,
    mask: jax.Array,
    is_own: np.ndarray | None,
    axis_name: str | None,
) -> dict[str, jax.Array]:
    """Computes the losses of the vertex' cell, and of its place within the cell.

    Args:
      head: its options.
      scores: [B, P, h, w, 3] float32.
      target: [B, P, h, w] float32, 1 where the vertex is.
      offset: [B, P, 2] float32.
      mask: [B] float32.
      is_own: as of `heads.own_cells`.
      axis_name: see `make_head_loss`.
    """
    detection = scores[..., 0]
    # Of logits, which unlike probabilities never lose all their digits.
    toward = jnp.where(target > 0, detection, -detection)
    missing = jax.nn.sigmoid(-toward)
    entropy = -jnp.maximum(jax.nn.log_sigmoid(toward), LOWEST_LOGARITHM)
    # Unlike the weights of pixels, these have a gradient.
    of_cells = jnp.square(missing) * entropy
    if is_own is not None:
        of_cells = jnp.where(is_own[None], of_cells, 0.0)
    of_events = mask * of_cells.sum((1, 2, 3))
    images = sharding.total(mask.sum(), axis_name) * scores.shape[1]
    found = jax.nn.sigmoid(scores[..., 1:])
    distance = jnp.square(found - offset[:, :, None, None]).sum(-1)
    localization = mask * jnp.sum(target * distance, (1, 2, 3))
    factor = VERTEX_FACTOR * head.weight
    return {
        "vertex/detection": factor * head.l_det * of_events.sum() / _at_least(images),
        "vertex/localization": factor * head.l_coord * localization.sum(),
    }


def _at_least(norm: jax.Array) -> jax.Array:
    return jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
