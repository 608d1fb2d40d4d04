"""Defines the sparse UResNet, which computes at the pixels that hold charge alone.

Its convolutions are submanifold ones: a site is active at the output where it is at the
input, and pixels that are not count as zero. A pixel without a site gets the scores 0.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.sites import Cells, Coarsening, Level, Sites
from ctjax.config.choices import Connection, GrowthRate
from ctjax.config.heads import active_heads
from ctjax.learning.heads import Outputs
from ctjax.models import site_blocks, site_heads
from ctjax.models.pixel_network import ImageRule, PixelNetwork, glorot_bounds
from ctjax.models.site_blocks import PointwiseConvolution, around, down, images_of, up

Seen = dict[int, jax.Array]
"""Features [N, C] of the levels that heads look at, by their number."""


class DeepestBlock(nn.Module):
    """Computes the lowest level, where the planes of an event are one.

    Attributes:
      network: the network's options.
      block: `site_blocks.SiteBlock` with all that is common to the network bound.
      series: likewise `site_blocks.SiteSeries`.
      read: numbers of the levels that heads look at.
    """

    network: Any
    block: functools.partial
    series: functools.partial
    read: frozenset[int] = frozenset()

    @nn.compact
    def __call__(
        self, x: jax.Array, sites: Sites, train: bool
    ) -> tuple[jax.Array, Seen]:
        """Maps [N, C] to the same shape; returns what heads look at, too."""
        config, width = self.network, x.shape[-1]
        planes, merged = sites.levels[-2:]
        images = images_of(merged, sites, is_merged=True)
        step = sites.steps[-1]
        area = (step.parts.shape[-1],)
        narrow = functools.partial(self.block, features=config.bottleneck_deepest)
        x = narrow(is_plain=True, name="merger")(x, down(step, area, images), train)
        x = self.series(narrow, config.blocks_deepest_layer, name="blocks")(
            x, around(merged.neighbours, images), train
        )
        seen = {config.depth + 1: x}
        splitter = self.block(features=width, is_plain=True, name="splitter")
        x = splitter(x, up(step, area, images_of(planes, sites)), train)
        seen[config.depth] = x
        return x, {level: seen[level] for level in self.read & seen.keys()}


class SparseLevel(nn.Module):
    """Computes one resolution of the U and everything below it.

    Attributes:
      network: the network's options.
      block: as of `DeepestBlock`.
      series: likewise.
      read: likewise.
      level: number of this resolution, 0 at the top.
    """

    network: Any
    block: functools.partial
    series: functools.partial
    read: frozenset[int]
    level: int

    @nn.compact
    def __call__(
        self, x: jax.Array, sites: Sites, train: bool
    ) -> tuple[jax.Array, Seen]:
        """Maps [N, C] to the same shape; returns what heads look at, too."""
        config, level = self.network, self.level
        common = config, self.block, self.series, self.read
        if level == config.depth:
            return DeepestBlock(*common, name="main_module")(x, sites, train)

        width = x.shape[-1]
        multiplies = config.growth_rate is GrowthRate.MULTIPLICATIVE
        width_below = width + (width if multiplies else config.n_initial_filters)
        here, below = sites.levels[level : level + 2]
        images, step = images_of(here, sites), sites.steps[level]
        same = around(here.neighbours, images)
        block = functools.partial(self.block, features=width)
        series = functools.partial(self.series, block, config.blocks_per_layer)

        x = skip = series(name="down_blocks")(x, same, train)
        downsample = self.block(features=width_below, name="downsample")
        x = downsample(x, down(step, (2, 2), images_of(below, sites)), train)
        below_this = SparseLevel(*common, level + 1, name="main_module")
        x, seen = below_this(x, sites, train)
        x = block(name="upsample")(x, up(step, (2, 2), images), train)
        if config.connections is Connection.SUM:
            x = x + skip
        elif config.connections is Connection.CONCAT:
            x = ConcatConnection(config.bias, name="connection")(x, skip)
        x = series(name="up_blocks")(x, same, train)
        return x, seen | ({level: x} if level in self.read else {})


class ConcatConnection(nn.Module):
    """Joins the skip connection by a product over both inputs' features."""

    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array) -> jax.Array:
        """Maps two arrays [N, C] to one."""
        joined = jnp.concatenate([x, skip], -1)
        return PointwiseConvolution(x.shape[-1], self.bias, name="bottleneck")(joined)


