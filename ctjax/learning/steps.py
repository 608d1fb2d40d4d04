"""Makes the two computations on the device: a training and an evaluation step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.sites import Sites
from ctjax.config.heads import NO_HEADS, ActiveHeads
from ctjax.learning import head_steps, heads, metrics, pixels, sharding
from ctjax.learning.head_steps import (
    Losses,
    MetricSums,
    make_head_parts,
    mean_metrics,
)
from ctjax.learning.heads import Outputs
from ctjax.learning.losses import LossFn
from ctjax.learning.minibatch import Minibatch, NetworkInput, SiteMinibatch
from ctjax.learning.precision import SMALLEST_SCALE, next_scale
from ctjax.learning.state import TrainState

TrainStep = Callable[
    [TrainState, Minibatch, jax.Array], tuple[TrainState, dict[str, Any]]
]
"""`(state, minibatch, stop) -> (state, results)`, see `make_train_step`."""

EvalStep = Callable[[dict[str, Any], Minibatch], dict[str, jax.Array]]
"""`(variables, minibatch) -> results`, see `make_eval_step`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Says what the steps of a run compute, besides the network and its update rule.

    Attributes:
      loss_fn: see `losses.make_loss`.
      network_input: see `minibatch.make_input`.
      mask_empty_pixels: predict background wherever there is no charge.
      axis_name: of the mesh over which the minibatch is sharded, see
        `sharding.over_events`; None where it is whole.
      accumulation: equal parts into which a training minibatch is cut; their gradients
        are averaged, and running statistics go through them one after the other.
      bfloat16_gradients: whether gradients cross the axis as bfloat16.
      skip_nonfinite: go on after a loss or gradient that is not finite. In either case
        its update is left out; without, all later ones are left out too, and the state
        stays as it was before.
      is_scaled: whether gradients are those of the loss times `state.loss_scale`,
        divided by it again. Where they are not finite though the loss is, the update
        is left out, the scale is halved, and nothing halts.
      detector: whose classes are counted.
      heads: of the network.
    """

    loss_fn: LossFn
    network_input: NetworkInput
    mask_empty_pixels: bool
    axis_name: str | None
    accumulation: int
    bfloat16_gradients: bool
    skip_nonfinite: bool
    is_scaled: bool
    detector: Detector = COSMIC_TAGGER
    heads: ActiveHeads = NO_HEADS


class _Share(NamedTuple):
    """Holds what one device tells the others of its events, and later the sum.

    Of a network without heads, their losses and metrics are None.
    """

    losses: Losses
    metric_sums: MetricSums
    grads: Any
    batch_stats: Any
    stop: jax.Array


def predicted_class(
    logits: jax.Array, charge: jax.Array, mask_empty_pixels: bool
) -> jax.Array:
    """Takes the most probable class of every pixel.

    Args:
      logits: [B, P, H, W, K], or of any other shape that ends with K.
      charge: [B, P, H, W], likewise.
      mask_empty_pixels: predict background wherever there is no charge.

    Returns:
      [B, P, H, W] uint8, likewise.
    """
    prediction = jnp.argmax(logits, -1).astype(jnp.uint8)
    if mask_empty_pixels:
        prediction = jnp.where(charge == 0, jnp.uint8(BACKGROUND), prediction)
    return prediction


def _sites_of(minibatch: Minibatch) -> Sites | None:
    """Returns the sites where a minibatch is a list of them, else None."""
    return minibatch.sites if isinstance(minibatch, SiteMinibatch) else None


def _count_classes(
    prediction: jax.Array,
    label: jax.Array,
    sites: Sites | None,
    options: StepOptions,
) -> jax.Array:
    """Counts true and predicted classes of every event and plane, [B, P, K, K]."""
    if sites is None:
        num_classes = options.detector.num_classes
        return metrics.confusion(prediction, label, num_classes)
    return pixels.count_site_classes(prediction, label, sites)


def make_train_step(
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    options: StepOptions,
) -> TrainStep:
    """Returns a pure `(state, minibatch, stop) -> (state, results)`, not yet compiled.

    Args:
      model: the network.
      optimizer: update rule.
      schedule: its learning rate by step, for the results.
      options: of the run.

    Returns:
      The step; `stop` is [B] float32, 1 for events whose process asks to stop. Its
      results are `loss`, `grad_norm`, `learning_rate` and `loss_scale`, scalars,
      `metrics` [M], means over the events, `num_events` that count, `is_finite` and
      `is_overflow`, that of a scale too large, bools, and `stop`, the sum. With heads
      `metrics` has theirs at its end, and `loss_parts` are those of
      `config.heads.loss_names`. All are the same on all devices.
    """
    gradients = _make_gradients(model, options)

    def train_step(state: TrainState, minibatch: Minibatch, stop: jax.Array):
        own = gradients(state, minibatch, stop)
        shared = _sum_over_devices(own, state.loss_scale.value, options)
        updated, results = _advance(state, shared, optimizer, options)
        return updated, results | {"learning_rate": schedule(state.step)}

    return train_step


def _make_gradients(
    model: nn.Module, options: StepOptions
) -> Callable[[TrainState, Minibatch, jax.Array], _Share]:
    """Returns what computes the loss and its gradient for the events of one device."""
    head_parts = make_head_parts(options.heads, options.axis_name, options.detector)

    def objective(params, batch_stats, minibatch, scale):
        image, charge, label = options.network_input(minibatch)
        outputs, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        sites = _sites_of(minibatch)
        outputs = heads.split(outputs)
        logits = outputs.pixels
        loss = options.loss_fn(logits, label, minibatch.mask, charge, sites)
        loss, loss_parts, head_sums = head_parts(outputs, minibatch, loss)
        prediction = predicted_class(logits, charge, options.mask_empty_pixels)
        counts = _count_classes(prediction, label, sites, options)
        values = metrics.event_metrics(counts)
        sums = MetricSums(metrics.sum_metrics(values, minibatch.mask), head_sums)
        scaled = loss * scale if options.is_scaled else loss
        losses = Losses(loss, loss_parts)
        return scaled, (losses, updated.get("batch_stats", {}), sums)

    gradient = jax.value_and_grad(objective, has_aux=True)

    def gradients(state: TrainState, minibatch: Minibatch, stop: jax.Array) -> _Share:
        params, batch_stats = sharding.varying(
            (state.params, state.batch_stats), options.axis_name
        )
        arguments = params, batch_stats, minibatch, state.loss_scale.value
        if options.accumulation == 1:
            (_, (losses, batch_stats, sums)), grads = gradient(*arguments)
        else:
            losses, batch_stats, sums, grads = _accumulate(
                gradient, options, *arguments
            )
        return _Share(losses, sums, grads, batch_stats, jnp.sum(stop))

    return gradients


def _accumulate(
    gradient: Callable,
    options: StepOptions,
    params: Any,
    batch_stats: Any,
    minibatch: Minibatch,
    scale: jax.Array,
) -> tuple[Losses, Any, MetricSums, Any]:
    """Averages the gradient over parts of a minibatch, one after the other.

    Returns:
      The mean losses, the last running statistics, the metrics' sums, the gradient.
    """
    count = options.accumulation
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), minibatch)

    def add(carry, part):
        stats, total = carry
        (_, (losses, stats, sums)), grads = gradient(params, stats, part, scale)
        return (stats, jax.tree.map(jnp.add, total, (losses, sums, grads))), None

    first = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(gradient, params, batch_stats, first, scale)
    (_, (losses, _, sums)), grads = sharding.varying(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), options.axis_name
    )
    (batch_stats, total), _ = jax.lax.scan(
        add, (batch_stats, (losses, sums, grads)), parts
    )
    losses, sums, grads = total
    losses, grads = jax.tree.map(lambda x: x / count, (losses, grads))
    return losses, batch_stats, sums, grads


def _sum_over_devices(own: _Share, scale: jax.Array, options: StepOptions) -> _Share:
    """Does all that devices tell each other, in one place; takes the scale off.

    Running statistics are the mean of the devices'; the original keeps those of its
    first rank.
    """
    if options.bfloat16_gradients:
        rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), own.grads)
        own = own._replace(grads=rounded)
    shared = sharding.total(own, options.axis_name)
    grads, batch_stats = shared.grads, shared.batch_stats
    if options.bfloat16_gradients:
        grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
    if options.axis_name is not None:
        devices = jax.lax.axis_size(options.axis_name)
        batch_stats = jax.tree.map(lambda x: x / devices, batch_stats)
    if options.is_scaled:
        grads = jax.tree.map(lambda x: x / scale, grads)
    return shared._replace(grads=grads, batch_stats=batch_stats)


def _advance(
    state: TrainState,
    shared: _Share,
    optimizer: optax.GradientTransformation,
    options: StepOptions,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the state where all is finite; returns it and the step's results."""
    updates, opt_state = optimizer.update(shared.grads, state.opt_state, state.params)
    grad_norm = optax.tree.norm(shared.grads)
    loss = shared.losses.total
    is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    is_overflow = jnp.zeros((), bool)
    loss_scale = state.loss_scale
    if options.is_scaled:
        is_reducible = loss_scale.value > SMALLEST_SCALE
        is_overflow = jnp.isfinite(loss) & ~is_finite & is_reducible
        loss_scale = next_scale(loss_scale, is_overflow)
    updated = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=shared.batch_stats,
        opt_state=opt_state,
        loss_scale=loss_scale,
        halted=state.halted,
    )
    skipped = dataclasses.replace(state, step=updated.step, loss_scale=loss_scale)
    halted = state.halted | ~(is_finite | is_overflow | options.skip_nonfinite)
    # Without any event that counts there is nothing to learn from.
    num_events = shared.metric_sums.of_pixels[1]
    is_update = is_finite & (num_events > 0)
    chosen = jax.tree.map(
        lambda new, same, old: jnp.where(halted, old, jnp.where(is_update, new, same)),
        *(updated, skipped, state),
    )
    results = {
        "loss": loss,
        "metrics": mean_metrics(shared.metric_sums),
        "num_events": num_events,
        "grad_norm": grad_norm,
        "loss_scale": state.loss_scale.value,
        "is_finite": is_finite,
        "is_overflow": is_overflow,
        "stop": shared.stop,
    }
    if shared.losses.parts is not None:
        results["loss_parts"] = shared.losses.parts
    return dataclasses.replace(chosen, halted=halted), results


