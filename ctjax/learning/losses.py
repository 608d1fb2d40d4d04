"""Computes the loss: every pixel's cross entropy, weighted by a balance scheme."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.sites import Sites
from ctjax.config.choices import LossAverage, LossBalanceScheme
from ctjax.config.detectors import LIGHT_WEIGHTS
from ctjax.learning import pixels, sharding
from ctjax.learning.pixels import Pixels

LossFn = Callable[..., jax.Array]
"""`loss(logits, label, mask, charge, sites)`, see `make_loss`."""


def pixel_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Computes minus the logarithm of each pixel's probability of its own class.

    Args:
      logits: [..., K] float32.
      label: [...] integer class; of what is `IGNORED` the result is of no use.

    Returns:
      [...] float32.
    """
    # Few classes: a one-hot sum is cheaper on every device than a gather, and its
    # gradient is no scatter.
    own = jnp.sum(jax.nn.one_hot(label, logits.shape[-1]) * logits, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - own


def _no_weights(pixels: Pixels, axis_name, class_weights):
    return pixels.counted


def _light_weights(pixels: Pixels, axis_name, class_weights):
    weights: Any = class_weights[BACKGROUND]
    for number, weight in enumerate(class_weights[1:], 1):
        weights = jnp.where(pixels.label == number, weight, weights)
    return pixels.counted * weights


def _even_weights(pixels: Pixels, axis_name, class_weights):
    # One class weighs as much as another, whatever its number of pixels; the 1 of the
    # original guards a class that is absent from the minibatch.
    num_classes = pixels.logits.shape[-1]
    one_hot = jax.nn.one_hot(pixels.label, num_classes) * pixels.counted[..., None]
    counts = sharding.total(pixels.sum_planes(one_hot), axis_name)
    # 0.3333 for three classes, the original's.
    share = round(1 / num_classes, 4)
    return jnp.sum(one_hot * pixels.of_planes(share / (counts + 1.0)), axis=-1)


def _focal_weights(pixels: Pixels, axis_name, class_weights):
    # Constant: the original computes the weights outside of the gradient.
    probability = jax.nn.softmax(jax.lax.stop_gradient(pixels.logits), axis=-1)
    one_hot = jax.nn.one_hot(pixels.label, probability.shape[-1])
    missing = jnp.sum(one_hot * (1.0 - probability), axis=-1)
    return pixels.counted * jnp.square(missing)


_PIXEL_WEIGHTS = {
    LossBalanceScheme.NONE: _no_weights,
    LossBalanceScheme.LIGHT: _light_weights,
    LossBalanceScheme.EVEN: _even_weights,
    LossBalanceScheme.FOCAL: _focal_weights,
}


def make_loss(
    scheme: LossBalanceScheme,
    charged_pixels_only: bool = False,
    axis_name: str | None = None,
    average: LossAverage = LossAverage.WEIGHTS,
    detector: Detector = COSMIC_TAGGER,
    class_weights: Sequence[float] = LIGHT_WEIGHTS,
) -> LossFn:
    """Returns the loss of a balance scheme.

    Each plane contributes its weighted mean over the pixels of the minibatch, or the
    mean of what is weighted; planes are summed. Means are over the whole minibatch
    however many devices share it, so that the loss does not depend on their number.

    Args:
      scheme: none (1 everywhere), light (a number by class), even (inverse to the
        class's pixels in the minibatch and plane), focal ((1 - probability)^2).
      charged_pixels_only: leave out pixels without charge, which are background by
        construction of the data.
      axis_name: of the mesh over which the minibatch is sharded; None where it is
        whole.
      average: what each plane's sum is divided by, the sum of the weights or the number
        of pixels; in the latter case focal weights are divided by K.
      detector: whether it has pixels that do not count, and its classes.
      class_weights: of the scheme light, [K].

    Returns:
      `loss(logits [B, P, H, W, K] float32, label [B, P, H, W], mask [B] float32,
      charge [B, P, H, W])`, a scalar: this device's share, the sum of which over the
      axis is the loss. Events of mask 0 do not count; a plane in which nothing counts
      contributes 0. With a fifth argument, the minibatch's sites, logits are
      [Q, N, K], label and charge [Q, N], and pixels without a site have scores of 0.

    Source:
      CosmicTagger, src/networks/torch/LossCalculator.py. It fails where a class is
      absent from a minibatch, and the loss depends on the number of ranks. The average
      over pixels is v2.1's, where focal weights are means over the classes.
    """
    pixel_weights = _PIXEL_WEIGHTS[scheme]
    is_over_pixels = average is LossAverage.PIXELS
    is_shared = is_over_pixels and scheme is LossBalanceScheme.FOCAL
    factor = 1 / detector.num_classes if is_shared else 1.0

    def loss(
        logits: jax.Array,
        label: jax.Array,
        mask: jax.Array,
        charge: jax.Array | None = None,
        sites: Sites | None = None,
    ) -> jax.Array:
        charge = charge if charged_pixels_only else None
        listed = pixels.listed(logits, label, mask, charge, sites, detector)
        weights = pixel_weights(listed, axis_name, class_weights)
        entropy = pixel_cross_entropy(listed.logits, listed.label)
        total = listed.sum_planes(weights * entropy)
        divisor = listed.sum_planes(listed.counted if is_over_pixels else weights)
        norm = sharding.total(divisor, axis_name)
        return factor * jnp.sum(total / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))

    return loss
