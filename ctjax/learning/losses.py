"""Computes the loss: every pixel's cross entropy, weighted by a balance scheme."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ctjax.base.constants import NUM_CLASSES
from ctjax.config.choices import LossAverage, LossBalanceScheme
from ctjax.learning import sharding

LossFn = Callable[..., jax.Array]
"""`loss(logits, label, mask, image)`, see `make_loss`."""

LIGHT_CLASS_WEIGHTS = (1.0, 1.5, 10.0)


def pixel_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Computes minus the logarithm of each pixel's probability of its own class.

    Args:
      logits: [..., K] float32.
      label: [...] integer class.

    Returns:
      [...] float32.
    """
    # Three classes: a one-hot sum is cheaper on every device than a gather, and its
    # gradient is no scatter.
    own = jnp.sum(jax.nn.one_hot(label, NUM_CLASSES) * logits, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - own


def _no_weights(logits, label, counted, axis_name):
    return counted


def _light_weights(logits, label, counted, axis_name):
    weights = jnp.where(label == 1, LIGHT_CLASS_WEIGHTS[1], LIGHT_CLASS_WEIGHTS[0])
    return counted * jnp.where(label == 2, LIGHT_CLASS_WEIGHTS[2], weights)


def _even_weights(logits, label, counted, axis_name):
    # One class weighs as much as another, whatever its number of pixels; the 1 of the
    # original guards a class that is absent from the minibatch.
    one_hot = jax.nn.one_hot(label, NUM_CLASSES) * counted[..., None]
    counts = sharding.total(one_hot.sum((0, 2, 3), keepdims=True), axis_name)
    return jnp.sum(one_hot * (0.3333 / (counts + 1.0)), axis=-1)


def _focal_weights(logits, label, counted, axis_name):
    # Constant: the original computes the weights outside of the gradient.
    probability = jax.nn.softmax(jax.lax.stop_gradient(logits), axis=-1)
    one_hot = jax.nn.one_hot(label, NUM_CLASSES)
    return counted * jnp.square(jnp.sum(one_hot * (1.0 - probability), axis=-1))


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
) -> LossFn:
    """Returns the loss of a balance scheme.

    Each plane contributes its weighted mean over the pixels of the minibatch, or the
    mean of what is weighted; planes are summed. Means are over the whole minibatch
    however many devices share it, so that the loss does not depend on their number.

    Args:
      scheme: none (1 everywhere), light (1, 1.5, 10 by class), even (inverse to the
        class's pixels in the minibatch and plane), focal ((1 - probability)^2).
      charged_pixels_only: leave out pixels without charge, which are background by
        construction of the data.
      axis_name: of the mesh over which the minibatch is sharded; None where it is
        whole.
      average: what each plane's sum is divided by, the sum of the weights or the number
        of pixels; in the latter case focal weights are a third.

    Returns:
      `loss(logits [B, P, H, W, K] float32, label [B, P, H, W], mask [B] float32,
      image [B, P, H, W])`, a scalar: this device's share, the sum of which over the
      axis is the loss. Events of mask 0 do not count; a plane in which nothing counts
      contributes 0. The image is looked at for its charged pixels only.

    Source:
      CosmicTagger, src/networks/torch/LossCalculator.py. It fails where a class is
      absent from a minibatch; here every scheme is defined then. There each rank
      weights its own pixels, and the loss depends on the number of ranks. The average
      over pixels is v2.1's, where focal weights are means over the three classes of
      what is not 0 for one of them.
    """
    pixel_weights = _PIXEL_WEIGHTS[scheme]
    is_over_pixels = average is LossAverage.PIXELS
    is_a_third = is_over_pixels and scheme is LossBalanceScheme.FOCAL
    factor = 1 / NUM_CLASSES if is_a_third else 1.0

    def loss(
        logits: jax.Array,
        label: jax.Array,
        mask: jax.Array,
        image: jax.Array | None = None,
    ) -> jax.Array:
        counted = jnp.broadcast_to(mask[:, None, None, None], label.shape)
        if charged_pixels_only:
            counted = counted * (image != 0)
        weights = pixel_weights(logits, label, counted, axis_name)
        total = jnp.sum(weights * pixel_cross_entropy(logits, label), (0, 2, 3))
        divisor = jnp.sum(counted if is_over_pixels else weights, (0, 2, 3))
        norm = sharding.total(divisor, axis_name)
        return factor * jnp.sum(total / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))

    return loss