def _are_finite(logits: jax.Array, sites: Sites | None) -> jax.Array:
    """Says of each event whether all scores of its pixels are numbers, [B] bool."""
    if sites is None:
        return jnp.isfinite(logits).all((1, 2, 3, 4))
    return pixels.are_finite(logits, sites)


def make_eval_step(
    *,
    model: nn.Module,
    options: StepOptions,
    with_scores: bool,
    with_loss: bool = True,
) -> EvalStep:
    """Returns a pure `(variables, minibatch) -> results`, not yet compiled.

    Args:
      model: the network.
      options: of the run.
      with_scores: return what `predictions` writes, too.
      with_loss: return the loss, too.

    Returns:
      The step; its results are `metrics` [B, M], `confusion` [B, P, K, K] int32 and
      `is_finite` [B] int32 an event each, and with loss `loss`, a scalar, of the whole
      minibatch and the same on all devices, and `counted` [B] float32, the mask of all
      events. `is_finite` is 0 where the network has given something that is no number;
      the event's metrics are none then, either.
      Of this device's events there are `prediction` [B, P, H, W] uint8, the predicted
      class, and `label` likewise; with scores also `image` [B, P, H, W] float32,
      charges as they were read, and `score` [B, P, H, W, K] float32, probabilities.
      Of sites they are [Q, N] and [Q, N, K].
      With heads `metrics` has theirs at its end, and there are the results of
      `head_steps.head_results` and, with loss, `loss_parts` as of `make_train_step`.
    """
    axis_name = options.axis_name
    losses = _make_losses(options)
    given = options.heads, options.detector, axis_name
    add_heads = functools.partial(head_steps.add_results, *given)

    def eval_step(variables: dict[str, Any], minibatch: Minibatch):
        image, charge, label = options.network_input(minibatch)
        outputs = heads.split(model.apply(variables, image, train=False))
        logits = outputs.pixels
        prediction = predicted_class(logits, charge, options.mask_empty_pixels)
        sites = _sites_of(minibatch)
        is_finite = _are_finite(logits, sites)
        counts = _count_classes(prediction, label, sites, options)
        values = metrics.event_metrics(counts)
        known = is_finite, values, outputs, minibatch
        is_finite, values, of_heads = add_heads(*known)
        values = jnp.where(is_finite[:, None], values, jnp.nan)
        results = of_heads | {
            "metrics": sharding.gather(values, axis_name),
            "is_finite": sharding.gather(is_finite.astype(jnp.int32), axis_name),
            "confusion": sharding.gather(counts, axis_name),
            "counted": sharding.gather(jnp.asarray(minibatch.mask), axis_name),
            "prediction": prediction,
            "label": label,
        }
        if with_loss:
            results |= losses(outputs, minibatch, label, charge)
        if with_scores:
            results["image"] = charge
            results["score"] = jax.nn.softmax(logits, axis=-1)
        return results

    return eval_step


def _make_losses(options: StepOptions) -> Callable[..., dict[str, jax.Array]]:
    """Returns what computes the losses that an evaluation step returns."""
    axis_name = options.axis_name
    head_parts = make_head_parts(options.heads, axis_name, options.detector)

    def losses(
        outputs: Outputs, minibatch: Minibatch, label: jax.Array, charge: jax.Array
    ):
        sites = _sites_of(minibatch)
        loss = options.loss_fn(outputs.pixels, label, minibatch.mask, charge, sites)
        loss, loss_parts, _ = head_parts(outputs, minibatch, loss)
        found = {"loss": sharding.total(loss, axis_name)}
        if loss_parts is not None:
            found["loss_parts"] = sharding.total(loss_parts, axis_name)
        return found

    return losses
