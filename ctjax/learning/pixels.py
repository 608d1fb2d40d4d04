"""Lists the pixels of a minibatch for losses and counts, images or sites alike."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import IGNORED, Detector
from ctjax.base.sites import Sites


class Pixels(NamedTuple):
    """Holds the pixels that a loss is taken over, of any shape.

    Attributes:
      logits: [..., K] float32.
      label: [...] integer class.
      counted: [...] float32, how many pixels each stands for; 0 for one that does not
        count.
      sum_planes: sums [..., *] over the pixels of each plane, to [P, *].
      of_planes: gives each pixel the value of its plane: [P, *] to [..., *], or to what
        broadcasts to it.
    """

    logits: jax.Array
    label: jax.Array
    counted: jax.Array
    sum_planes: Callable[[jax.Array], jax.Array]
    of_planes: Callable[[jax.Array], jax.Array]


def listed(
    logits: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    charge: jax.Array | None,
    sites: Sites | None,
    detector: Detector,
) -> Pixels:
    """Lists the pixels of images, or of sites where there are some.

    Those that the detector ignores count for nothing; see `of_images` and `of_sites`
    for the rest.
    """
    if sites is None:
        found = of_images(logits, label, mask, charge)
    else:
        found = of_sites(logits, label, mask, charge, sites)
    if detector.is_whole:
        return found
    return found._replace(counted=found.counted * (found.label != IGNORED))


def of_images(
    logits: jax.Array, label: jax.Array, mask: jax.Array, charge: jax.Array | None
) -> Pixels:
    """Lists all pixels of images.

    Args:
      logits: [B, P, H, W, K] float32.
      label: [B, P, H, W].
      mask: [B] float32, 1 for an event that counts.
      charge: [B, P, H, W] where only pixels with charge count, else None.
    """
    counted = jnp.broadcast_to(mask[:, None, None, None], label.shape)
    if charge is not None:
        counted = counted * (charge != 0)
    return Pixels(
        logits,
        label,
        counted,
        lambda values: jnp.sum(values, (0, 2, 3)),
        lambda values: values[None, :, None, None],
    )


def of_sites(
    logits: jax.Array,
    label: jax.Array,
    mask: jax.Array,
    charge: jax.Array | None,
    sites: Sites,
) -> Pixels:
    """Lists sites, and what stands for all pixels without one.

    The latter have the scores 0, as the original's sparse network gives them: each
    class is as probable as another.

    Args:
      logits: [Q, N, K] float32.
      label: [Q, N].
      mask: [B] float32, 1 for an event that counts.
      charge: [Q, N] where only pixels with charge count, else None.
      sites: of the minibatch.
    """
    parts, images, classes = sites.empty.shape
    num_planes = count_planes(sites)
    image = sites.levels[0].image
    # The mask of each image, and 0 for places without a site.
    counts = jnp.repeat(mask, num_planes).reshape(parts, images)
    counts = jnp.pad(counts, ((0, 0), (0, 1)))
    of_sites = jnp.take_along_axis(counts, image, 1)
    if charge is not None:
        of_sites = of_sites * (charge != 0)
        of_empty = jnp.zeros(sites.empty.shape)
    else:
        of_empty = sites.empty * counts[:, :images, None]
    plane = jnp.concatenate(
        [
            (image % num_planes).reshape(-1),
            jnp.tile(jnp.repeat(jnp.arange(images) % num_planes, classes), parts),
        ]
    )

    def joined(of_sites, of_empty):
        return jnp.concatenate([of_sites.reshape(image.size, -1), of_empty])

    def sum_planes(values: jax.Array) -> jax.Array:
        is_of = plane[None] == jnp.arange(num_planes)[:, None]
        is_of = is_of.reshape(*is_of.shape, *(1,) * (values.ndim - 1))
        return jnp.sum(jnp.where(is_of, values[None], 0), 1)

    every_class = jnp.tile(jnp.arange(classes, dtype=label.dtype), parts * images)
    return Pixels(
        joined(logits, jnp.zeros((every_class.size, classes))),
        joined(label, every_class[:, None])[:, 0],
        joined(of_sites, of_empty.reshape(-1, 1))[:, 0],
        sum_planes,
        lambda values: values[plane],
    )


def count_planes(sites: Sites) -> int:
    """Returns the number of planes P of the events."""
    return sites.steps[-1].parts.shape[-1]


def count_site_classes(
    prediction: jax.Array, label: jax.Array, sites: Sites
) -> jax.Array:
    """Counts what `metrics.confusion` does; a pixel without a site is background.

    Args:
      prediction: [Q, N] integer class.
      label: [Q, N] integer class; sites that are `IGNORED` do not count.
      sites: of the minibatch.

    Returns:
      [B, P, K, K] int32.
    """
    num_classes = sites.empty.shape[-1]
    # As int32: 255, which stands for no class, times K is none of the K x K kinds.
    kinds = jax.nn.one_hot(
        label.astype(jnp.int32) * num_classes + prediction, num_classes**2
    )
    shape = (-1, count_planes(sites), num_classes, num_classes)
    counts = sum_images(kinds, sites).astype(jnp.int32).reshape(shape)
    empty = sites.empty.reshape(shape[:-1])
    return counts.at[..., BACKGROUND].add(empty)


def are_finite(logits: jax.Array, sites: Sites) -> jax.Array:
    """Says of each event, [B] bool, whether all scores of its sites are numbers."""
    is_bad = ~jnp.isfinite(logits).all(-1, keepdims=True)
    bad = sum_images(is_bad.astype(jnp.float32), sites)
    return bad.reshape(-1, count_planes(sites)).sum(-1) == 0


def sum_images(values: jax.Array, sites: Sites) -> jax.Array:
    """Sums over the sites of each image: [Q, N, F] float32 to [Q, E * P, F].

    A product, which needs no scatter; of counts it is exact.
    """
    images = sites.empty.shape[-2]
    is_of = jax.nn.one_hot(sites.levels[0].image, images)
    return jnp.einsum(
        "qni,qnf->qif", is_of, values, precision=jax.lax.Precision.HIGHEST
    )
