"""Trains a network, from where the checkpoints of the output folder end."""

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import optax
from jax.sharding import Mesh

from ctjax.config.fields import Config, Remat
from ctjax.data import order
from ctjax.data.order import local_entries
from ctjax.data.pipeline import MinibatchReader
from ctjax.data.sources import EventSource
from ctjax.learning import devices, optimizer, sharding
from ctjax.learning.compiled import compile_eval_step, compile_train_step
from ctjax.learning.precision import POLICIES
from ctjax.learning.state import TrainState, count_parameters, make_state
from ctjax.learning.steps import make_eval_step, make_train_step
from ctjax.outputs import (
    checkpoint,
    checksums,
    log,
    run_record,
    skipped_events,
    timings,
)
from ctjax.outputs.train_reports import TrainReports
from ctjax.processes import join, stop_requests, watchdog
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.processes.stop_requests import Interrupted, StopRequest
from ctjax.runs import parts, validation
from ctjax.runs.profiling import StepTrace
from ctjax.runs.training_loop import Loop, Training, run_steps
from ctjax.runs.validation import open_validation

logger = logging.getLogger("ctjax")

DONE_BEFORE = (
    "Step %d of %d: done before, so that nothing is run; expected more run.iterations, "
    "another run.id, or run.fresh=True, which moves %s aside and starts anew"
)
PROFILED_STEPS = slice(1, 5)  # after the compilation, and few enough to look at


def run(
    config: Config,
    processes: Processes = SINGLE_PROCESS,
    on_step: Callable[[int], None] = lambda step: None,
) -> TrainState:
    """Trains, from where the checkpoints of the output folder end.

    Step s is the update of minibatch s, from 0; a validation or checkpoint of step n
    is that of the state after n updates.

    Args:
      config: of the run.
      processes: of the run; they have joined already, see `join.start`.
      on_step: called with the number of every step once its results are reported; the
        next step may be under way then.

    Returns:
      The state after the last step, on all devices.

    Raises:
      ConfigError, LarcvFileError, CheckpointError, TrainingError: for what the user
        can mend.
      Interrupted: a signal or run.max_time asked to stop, and the state is saved.
    """
    mesh = devices.select(config.run.compute_mode)
    devices.check_divisible(
        mesh,
        minibatch_size=config.run.minibatch_size,
        aux_minibatch_size=validation.minibatch_size(config),
    )
    with stop_requests.watch(config.run.max_time or 0.0) as request:
        with checkpoint.open_for_saving(config.output_dir, processes) as saver:
            state, reason = _train(config, processes, mesh, saver, request, on_step)
        if saver.failure is not None:
            raise checkpoint.CheckpointError(saver.failure)
        if reason is not None:
            if processes.count > 1:
                # Launchers end all processes when the first one leaves.
                join.wait_for_all("stopped")
            raise Interrupted(
                f"{reason}: saved after step {int(state.step) - 1}; "
                "the same command goes on from there"
            )
    return state


def _train(
    config: Config,
    processes: Processes,
    mesh: Mesh,
    saver: checkpoint.Saver,
    request: StopRequest,
    on_step: Callable[[int], None],
) -> tuple[TrainState, str | None]:
    """Returns the last state and, where it was asked to stop early, why."""
    num_steps = config.run.iterations or 0  # of a training they are never left open
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        opened = parts.open_for_network(config, config.data.file, True, processes)
        source = enter(opened)
        config = parts.with_planes(config, source, processes)
        events = source.image_shape, source.detector
        model, variables = parts.make_network(config, *events)
        _log_what_is_trained(config, variables, mesh, processes)
        parts.record_parts(config, source, variables, mesh, processes)
        schedule, update = _make_update_rule(config, source.num_events, num_steps)
        state = _first_state(config, saver, variables, update, mesh, processes)
        del variables  # or the first ones stay in memory beside those of the state
        start = int(state.step)
        if start >= num_steps:
            logger.info(DONE_BEFORE, start, num_steps, config.output_dir)
            return state, None

        options = parts.make_step_options(config, *events)
        train_step = make_train_step(
            model=model, optimizer=update, schedule=schedule, options=options
        )
        train_step = compile_train_step(train_step, mesh)
        eval_step = make_eval_step(model=model, options=options, with_scores=False)
        eval_step = compile_eval_step(eval_step, mesh, heads=options.heads)
        steps = range(start, num_steps)
        reports = enter(TrainReports(config, source, steps, processes.is_first))
        validation = open_validation(
            *(config, source, eval_step, reports, start, mesh, processes)
        )
        training = Training(
            config=config,
            mesh=mesh,
            model=model,
            options=options,
            eval_step=eval_step,
            steps=steps,
            reports=reports,
            validate=enter(validation),
            reader=enter(_read_minibatches(config, source, steps, mesh, processes)),
            saver=saver,
            stop_request=request,
            trace=_make_trace(config, steps, processes),
            give_sign_of_life=enter(_watch_steps(config, processes)),
            on_step=on_step,
        )
        loop = Loop(state, train_step, timings.StepTimings(len(steps)), start)
        _run_recorded(training, loop, processes)
        _report_end(config, loop, processes)
        skipped_events.report_training(config, source, processes, start > 0)
    is_early = loop.is_stopped and loop.started < num_steps
    return loop.state, (request.reason or "another rank") if is_early else None