class UResNetSparse(PixelNetwork):
    """Computes the sparse UResNet; see `PixelNetwork`.

    Batch normalization takes its statistics over the sites of all planes together.

    Source:
      CosmicTagger, src/networks/torch/sparseuresnet3D.py, on SparseConvNet
      (arXiv:1711.10275). There features always grow additively.
    """

    @nn.nowrap
    def image_rule(self) -> ImageRule:
        """Takes all images: the lists of sites round half of an odd number up."""
        return ImageRule(1, 1, "depth")

    @nn.nowrap
    def initial_bounds(self, shapes) -> dict:
        """Draws kernels as those of the dense network."""
        return glorot_bounds(shapes)

    @nn.nowrap
    def example_input(self) -> Sites:
        """Returns an event without a site."""
        config, planes = self.network, self.detector.num_planes
        areas = [9] * (config.depth + 1) + [config.filter_size_deepest**2]
        widths = [4] * config.depth + [planes]
        return Sites(
            charge=np.zeros((1, 1), np.float32),
            label=np.zeros((1, 1), np.uint8),
            wide=np.ones((1, 1, 25), np.int32),
            levels=tuple(
                Level(
                    np.full((1, 1), planes, np.int32), np.ones((1, 1, area), np.int32)
                )
                for area in areas
            ),
            steps=tuple(
                Coarsening(
                    np.ones((1, 1, width), np.int32), np.full((1, 1), width, np.int32)
                )
                for width in widths
            ),
            empty=np.zeros((1, planes, self.detector.num_classes), np.int32),
            cells=Cells(
                np.ones((1, planes, 1, 1), np.int32), np.full((1, 1), planes, np.int32)
            ),
        )

    @nn.compact
    def __call__(self, image: Sites, train: bool = False) -> jax.Array | Outputs:
        """Computes the class scores of every site, and what heads find.

        Args:
          image: the sites, whose `charge` the network sees.
          train: whether to normalize by the minibatch and update running statistics
            (collection "batch_stats").

        Returns:
          logits, [Q, N, K] float32; of a network with heads `Outputs`.
        """
        config = self.network
        active = active_heads(config)
        block = functools.partial(
            site_blocks.SiteBlock,
            bias=config.bias,
            normalization=config.normalization,
            axis_name=self.axis_name if config.sync_batch_norm else None,
        )
        series = functools.partial(
            site_blocks.SiteSeries, residual=config.residual, remat=self.remat
        )
        features = functools.partial(block, features=config.n_initial_filters)
        initial_convolution = features(name="initial_convolution")
        read = site_heads.read_levels(active, config.depth)
        net_core = SparseLevel(config, block, series, read, 0, name="net_core")
        final_layer = series(features, config.blocks_final, name="final_layer")
        bottleneck = PointwiseConvolution(
            self.detector.num_classes, config.bias, name="bottleneck"
        )
        common = block, series, config.bias
        classify = find = None
        if active.classification is not None:
            classify = site_heads.make_event_head(active.classification, *common)
        if active.vertex is not None:
            given = active.vertex, active.halvings, *common
            find = site_heads.make_vertex_head(*given)

        def of_part(sites: Sites) -> Outputs:
            first = sites.levels[0]
            images = images_of(first, sites)
            x = sites.charge[:, None].astype(self.dtype)
            x = initial_convolution(x, around(sites.wide, images), train)
            x, seen = net_core(x, sites, train)
            x = final_layer(x, around(first.neighbours, images), train)
            event = vertex = None
            if classify is not None:
                event = classify(seen[config.depth + 1], sites, train)
            if find is not None:
                vertex = find(seen[active.halvings], sites, train)
            return Outputs(bottleneck(x).astype(jnp.float32), event, vertex)

        # One after the other: only an evaluation has several.
        parts = [
            of_part(jax.tree.map(lambda array, q=q: array[q], image))
            for q in range(len(image.charge))
        ]
        found = _join(parts, self.detector.num_planes)
        return found if active else found.pixels


def _join(parts: list[Outputs], num_planes: int) -> Outputs:
    """Joins the outputs of parts, those of heads being of events and images."""
    pixels, event, vertex = jax.tree.map(lambda *each: jnp.stack(each), *parts)
    if event is not None:
        event = event.reshape(-1, event.shape[-1])
    if vertex is not None:
        vertex = vertex.reshape(-1, num_planes, *vertex.shape[2:])
    return Outputs(pixels, event, vertex)
