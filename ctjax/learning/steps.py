"""The two computations on the device: a training step and an evaluation step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ctjax.base.constants import BACKGROUND
from ctjax.learning import dense_images, metrics, sharding
from ctjax.learning.losses import LossFn
from ctjax.learning.precision import SMALLEST_SCALE, next_scale
from ctjax.learning.state import TrainState

Minibatch = dict[str, jax.Array]
"""`mask` [B], in training `stop` [B], too, and either `image` and `label` [B, P, H, W]
or `ids`, `values` and `labels` [B, P, V]; see `ctjax.data.pipeline.minibatches`."""


def dense(
    minibatch: Minibatch, image_shape: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Returns charges [B, P, H, W] float32 and classes [B, P, H, W] uint8."""
    if "ids" in minibatch:
        return dense_images.densify(
            minibatch["ids"], minibatch["values"], minibatch["labels"], image_shape
        )
    return minibatch["image"], minibatch["label"]


def make_input(
    image_shape: tuple[int, int], img_transform: bool
) -> Callable[[Minibatch], tuple[jax.Array, jax.Array, jax.Array]]:
    """Returns `minibatch -> (image, charge, label)`, each [B, P, H, W].

    Args:
      image_shape: (H, W) of a sparse minibatch made dense.
      img_transform: whether the network sees log(1 + charge) instead of the charge.
    """

    def network_input(minibatch: Minibatch) -> tuple[jax.Array, jax.Array, jax.Array]:
        charge, label = dense(minibatch, image_shape)
        # Of the original; charges are above a threshold, so 1 + charge is positive.
        return (jnp.log(charge + 1.0) if img_transform else charge), charge, label

    return network_input