def _log_what_is_trained(
    config: Config, variables: dict[str, Any], mesh: Mesh, processes: Processes
) -> None:
    logger.info(
        "Total number of trainable parameters in this network: %d",
        count_parameters(variables["params"]),
    )
    logger.info(log.pixel_rules(config.mode))
    _log_what_counts(config, processes)
    remat = config.run.remat
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if remat is not Remat.NONE and on_cpu and processes.is_first:
        logger.warning(
            "run.remat=%s saves no memory on a CPU, whose compiler ignores it: "
            "expected none, and a smaller run.minibatch_size for less memory",
            remat.value,
        )


def _run_recorded(training: Training, loop: Loop, processes: Processes) -> None:
    """Does all steps; writes into the record which were done, and how fast.

    However they end: what a failed run has done is worth knowing, too.
    """
    first = loop.started
    try:
        run_steps(training, loop)
    finally:
        done = loop.timings.done
        if processes.is_first:
            run_record.add(
                training.config,
                steps={"first": first, "end": first + len(done)},
                images_per_s=timings.find_rates(done),
                metrics=training.reports.last,
            )


def _report_end(config: Config, loop: Loop, processes: Processes) -> None:
    """Writes timings, the closing lines and, into the record, the weights."""
    done = loop.timings.done
    timings.save_rank_timings(config.output_dir, processes.index, done)
    if processes.is_first:
        timings.save_timings(config.output_dir, "train", done)
        checksum = checksums.sum_arrays(loop.state.variables)
        run_record.add(config, weights={"step": loop.started, "sha256": checksum})
    log.log_totals(done["step_s"], done["images"], done["start_up_s"].sum())


def _log_what_counts(config: Config, processes: Processes) -> None:
    """Says where a minibatch's size means something else than in CosmicTagger."""
    size = config.run.minibatch_size
    accumulation = config.mode.optimizer.gradient_accumulation
    if accumulation > 1:
        logger.info(
            "A step takes %d events, %d minibatches of %d, and all of them count in "
            "the throughput; CosmicTagger counts %d",
            parts.images_per_step(config),
            accumulation,
            size,
            size,
        )
    if config.data.synthetic and processes.count > 1:
        logger.info(
            "run.minibatch_size=%d is that of all %d processes together; CosmicTagger "
            "takes so many synthetic events for each",
            size,
            processes.count,
        )


def _make_update_rule(
    config: Config, num_events: int, num_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Returns the learning rate by step, and the update rule that follows it."""
    rule = config.mode.optimizer
    steps_per_epoch = num_events / parts.images_per_step(config)
    schedule = optimizer.make_schedule(rule, steps_per_epoch, num_steps)
    update = optimizer.make_optimizer(rule, schedule, config.network.weight_decay)
    return schedule, update


def _first_state(
    config: Config,
    saver: checkpoint.Saver,
    variables: dict[str, Any],
    update: optax.GradientTransformation,
    mesh: Mesh,
    processes: Processes,
) -> TrainState:
    """Restores a checkpoint of the run, else weights asked for, else starts anew."""
    policy = POLICIES[config.run.precision]
    state = make_state(variables, update, policy)
    state = sharding.replicate(state, mesh, donated=True)
    location = config.mode.weights_location
    restored = checkpoint.restore_latest(saver, state, config, processes)
    if restored is not None:
        logger.info("Restored step %d from %s", int(restored.step), saver.folder)
        if location:
            logger.info(
                "mode.weights_location=%s is not used: the run goes on from its own "
                "checkpoint; run.fresh=True or another run.id begins with them",
                location,
            )
        return restored
    if location:
        weights, step = parts.restore_weights(
            *(location, state.variables, config, processes),
            is_for_training=True,
        )
        logger.info("Restored weights of step %d from %s", step, location)
        state = make_state(weights, update, policy)
        return sharding.replicate(state, mesh, donated=True)
    logger.info("No checkpoint found, starting from scratch")
    return state


def _read_minibatches(
    config: Config,
    source: EventSource,
    steps: range,
    mesh: Mesh,
    processes: Processes,
) -> MinibatchReader:
    """Reads this process's events of every step, ahead of their use."""
    size = parts.images_per_step(config)
    entries = (
        local_entries(
            order.training_entries(source.num_events, size, config.data.seed, step),
            processes.index,
            processes.count,
            mesh.size,
            config.mode.optimizer.gradient_accumulation,
        )
        for step in steps
    )
    accumulation = config.mode.optimizer.gradient_accumulation
    return parts.read_events(config, source, entries, mesh, accumulation)


def _watch_steps(
    config: Config, processes: Processes
) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Ends a run whose steps do not end within run.step_timeout."""
    timeout_s = config.run.step_timeout or 0
    return watchdog.watch(timeout_s, config.output_dir, processes)


def _make_trace(config: Config, steps: range, processes: Processes) -> StepTrace:
    """Makes the trace, which the first process alone writes, where asked for."""
    is_traced = config.run.profile and processes.is_first
    folder = os.path.join(config.output_dir, "profiles") if is_traced else None
    return StepTrace(folder, steps[PROFILED_STEPS])
