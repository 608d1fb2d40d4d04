"""The two computations on the device: a training step and an evaluation step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ctjax import densify, metrics
from ctjax.losses import LossFn
from ctjax.state import TrainState

Minibatch = dict[str, jax.Array]
"""`mask` [B] and either `image` and `label` [B, P, H, W] or `ids`, `values` and
`labels` [B, P, V]; see `ctjax.data.pipeline.minibatches`."""

DEVICE_ARRAYS = ("image", "label", "ids", "values", "labels", "mask")
"""Entries of a minibatch that the device needs; event ids stay on the host."""


def make_input(image_shape: tuple[int, int], img_transform: bool) -> Callable:
    """Returns `minibatch -> (image [B, P, H, W] float32, label [B, P, H, W] uint8)`.

    Args:
      image_shape: (H, W) of a sparse minibatch made dense.
      img_transform: feed log(1 + charge).
    """

    def network_input(minibatch: Minibatch) -> tuple[jax.Array, jax.Array]:
        if "ids" in minibatch:
            image, label = densify.densify(
                minibatch["ids"], minibatch["values"], minibatch["labels"], image_shape
            )
        else:
            image, label = minibatch["image"], minibatch["label"]
        # Of the original; charge below -1 does not occur, thresholds are positive.
        return (jnp.log(image + 1.0) if img_transform else image), label

    return network_input


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    loss_fn: LossFn,
    network_input: Callable,
    accumulation: int = 1,
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

    Returns:
      The step; its results are `loss`, `grad_norm` and `learning_rate`, scalars, and
      `metrics` [M], means over the events.
    """

    def objective(params, batch_stats, minibatch):
        image, label = network_input(minibatch)
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        loss = loss_fn(logits, label, minibatch["mask"])
        values = metrics.event_metrics(jnp.argmax(logits, -1), label)
        mean = metrics.mean_metrics(values, minibatch["mask"])
        return loss, (updated.get("batch_stats", {}), mean)

    gradient = jax.value_and_grad(objective, has_aux=True)

    def accumulated(params, batch_stats, minibatch):
        parts = jax.tree.map(
            lambda x: x.reshape(accumulation, -1, *x.shape[1:]), minibatch
        )

        def add(carry, part):
            stats, total = carry
            (loss, (stats, mean)), grads = gradient(params, stats, part)
            return (stats, jax.tree.map(jnp.add, total, (loss, mean, grads))), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, params, batch_stats, first)
        (loss, (_, mean)), grads = jax.tree.map(jnp.zeros_like, shapes)
        (batch_stats, total), _ = jax.lax.scan(
            add, (batch_stats, (loss, mean, grads)), parts
        )
        loss, mean, grads = jax.tree.map(lambda x: x / accumulation, total)
        return (loss, (batch_stats, mean)), grads

    def train_step(state: TrainState, minibatch: Minibatch):
        compute = gradient if accumulation == 1 else accumulated
        (loss, (batch_stats, mean)), grads = compute(
            state.params, state.batch_stats, minibatch
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        results = {
            "loss": loss,
            "metrics": mean,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, results

    return train_step


def make_eval_step(
    model: nn.Module, loss_fn: LossFn, network_input: Callable
) -> Callable[[dict[str, Any], Minibatch], dict[str, jax.Array]]:
    """Returns a pure `(variables, minibatch) -> results`, not yet compiled.

    Args:
      model: the network.
      loss_fn: see `losses.make_loss`.
      network_input: see `make_input`.

    Returns:
      The step; its results are `loss`, a scalar, `metrics` [B, M] an event each,
      `prediction` [B, P, H, W] uint8, the most probable class, and `label` likewise.
    """

    def eval_step(variables: dict[str, Any], minibatch: Minibatch):
        image, label = network_input(minibatch)
        logits = model.apply(variables, image, train=False)
        prediction = jnp.argmax(logits, -1)
        return {
            "loss": loss_fn(logits, label, minibatch["mask"]),
            "metrics": metrics.event_metrics(prediction, label),
            "prediction": prediction.astype(jnp.uint8),
            "label": label,
        }

    return eval_step


def device_arrays(minibatch: dict[str, Any]) -> Minibatch:
    """Starts the transfer of a host minibatch; it must stay as it is until used."""
    return jax.device_put(
        {name: minibatch[name] for name in DEVICE_ARRAYS if name in minibatch}
    )
