"""Defines the two heads of a network on sites: which event it is, where its vertex.

Modules are called as those of `heads`, and are children of the network that makes them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ctjax.base.event_classes import NUM_EVENT_CLASSES
from ctjax.base.sites import Sites
from ctjax.config.heads import ActiveHeads, Classification, Vertex
from ctjax.learning.heads import NUM_VERTEX_SCORES
from ctjax.models.kernels import sparse
from ctjax.models.site_blocks import (
    PointwiseConvolution,
    around,
    images_of,
    sum_by_image,
)

NO_SITE_SCORES = (-20.0, 0.0, 0.0)
"""Of a cell of the vertex' map without a site: a probability of 2e-9 that it has the
vertex, whose loss is 20 where it has it all the same; no weight changes them."""

SiteHead = Callable[[jax.Array, Sites, bool], jax.Array]
"""`(x [N, C], sites, train) -> scores`, of one part of a minibatch."""


def read_levels(active: ActiveHeads, depth: int) -> frozenset[int]:
    """Says which levels' outputs the heads look at, by their number in `Sites.levels`.

    Args:
      active: the heads.
      depth: of the network; the planes are one at level `depth` + 1.
    """
    levels = set()
    if active.classification is not None:
        levels.add(depth + 1)
    if active.vertex is not None:
        levels.add(active.halvings)
    return frozenset(levels)


def make_event_head(
    head: Classification,
    block: functools.partial,
    series: functools.partial,
    bias: bool,
) -> SiteHead:
    """Makes what scores the classes of events.

    Args:
      head: its options.
      block: `site_blocks.SiteBlock` with all that is common to the network bound.
      series: likewise `site_blocks.SiteSeries`.
      bias: whether convolutions have one.

    Returns:
      The head, which takes features of the sites at which the planes are one and gives
      [E, 4] float32: means over the sites of each event, zeros where it has none.
    """
    wide = PointwiseConvolution(head.n_filters, bias, name="classifier_input")
    block = functools.partial(block, features=head.n_filters)
    blocks = series(block, head.n_layers, name="classifier")
    last = PointwiseConvolution(NUM_EVENT_CLASSES, bias, name="bottleneck_classifer")

    def classify(x: jax.Array, sites: Sites, train: bool) -> jax.Array:
        x = jax.lax.stop_gradient(x) if head.detach else x
        merged = sites.levels[-1]
        events = images_of(merged, sites, is_merged=True)
        x = blocks(wide(x), around(merged.neighbours, events), train)
        total, count = sum_by_image(last(x).astype(jnp.float32), events)
        return total / count

    return classify


def make_vertex_head(
    head: Vertex,
    level: int,
    block: functools.partial,
    series: functools.partial,
    bias: bool,
) -> SiteHead:
    """Makes what scores, for every cell of each plane, whether it has the vertex.

    Args:
      head: its options.
      level: number of the level that it looks at.
      block: as of `make_event_head`.
      series: likewise.
      bias: likewise.

    Returns:
      The head, which takes features of the sites of its level and returns
      [E * P, h, w, 3] float32 as of `heads.find_vertex`, of cells without a site
      `NO_SITE_SCORES`.
    """
    wide = PointwiseConvolution(head.n_filters, bias, name="vertex_input")
    block = functools.partial(block, features=head.n_filters)
    blocks = series(block, head.n_layers, name="vertex_layers")
    last = PointwiseConvolution(NUM_VERTEX_SCORES, bias, name="bottleneck_vertex")

    def find(x: jax.Array, sites: Sites, train: bool) -> jax.Array:
        assert sites.cells is not None
        x = jax.lax.stop_gradient(x) if head.detach else x
        here, (site, place) = sites.levels[level], sites.cells
        x = blocks(wide(x), around(here.neighbours, images_of(here, sites)), train)
        scores = sparse.lay_out(last(x).astype(jnp.float32), site.reshape(-1), place)
        scores = scores.reshape(*site.shape, NUM_VERTEX_SCORES)
        is_site = (site < len(place))[..., None]
        nothing = jnp.array(NO_SITE_SCORES)[None, None, None]
        return jnp.where(is_site, scores, nothing)

    return find
