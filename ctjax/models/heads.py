"""Defines the two heads of a UResNet: which event it is, and where its vertex.

Modules have the names of CosmicTagger v2.1, its misspelling included; they are children
of the network that calls these functions.

Source:
  CosmicTagger v2.1, src/networks/torch/uresnet2D.py.
"""

import functools

import jax
import jax.numpy as jnp

from ctjax.base.event_classes import NUM_EVENT_CLASSES
from ctjax.config.heads import ActiveHeads, Classification, Vertex
from ctjax.learning.heads import NUM_VERTEX_SCORES
from ctjax.models import layers


def read_levels(active: ActiveHeads, depth: int) -> frozenset[int]:
    """Says which levels' outputs on the way up the heads look at.

    Args:
      active: the heads.
      depth: of the network; levels are counted from the deepest one, 0.
    """
    levels = set()
    if active.classification is not None:
        levels.add(0)
    if active.vertex is not None:
        levels.add(depth - active.halvings)
    return frozenset(levels)


def classify_event(
    head: Classification,
    block: functools.partial,
    series: functools.partial,
    x: jax.Array,
    train: bool,
) -> jax.Array:
    """Scores the classes of an event.

    Args:
      head: its options.
      block: `blocks.Block` of images in which planes are together, of the right kernel.
      series: `blocks.BlockSeries` likewise.
      x: [B, h, w, P x C], what the planes have become where they meet.
      train: as in `PixelNetwork`.

    Returns:
      [B, 4] float32.
    """
    x = jax.lax.stop_gradient(x) if head.detach else x
    x = _project(x, head.n_filters, block, "classifier_input")
    block = functools.partial(block, features=head.n_filters)
    x = series(block, head.n_layers, name="classifier")(x, train)
    x = _project(x, NUM_EVENT_CLASSES, block, "bottleneck_classifer")
    return x.astype(jnp.float32).mean((1, 2))


def find_vertex(
    head: Vertex,
    block: functools.partial,
    series: functools.partial,
    x: jax.Array,
    train: bool,
) -> jax.Array:
    """Scores, for every cell of each plane, that it has the vertex and where.

    Args:
      head: its options.
      block: `blocks.Block` of the right kernel.
      series: `blocks.BlockSeries` likewise.
      x: [B x P, h, w, C], the output of a level.
      train: as in `PixelNetwork`.

    Returns:
      [B, P, h, w, 3] float32: logits of the vertex being in the cell, and of its row
      and column within it, from 0 to 1.
    """
    planes = block.keywords["num_planes"]
    x = jax.lax.stop_gradient(x) if head.detach else x
    x = _project(x, head.n_filters, block, "vertex_input")
    block = functools.partial(block, features=head.n_filters)
    x = series(block, head.n_layers, name="vertex_layers")(x, train)
    x = _project(x, NUM_VERTEX_SCORES, block, "bottleneck_vertex")
    return x.astype(jnp.float32).reshape(-1, planes, *x.shape[1:])


def _project(
    x: jax.Array, features: int, block: functools.partial, name: str
) -> jax.Array:
    """Convolves 1 x 1, without norm and activation."""
    common = block.keywords
    y, bias = layers.Convolution(
        features, 1, use_bias=common["bias"], dtype=common["dtype"], name=name
    )(x)
    return y if bias is None else y + bias.astype(y.dtype)[None, None, None]
