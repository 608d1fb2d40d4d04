"""Runs the steps of a training, one after the other, until they end."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ctjax.base.errors import UserError
from ctjax.config.fields import Config, OnNonfinite
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.pipeline import MinibatchReader
from ctjax.learning import sharding
from ctjax.learning.compiled import compile_ahead, describe_program
from ctjax.learning.one_behind import one_behind
from ctjax.learning.state import TrainState
from ctjax.learning.steps import EvalStep, StepOptions
from ctjax.models import PixelNetwork
from ctjax.outputs import checkpoint
from ctjax.outputs.timings import StepTimings
from ctjax.outputs.train_reports import TrainReports, event_names
from ctjax.processes.stop_requests import StopRequest
from ctjax.runs import nonfinite, parts
from ctjax.runs.profiling import StepTrace
from ctjax.runs.validation import Validate

logger = logging.getLogger("ctjax")


class TrainingError(UserError):
    """Ends a training that cannot go on; the message says where and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Holds what the steps of a training share and do not change.

    Attributes:
      config: of the run.
      mesh: of the devices.
      model: the network.
      options: of its steps.
      eval_step: compiled, for event displays.
      steps: those to be done, former runs' left out.
      reader: of one minibatch for each step.
      reports: log, tables and summaries.
      validate: see `validation.open_validation`.
      saver: of checkpoints.
      stop_request: of this process.
      trace: of some of the steps.
      give_sign_of_life: keeps the watchdog from ending the run.
      on_step: called with the number of every step that is finished.
    """

    config: Config
    mesh: Mesh
    model: PixelNetwork
    options: StepOptions
    eval_step: EvalStep
    steps: range
    reader: MinibatchReader
    reports: TrainReports
    validate: Validate
    saver: checkpoint.Saver
    stop_request: StopRequest
    trace: StepTrace
    give_sign_of_life: Callable[[], None]
    on_step: Callable[[int], None]


@dataclasses.dataclass
class Loop:
    """Holds what changes from step to step.

    Attributes:
      state: after the last step that has been started.
      train_step: under `jax.jit`, or compiled.
      timings: of the steps that are finished.
      started: number of steps that have been started, former runs' included.
      scores: of the validations since the last checkpoint.
      is_stopped: whether a process of the run asks to stop.
    """

    state: TrainState
    train_step: Callable
    timings: StepTimings
    started: int
    scores: list[float] = dataclasses.field(default_factory=list)
    is_stopped: bool = False


@dataclasses.dataclass(frozen=True)
class _StartedStep:
    """Holds a step that may be under way; its results are on the devices."""

    number: int
    minibatch: HostMinibatch
    results: dict[str, jax.Array]


class _NotFiniteError(Exception):
    """Tells of a step whose loss or gradient is not finite, and of its results."""


def run_steps(training: Training, loop: Loop) -> None:
    """Does all steps, unless asked to stop; validates and saves between them.

    Args:
      training: what it works with.
      loop: before the first step, its train step under `jax.jit` and its state donated;
        at the end after the last step, whose state is saved.

    Raises:
      TrainingError: a loss or gradient is not finite; the state before it is saved.
    """
    started = _start_steps(training, loop)
    try:
        with training.trace:
            for step in one_behind(started, lambda step: _is_awaited(training, step)):
                _finish(training, loop, step)
                training.trace.after(step.number)
                _validate_and_save(training, loop, step.number + 1)
    except _NotFiniteError as error:
        saved = _save_before(training, loop.state)
        words = _describe_not_finite(training, loop.state, *error.args)
        raise TrainingError(
            f"{words}. Its update is left out, and the state before it {saved}; "
            "run.on_nonfinite=skip goes on without such updates"
        ) from error
    training.saver.save(loop.state, training.config, _mean(loop.scores))


def _start_steps(training: Training, loop: Loop) -> Iterator[_StartedStep]:
    """Starts one step after the other, and waits for none of them."""
    reports, mesh, steps = training.reports, training.mesh, training.steps
    while loop.started < steps.stop and not loop.is_stopped:
        number = loop.started
        training.trace.before(number)
        minibatch = next(training.reader)
        loop.timings.add_wait(training.reader.wait_s)
        is_asked = training.stop_request.reason is not None
        asked = np.full(len(minibatch.mask), is_asked, np.float32)
        arrays, stop = sharding.distribute((parts.step_arrays(minibatch), asked), mesh)
        if reports.wants_images(number):
            shown = training.eval_step(loop.state.variables, arrays)
            reports.report_image("train", number, minibatch, shown)
        if number == steps.start:
            with loop.timings.start_up():
                loop.train_step, program = compile_ahead(
                    "training", loop.train_step, loop.state, arrays, stop
                )
            if training.config.run.profile:
                words = "Compiled training step, each device: %s"
                logger.info(words, describe_program(program))
        loop.state, results = loop.train_step(loop.state, arrays, stop)
        loop.started = number + 1
        yield _StartedStep(number, minibatch, results)
        training.give_sign_of_life()


def _is_awaited(training: Training, step: _StartedStep) -> bool:
    """Says whether something is to be done with the state after just this step."""
    config, done = training.config, step.number + 1
    return (
        done % config.run.aux_iterations == 0
        or done % config.mode.checkpoint_iteration == 0
        or training.trace.is_last(step.number)
    )


def _finish(training: Training, loop: Loop, step: _StartedStep) -> None:
    """Waits for the results of a step, reports them and acts on them."""
    reports = training.reports
    results = jax.device_get(step.results)
    images = int(results["num_events"])
    wait_s, step_s = loop.timings.end_step(step.number, images)
    reports.report_step(step.number, results, wait_s, step_s)
    _check_finite(training.config, step, results)
    reports.warn_of_skipped_update(step.number, results, step.minibatch)
    training.reader.release(step.minibatch)
    # All processes see the same sum of requests, and stop after the same step.
    loop.is_stopped |= float(results["stop"]) > 0
    training.on_step(step.number)


def _check_finite(config: Config, step: _StartedStep, results: dict[str, Any]) -> None:
    """Refuses to go on after a number that is not finite, unless told to skip it."""
    is_good = results["is_finite"] or results["is_overflow"]
    if not is_good and config.run.on_nonfinite is OnNonfinite.STOP:
        raise _NotFiniteError(step, results)


def _validate_and_save(training: Training, loop: Loop, done: int) -> None:
    """Validates and saves the state after so many steps, where it is time to."""
    config = training.config
    if done % config.run.aux_iterations == 0:
        loop.scores += training.validate(done, loop.state, loop.timings)
    if done % config.mode.checkpoint_iteration == 0:
        training.saver.save(loop.state, config, _mean(loop.scores))
        loop.scores.clear()


def _mean(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _save_before(training: Training, state: TrainState) -> str:
    """Saves the state before a bad step; says in words what has come of it."""
    saver = training.saver
    try:
        saver.save(state, training.config, None)
        saver.wait()
    except checkpoint.CheckpointError as error:
        # It must not hide why the training ends.
        return f"could not be saved ({error})"
    return f"could not be saved ({saver.failure})" if saver.failure else "is saved"


def _describe_not_finite(
    training: Training,
    state: TrainState,
    step: _StartedStep,
    results: dict[str, Any],
) -> str:
    """Says what was not finite in a step, for this process's events."""
    arrays = parts.step_arrays(step.minibatch)
    image, _, _ = training.options.network_input(arrays)
    largest = nonfinite.describe_activations(
        training.model, state.variables, image, train=True
    )
    return (
        f"step {step.number}: loss {float(results['loss'])}, norm of the gradient "
        f"{float(results['grad_norm'])}. Events (run, subrun, event): "
        f"{event_names(step.minibatch)}. Largest activations: {largest}"
    )
