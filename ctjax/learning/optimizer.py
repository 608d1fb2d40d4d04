"""Composes update rules and learning-rate schedules from optax's parts."""

import math

import jax
import optax

from ctjax.config.fields import LearningRateSchedule, Optimizer, OptimizerName

# CosmicTagger's default schedule, src/utils/core/trainercore.py; in epochs.
WARMUP_INITIAL_RATE = 1e-4
WARMUP_EPOCHS = 1
FLAT_EPOCHS = 20
DECAY_FLOOR = 1e-4
DECAY_PER_EPOCH = 0.999

_RULES = {
    OptimizerName.ADAM: optax.scale_by_adam,
    # decay and epsilon as of torch.optim.RMSprop(eps=1e-4), outside of the root.
    OptimizerName.RMSPROP: lambda: optax.scale_by_rms(
        decay=0.99, eps=1e-4, eps_in_sqrt=False
    ),
    OptimizerName.SGD: optax.identity,
    OptimizerName.ADAGRAD: lambda: optax.scale_by_rss(initial_accumulator_value=0.0),
    OptimizerName.ADADELTA: optax.scale_by_adadelta,
    OptimizerName.LAMB: lambda: optax.scale_by_adam(eps=1e-6),
    OptimizerName.LARS: optax.identity,
}


def make_schedule(
    config: Optimizer, steps_per_epoch: float, total_steps: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      config: `learning_rate` and `lr_schedule`: flat; warmup_flat_decay (one epoch
        from 1e-4 up, 20 epochs flat, then exponentially towards 1e-4, as CosmicTagger);
        one_cycle (up and down again over the whole run).
      steps_per_epoch: steps in which every event is seen once; not always whole.
      total_steps: of the run.

    Returns:
      `schedule(step)`.
    """
    rate = config.learning_rate
    if config.lr_schedule is LearningRateSchedule.FLAT:
        return optax.constant_schedule(rate)
    if config.lr_schedule is LearningRateSchedule.ONE_CYCLE:
        return optax.cosine_onecycle_schedule(max(total_steps, 1), rate)
    decay = optax.exponential_decay(
        rate - DECAY_FLOOR, 1, math.exp(-DECAY_PER_EPOCH / steps_per_epoch)
    )
    flat_start = math.ceil(WARMUP_EPOCHS * steps_per_epoch)
    decay_start = math.ceil((WARMUP_EPOCHS + FLAT_EPOCHS) * steps_per_epoch)
    return optax.join_schedules(
        [
            optax.linear_schedule(
                WARMUP_INITIAL_RATE,
                rate,
                max(1, round(WARMUP_EPOCHS * steps_per_epoch)),
            ),
            optax.constant_schedule(rate),
            lambda step: decay(step) + DECAY_FLOOR,
        ],
        [flat_start, decay_start],
    )


def make_optimizer(
    config: Optimizer, schedule: optax.Schedule, weight_decay: float
) -> optax.GradientTransformation:
    """Returns the update rule.

    Args:
      config: `name` of the rule.
      schedule: learning rate by step.
      weight_decay: decoupled, of the convolutions' kernels alone.

    Returns:
      An optax transformation of gradients like the parameters.
    """
    parts = [_RULES[config.name]()]
    if weight_decay > 0:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_is_kernel))
    if config.name is OptimizerName.LAMB:
        parts.append(optax.scale_by_trust_ratio())
    if config.name is OptimizerName.LARS:
        # Coefficient and momentum of the paper, arXiv:1708.03888.
        parts.append(optax.scale_by_trust_ratio(trust_coefficient=0.001))
    parts.append(optax.scale_by_learning_rate(schedule))
    if config.name is OptimizerName.LARS:
        parts.append(optax.trace(decay=0.9))
    return optax.chain(*parts)


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key == "kernel", params
    )