def predicted_class(
    logits: jax.Array, charge: jax.Array, mask_empty_pixels: bool
) -> jax.Array:
    """Takes the most probable class of every pixel.

    Args:
      logits: [B, P, H, W, K].
      charge: [B, P, H, W].
      mask_empty_pixels: predict background wherever there is no charge.

    Returns:
      [B, P, H, W] uint8.
    """
    prediction = jnp.argmax(logits, -1).astype(jnp.uint8)
    if mask_empty_pixels:
        prediction = jnp.where(charge == 0, jnp.uint8(BACKGROUND), prediction)
    return prediction


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    loss_fn: LossFn,
    network_input: Callable,
    accumulation: int = 1,
    mask_empty_pixels: bool = False,
    axis_name: str | None = None,
    bfloat16_gradients: bool = False,
    skip_nonfinite: bool = False,
    is_scaled: bool = False,
) -> Callable[[TrainState, Minibatch], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns a pure `(state, minibatch) -> (state, results)`, not yet compiled.

    Args:
      model: the network.
      optimizer: update rule.
      schedule: its learning rate by step, for the results.
      loss_fn: see `losses.make_loss`.
      network_input: see `make_input`.
      accumulation: equal parts into which the minibatch is cut; their gradients are
        averaged, and running statistics go through them one after the other.
      mask_empty_pixels: for the metrics, see `predicted_class`.
      axis_name: of the mesh over which the minibatch is sharded, see
        `sharding.over_events`; None where it is whole.
      bfloat16_gradients: whether gradients cross the axis as bfloat16.
      skip_nonfinite: go on after a loss or gradient that is not finite. In either case
        its update is left out; without, all later ones are left out too, and the state
        stays as it was before.
      is_scaled: whether gradients are those of the loss times `state.loss_scale`,
        divided by it again. Where they are not finite though the loss is, the update
        is left out, the scale is halved, and nothing halts.

    Returns:
      The step; its results are `loss`, `grad_norm`, `learning_rate` and `loss_scale`,
      scalars, `metrics` [M], means over the events, `is_finite` and `is_overflow`, that
      of a scale too large, bools, and `stop`, the number of events whose process asks
      to stop. All are the same on all devices.
    """

    def objective(params, batch_stats, minibatch, scale):
        image, charge, label = network_input(minibatch)
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        loss = loss_fn(logits, label, minibatch["mask"], charge)
        prediction = predicted_class(logits, charge, mask_empty_pixels)
        values = metrics.event_metrics(prediction, label)
        sums = metrics.sum_metrics(values, minibatch["mask"])
        scaled = loss * scale if is_scaled else loss
        return scaled, (loss, updated.get("batch_stats", {}), sums)

    gradient = jax.value_and_grad(objective, has_aux=True)

    def accumulated(params, batch_stats, minibatch, scale):
        parts = jax.tree.map(
            lambda x: x.reshape(accumulation, -1, *x.shape[1:]), minibatch
        )

        def add(carry, part):
            stats, total = carry
            (_, (loss, stats, sums)), grads = gradient(params, stats, part, scale)
            return (stats, jax.tree.map(jnp.add, total, (loss, sums, grads))), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, params, batch_stats, first, scale)
        (_, (loss, _, sums)), grads = sharding.varying(
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), axis_name
        )
        (batch_stats, total), _ = jax.lax.scan(
            add, (batch_stats, (loss, sums, grads)), parts
        )
        loss, sums, grads = total
        loss, grads = jax.tree.map(lambda x: x / accumulation, (loss, grads))
        return (None, (loss, batch_stats, sums)), grads

    def train_step(state: TrainState, minibatch: Minibatch):
        compute = gradient if accumulation == 1 else accumulated
        scale = state.loss_scale.value
        params, batch_stats = sharding.varying(
            (state.params, state.batch_stats), axis_name
        )
        (_, (loss, batch_stats, sums)), grads = compute(
            params, batch_stats, minibatch, scale
        )
        # All that devices tell each other, in one place. Running statistics are the
        # mean of the devices'; the original keeps those of its first rank.
        if bfloat16_gradients:
            grads = jax.tree.map(lambda x: x.astype(jnp.bfloat16), grads)
        stop = jnp.sum(minibatch["stop"])
        loss, sums, grads, batch_stats, stop = sharding.total(
            (loss, sums, grads, batch_stats, stop), axis_name
        )
        if bfloat16_gradients:
            grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        if axis_name is not None:
            devices = jax.lax.axis_size(axis_name)
            batch_stats = jax.tree.map(lambda x: x / devices, batch_stats)
        if is_scaled:
            grads = jax.tree.map(lambda x: x / scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        grad_norm = optax.tree.norm(grads)
        is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        is_overflow = jnp.zeros((), bool)
        loss_scale = state.loss_scale
        if is_scaled:
            is_overflow = jnp.isfinite(loss) & ~is_finite & (scale > SMALLEST_SCALE)
            loss_scale = next_scale(loss_scale, is_overflow)
        results = {
            "loss": loss,
            "metrics": metrics.mean_of(*sums),
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step),
            "loss_scale": scale,
            "is_finite": is_finite,
            "is_overflow": is_overflow,
            "stop": stop,
        }
        updated = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            loss_scale=loss_scale,
            halted=state.halted,
        )
        skipped = dataclasses.replace(
            state, step=updated.step, loss_scale=updated.loss_scale
        )
        halted = state.halted | ~(is_finite | is_overflow | skip_nonfinite)
        state = jax.tree.map(
            lambda new, same, old: jnp.where(
                halted, old, jnp.where(is_finite, new, same)
            ),
            *(updated, skipped, state),
        )
        return dataclasses.replace(state, halted=halted), results

    return train_step


def make_eval_step(
    model: nn.Module,
    loss_fn: LossFn,
    network_input: Callable,
    mask_empty_pixels: bool = False,
    with_scores: bool = False,
    axis_name: str | None = None,
) -> Callable[[dict[str, Any], Minibatch], dict[str, jax.Array]]:
    """Returns a pure `(variables, minibatch) -> results`, not yet compiled.

    Args:
      model: the network.
      loss_fn: see `losses.make_loss`.
      network_input: see `make_input`.
      mask_empty_pixels: see `predicted_class`.
      with_scores: return what `predictions` writes, too.
      axis_name: as in `make_train_step`.

    Returns:
      The step; its results are `loss`, a scalar, `metrics` [B, M] and `confusion`
      [B, P, K, K] int32 an event each, of the whole minibatch and the same on all
      devices; of this device's events `prediction` [B, P, H, W] uint8, the predicted
      class, and `label` likewise; with scores also `image` [B, P, H, W] float32,
      charges as they were read, and `score` [B, P, H, W, K] float32, probabilities.
    """

    def eval_step(variables: dict[str, Any], minibatch: Minibatch):
        image, charge, label = network_input(minibatch)
        logits: Any = model.apply(variables, image, train=False)
        prediction = predicted_class(logits, charge, mask_empty_pixels)
        loss = loss_fn(logits, label, minibatch["mask"], charge)
        values = metrics.event_metrics(prediction, label)
        results = {
            "loss": sharding.total(loss, axis_name),
            "metrics": sharding.gather(values, axis_name),
            "confusion": sharding.gather(
                metrics.confusion(prediction, label), axis_name
            ),
            "prediction": prediction,
            "label": label,
        }
        if with_scores:
            results["image"] = charge
            results["score"] = jax.nn.softmax(logits, axis=-1)
        return results

    return eval_step
