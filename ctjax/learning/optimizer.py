"""Makes update rules and learning-rate schedules, torch's by optax's parts."""

import math

import jax
import jax.numpy as jnp
import optax

from ctjax.config.fields import LearningRateSchedule, Optimizer, OptimizerName

# CosmicTagger's default schedule, src/utils/core/trainercore.py; in epochs.
WARMUP_INITIAL_RATE = 1e-4
WARMUP_EPOCHS = 1
FLAT_EPOCHS = 20
DECAY_FLOOR = 1e-4
DECAY_PER_EPOCH = 0.999

LAMB_EPSILON = 1e-6
LAMB_LARGEST_NORM = 10.0
"""Of torch_optimizer.Lamb, which CosmicTagger's branch v2.1 takes."""


def _scale_by_adam(
    epsilon: float = 1e-8, is_corrected: bool = True
) -> optax.GradientTransformation:
    """Divides the mean of gradients by the root of that of their squares, as torch.

    optax's own computes 1 - 0.999^step in float32, where 1e-5 of it is lost.

    Args:
      epsilon: added to the root.
      is_corrected: divide both means by what they lack for having begun at 0.

    Source:
      torch.optim.Adam; the means' factors are 0.9 and 0.999.
    """
    mean, square = 0.9, 0.999

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: mean * m + (1 - mean) * g, state.mu, updates)
        nu = jax.tree.map(
            lambda v, g: square * v + (1 - square) * g * g, state.nu, updates
        )
        of_mean, of_square = (
            -jnp.expm1(count * math.log(factor)) if is_corrected else 1.0
            for factor in (mean, square)
        )
        steps = jax.tree.map(
            lambda m, v: (m / of_mean) / (jnp.sqrt(v / of_square) + epsilon), mu, nu
        )
        return steps, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _scale_by_adagrad() -> optax.GradientTransformation:
    """Divides gradients by the root of the sum of their squares, plus 1e-10.

    optax's own adds 1e-7 below the root, which makes steps at gradients of 1e-5 thirty
    times smaller.

    Source:
      torch.optim.Adagrad.
    """

    def init(params):
        return optax.ScaleByRssState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        sums = jax.tree.map(lambda s, g: s + g * g, state.sum_of_squares, updates)
        steps = jax.tree.map(lambda s, g: g / (jnp.sqrt(s) + 1e-10), sums, updates)
        return steps, optax.ScaleByRssState(sums)

    return optax.GradientTransformation(init, update)


def _scale_to_parameters() -> optax.GradientTransformation:
    """Makes the step of each tensor as long as the tensor, at most 10; 0 is left."""

    def update(updates, state, params=None):
        def scale(step, param):
            length = jnp.minimum(optax.tree.norm(param), LAMB_LARGEST_NORM)
            present = optax.tree.norm(step)
            is_any = (length > 0) & (present > 0)
            return step * jnp.where(is_any, length / jnp.where(is_any, present, 1), 1)

        return jax.tree.map(scale, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# Each as torch has it, to be found again in the state of a checkpoint by optax's names.
_RULES = {
    OptimizerName.ADAM: _scale_by_adam,
    # decay and epsilon as of torch.optim.RMSprop(eps=1e-4), outside of the root.
    OptimizerName.RMSPROP: lambda: optax.scale_by_rms(
        decay=0.99, eps=1e-4, eps_in_sqrt=False
    ),
    OptimizerName.SGD: optax.identity,
    OptimizerName.ADAGRAD: _scale_by_adagrad,
    OptimizerName.ADADELTA: optax.scale_by_adadelta,
    OptimizerName.LAMB: lambda: _scale_by_adam(LAMB_EPSILON, is_corrected=False),
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
        parts.append(_scale_to_parameters())
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
