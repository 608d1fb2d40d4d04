"""Names the arrays of a minibatch that a step computes with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector
from ctjax.base.head_labels import HeadLabels
from ctjax.base.sites import Sites
from ctjax.learning import dense_images

Array = jax.Array | np.ndarray
"""Numpy's until `sharding.distribute` has put it on the devices."""


class DenseMinibatch(NamedTuple):
    """Holds events as images.

    Attributes:
      image: [B, P, H, W] float32, charges.
      label: [B, P, H, W] uint8, classes.
      mask: [B] float32, 1 for an event that counts, 0 for an empty place.
      heads: labels of the network's heads; None for one without.
    """

    image: Array
    label: Array
    mask: Array
    heads: HeadLabels | None = None


class SparseMinibatch(NamedTuple):
    """Holds events as their stored pixels, which the device makes dense.

    Attributes:
      ids: [B, P, V] int32, as `dense_images.densify` takes them.
      values: [B, P, V] float32, charges.
      labels: [B, P, V] uint8, classes.
      mask: [B] float32, 1 for an event that counts, 0 for an empty place.
      heads: labels of the network's heads; None for one without.
    """

    ids: Array
    values: Array
    labels: Array
    mask: Array
    heads: HeadLabels | None = None


class SiteMinibatch(NamedTuple):
    """Holds events as lists of active sites, of which no images are made.

    Attributes:
      sites: of Q parts.
      mask: [B] float32, 1 for an event that counts, 0 for an empty place.
      heads: labels of the network's heads; None for one without.
    """

    sites: Sites
    mask: Array
    heads: HeadLabels | None = None


Minibatch = DenseMinibatch | SparseMinibatch | SiteMinibatch

NetworkInput = Callable[[Minibatch], tuple[Any, jax.Array, jax.Array]]
"""`minibatch -> (input, charge, label)`, see `make_input`."""


def dense(
    minibatch: DenseMinibatch | SparseMinibatch, image_shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Returns charges [B, P, H, W] float32 and classes [B, P, H, W] uint8.

    Args:
      minibatch: dense or sparse.
      image_shape: (H, W) of a sparse minibatch made dense.
    """
    if isinstance(minibatch, SparseMinibatch):
        ids, values = jnp.asarray(minibatch.ids), jnp.asarray(minibatch.values)
        labels = jnp.asarray(minibatch.labels)
        return dense_images.densify(ids, values, labels, image_shape)
    return jnp.asarray(minibatch.image), jnp.asarray(minibatch.label)


def make_input(
    image_shape: tuple[int, int],
    img_transform: bool,
    detector: Detector = COSMIC_TAGGER,
) -> NetworkInput:
    """Returns `minibatch -> (input, charge, label)`.

    Of images all three are [B, P, H, W]. Of sites charge and label are [Q, N], and the
    input is the sites with the charge that the network sees.

    Args:
      image_shape: (H, W) of a sparse minibatch made dense.
      img_transform: whether the network sees `log_of_charge` instead of the charge.
      detector: whose planes' own pixels have labels; others are `IGNORED`.
    """
    is_own = own_pixels(detector, image_shape)

    def seen(charge: Array) -> Array:
        return log_of_charge(charge) if img_transform else charge

    def network_input(minibatch: Minibatch) -> tuple[Any, jax.Array, jax.Array]:
        if isinstance(minibatch, SiteMinibatch):
            sites = minibatch.sites
            return sites._replace(charge=seen(sites.charge)), sites.charge, sites.label
        charge, label = dense(minibatch, image_shape)
        if is_own is not None:
            label = jnp.where(is_own, label, jnp.uint8(IGNORED))
        return seen(charge), charge, label

    return network_input


def own_pixels(detector: Detector, image_shape: tuple[int, int]) -> np.ndarray | None:
    """Says which pixels are those of each plane, [P, H, W] bool; None for all."""
    if detector.plane_shapes is None:
        return None
    row, column = np.ogrid[: image_shape[0], : image_shape[1]]
    return np.stack([(row < h) & (column < w) for h, w in detector.plane_shapes])


def log_of_charge(charge: Array) -> jax.Array:
    """Returns log(1 + charge), and of negative charges the opposite of their size's.

    CosmicTagger's log(1 + charge) has no value at -1 and below, where signals of
    induction planes go. Mirrored it is finite everywhere and keeps their sign and
    size; where charges are not negative, nothing changes.

    Args:
      charge: of any shape, float32.
    """
    charge = jnp.asarray(charge)
    return jnp.copysign(jnp.log(jnp.abs(charge) + 1.0), charge)
