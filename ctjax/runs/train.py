"""Training: one function that composes everything else, and its reports."""

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from ctjax.base import optional_packages
from ctjax.base.errors import UserError
from ctjax.config.fields import Config, Mode, OnNonfinite, Remat
from ctjax.data import order, pipeline
from ctjax.data.order import local_entries
from ctjax.learning import activations, devices, losses, metrics, optimizer, sharding
from ctjax.learning.compiled import (
    DEVICE_ARRAYS,
    compile_eval_step,
    compile_train_step,
    describe_program,
    device_arrays,
)
from ctjax.learning.precision import POLICIES
from ctjax.learning.state import TrainState, count_parameters, make_state
from ctjax.learning.steps import make_eval_step, make_input, make_train_step
from ctjax.models import UResNet
from ctjax.outputs import checkpoint, log, metrics_table, progress, summaries
from ctjax.outputs import timings as outputs_timings
from ctjax.processes import join, stop_requests, watchdog
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.processes.stop_requests import Interrupted, StopRequest
from ctjax.runs import parts
from ctjax.views import event, picture

logger = logging.getLogger("ctjax")

COLUMNS = ("step", "loss", *metrics.METRIC_NAMES)
PROFILED_STEPS = (1, 5)  # after the compilation, and few enough to look at
IMAGE_SUMMARIES = 25  # summaries between two with images, as CosmicTagger


class TrainingError(UserError):
    """A training that cannot go on; the message says where and why."""


class _NotFinite(Exception):
    """A loss or gradient that is not finite, at a step and on a minibatch."""


def run(config: Config, processes: Processes = SINGLE_PROCESS) -> TrainState:
    """Trains, from where the checkpoints of the output folder end.

    Step s is the update of minibatch s, from 0; a validation or checkpoint of step n
    is that of the state after n updates.

    Args:
      config: of the run.
      processes: of the run; they have joined already, see `distributed.start`.

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
        aux_minibatch_size=config.run.aux_minibatch_size,
    )
    with contextlib.ExitStack() as stack:
        request = stack.enter_context(stop_requests.watch(config.run.max_time))
        with checkpoint.open_for_saving(config.output_dir, processes) as saver:
            state, reason = _train(config, processes, mesh, saver, request)
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
) -> tuple[TrainState, str | None]:
    """Returns the last state and, where it was asked to stop early, why."""
    options, rule = config.run, config.mode.optimizer
    images_per_step = options.minibatch_size * rule.gradient_accumulation
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            parts.open_events(config.data, config.data.file, require_label=True)
        )
        model, variables = parts.make_network(config, source.image_shape)
        logger.info(
            "Total number of trainable parameters in this network: %d",
            count_parameters(variables["params"]),
        )
        logger.info(log.pixel_rules(config.mode))
        if options.remat is not Remat.NONE and mesh.devices.flat[0].platform == "cpu":
            logger.warning(
                "run.remat=%s saves no memory on a CPU, whose compiler ignores it: "
                "expected none, and a smaller run.minibatch_size for less memory",
                options.remat.value,
            )
        schedule = optimizer.make_schedule(
            rule, source.num_events / images_per_step, options.iterations
        )
        update = optimizer.make_optimizer(rule, schedule, config.network.weight_decay)
        state = _first_state(config, saver, variables, update, mesh, processes)
        start = int(state.step)
        if start >= options.iterations:
            logger.info("Step %d of %d: done before", start, options.iterations)
            return state, None

        train_step, eval_step = _compiled_steps(
            config, model, update, schedule, source.image_shape, mesh
        )
        reports = stack.enter_context(_Reports(config, start, processes.is_first))
        validate = stack.enter_context(
            _validation(config, eval_step, reports, start, mesh, processes)
        )
        entries = (
            local_entries(
                order.training_entries(
                    source.num_events, images_per_step, config.data.seed, step
                ),
                processes.index,
                processes.count,
                mesh.size,
                rule.gradient_accumulation,
            )
            for step in range(start, options.iterations)
        )
        reader = stack.enter_context(parts.read_events(config.data, source, entries))
        beat = stack.enter_context(
            watchdog.watch(options.step_timeout, config.output_dir, processes)
        )
        timings = np.zeros(options.iterations - start, outputs_timings.TIMING_TYPE)
        finish = _finisher(config, reader, reports, timings, start)
        scores: list[float] = []
        done, is_stopped = start, False
        try:
            while done < options.iterations and not is_stopped:
                step, done = done, done + 1
                profiled = options.profile and processes.is_first
                if profiled and step - start == PROFILED_STEPS[0]:
                    folder = os.path.join(config.output_dir, "profiles")
                    jax.profiler.start_trace(folder)
                minibatch = next(reader)
                asked = np.full(len(minibatch["mask"]), request.reason is not None)
                minibatch["stop"] = asked.astype(np.float32)
                arrays = device_arrays(minibatch, mesh)
                if reports.wants_images(step):
                    results = eval_step(state.variables, arrays)
                    reports.images("train", step, minibatch, results)
                if options.profile and step == start:
                    train_step = train_step.lower(state, arrays).compile()
                    logger.info(
                        "Compiled training step, each device: %s",
                        describe_program(train_step),
                    )
                state, results = train_step(state, arrays)
                # The results of a step are fetched when the next one is under way, so
                # that the device does not wait for the host. All processes see the
                # same sum of requests to stop, and stop after the same step.
                is_stopped = finish((step, minibatch, results, reader.wait_s))
                last_profiled = min(start + PROFILED_STEPS[1], options.iterations)
                if profiled and start + PROFILED_STEPS[0] < done == last_profiled:
                    is_stopped |= finish(None)
                    jax.profiler.stop_trace()
                if done % options.aux_iterations == 0:
                    is_stopped |= finish(None)
                    scores += validate(done, state)
                if done % config.mode.checkpoint_iteration == 0:
                    is_stopped |= finish(None)
                    saver.save(state, config, _mean(scores))
                    scores.clear()
                beat()
            finish(None)
        except _NotFinite as error:
            saver.save(state, config, None)
            raise TrainingError(
                _describe_not_finite(
                    config, model, state, source.image_shape, *error.args
                )
            ) from error
        saver.save(state, config, _mean(scores))
        if processes.is_first:
            outputs_timings.save_timings(
                config.output_dir, "train", timings[: done - start]
            )
        log.log_totals(timings["step_s"][: done - start], images_per_step)
    is_early = is_stopped and done < options.iterations
    return state, (request.reason or "another rank") if is_early else None


def _mean(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _describe_not_finite(
    config: Config,
    model: UResNet,
    state: TrainState,
    image_shape: tuple[int, int],
    step: int,
    minibatch: dict[str, Any],
    results: dict[str, Any],
) -> str:
    """The line that a training ends with, for this process's events."""
    alone = UResNet(model.network, model.dtype)
    variables = jax.device_get(state.variables)
    image, _, _ = make_input(image_shape, config.data.img_transform)(
        {name: minibatch[name] for name in minibatch if name in DEVICE_ARRAYS}
    )
    try:
        largest = activations.largest_activations(alone, variables, np.asarray(image))
    except jax.errors.JaxRuntimeError as error:
        largest = f"not found ({str(error).splitlines()[0]})"
    return (
        f"step {step}: loss {float(results['loss'])}, norm of the gradient "
        f"{float(results['grad_norm'])}; its update is left out, the state before it "
        f"is saved. Events (run, subrun, event): {_event_names(minibatch)}. Largest "
        f"activations: {largest}. run.on_nonfinite=skip goes on without such updates"
    )


def _event_names(minibatch: dict[str, Any]) -> str:
    return ", ".join(str(tuple(ids)) for ids in minibatch["event_ids"].tolist())


def _compiled_steps(
    config: Config,
    model: UResNet,
    update: optax.GradientTransformation,
    schedule: optax.Schedule,
    image_shape: tuple[int, int],
    mesh: Mesh,
) -> tuple[Callable, Callable]:
    """The training step, which donates its state, and the evaluation step."""
    rule, masked = config.mode.optimizer, config.mode.mask_empty_pixels
    axis_name = sharding.EVENT_AXIS
    loss_fn = losses.make_loss(
        rule.loss_balance_scheme, rule.loss_charged_pixels_only, axis_name
    )
    network_input = make_input(image_shape, config.data.img_transform)
    train_step = make_train_step(
        model,
        update,
        schedule,
        loss_fn,
        network_input,
        rule.gradient_accumulation,
        masked,
        axis_name,
        rule.bfloat16_gradients,
        config.run.on_nonfinite is OnNonfinite.SKIP,
        POLICIES[config.run.precision].is_scaled,
    )
    eval_step = make_eval_step(
        model, loss_fn, network_input, masked, axis_name=axis_name
    )
    return compile_train_step(train_step, mesh), compile_eval_step(eval_step, mesh)


def _first_state(
    config: Config,
    saver: checkpoint.Saver,
    variables: dict[str, Any],
    update: optax.GradientTransformation,
    mesh: Mesh,
    processes: Processes,
) -> TrainState:
    """Own checkpoint, else the weights asked for, else the initial parameters."""
    policy = POLICIES[config.run.precision]
    state = sharding.replicate(make_state(variables, update, policy), mesh)
    restored = checkpoint.restore_latest(saver, state, config, processes)
    if restored is not None:
        logger.info("Restored step %d from %s", int(restored.step), saver.folder)
        return restored
    if config.mode.weights_location:
        weights, step = checkpoint.restore_weights(
            config.mode.weights_location, state.variables, config
        )
        logger.info(
            "Restored weights of step %d from %s", step, config.mode.weights_location
        )
        return sharding.replicate(make_state(weights, update, policy), mesh)
    logger.info("No checkpoint found, starting from scratch")
    return state


def _finisher(
    config: Config,
    reader: pipeline.MinibatchReader,
    reports: "_Reports",
    timings: np.ndarray,
    start: int,
) -> Callable[[tuple | None], bool]:
    """Returns a function that takes a step under way and finishes the one before.

    It answers whether a process asks to stop, and raises _NotFinite.
    """
    pending: tuple | None = None
    last_end = time.perf_counter()
    num_skipped = 0

    def finish(following: tuple | None) -> bool:
        nonlocal pending, last_end, num_skipped
        finished, pending = pending, following
        if finished is None:
            return False
        step, minibatch, results, wait_s = finished
        results = jax.device_get(results)
        now = time.perf_counter()
        timings[step - start] = step, wait_s, now - last_end
        last_end = now
        reports.train(step, results, wait_s, float(timings[step - start]["step_s"]))
        if results["is_overflow"]:
            num_skipped += 1
            logger.warning(
                "train Step %d: gradient beyond float16 with a loss scale of %g, which "
                "is halved: update skipped, %d so far",
                step,
                float(results["loss_scale"]),
                num_skipped,
            )
        elif not results["is_finite"]:
            if config.run.on_nonfinite is OnNonfinite.STOP:
                raise _NotFinite(step, minibatch, results)
            num_skipped += 1
            logger.warning(
                "train Step %d: loss %g, not finite: update skipped, %d so far; events "
                "(run, subrun, event): %s",
                step,
                float(results["loss"]),
                num_skipped,
                _event_names(minibatch),
            )
        reader.release(minibatch)
        return float(results["stop"]) > 0

    return finish


@contextlib.contextmanager
def _validation(
    config: Config,
    eval_step: Callable,
    reports: "_Reports",
    start: int,
    mesh: Mesh,
    processes: Processes,
) -> Iterator[Callable[[int, TrainState], list[float]]]:
    """Yields a function that evaluates a state on the next validation minibatch.

    It returns the score by which the best checkpoint is kept, if there is one.
    """
    if not config.data.aux_file or config.data.synthetic:
        yield lambda step, state: []
        return
    size = config.run.aux_minibatch_size
    with parts.open_events(
        config.data, config.data.aux_file, require_label=True
    ) as source:
        entries = (
            local_entries(
                order.training_entries(
                    source.num_events, size, config.data.seed, count
                ),
                processes.index,
                processes.count,
            )
            for count in itertools.count(start // config.run.aux_iterations)
        )
        with parts.read_events(config.data, source, entries) as reader:

            def validate(step: int, state: TrainState) -> list[float]:
                minibatch = next(reader)
                results = eval_step(state.variables, device_arrays(minibatch, mesh))
                mean = np.asarray(results["metrics"]).mean(0)
                reports.validation(step, float(results["loss"]), mean)
                if reports.wants_images(step):
                    reports.images("test", step, minibatch, results)
                reader.release(minibatch)
                return [metrics.named(mean)[checkpoint.SCORE]]

            yield validate


class _Reports:
    """Log, tables and summaries of a training run; of its first process alone."""

    def __init__(self, config: Config, start: int, is_first: bool):
        self._mode: Mode = config.mode
        self._is_first = is_first
        self._stack = contextlib.ExitStack()
        if not is_first:
            return
        self._downsample = config.data.downsample
        self._is_scaled = POLICIES[config.run.precision].is_scaled
        self._draws_events = True
        self._steps = start, config.run.iterations
        rule = config.mode.optimizer
        self._images = config.run.minibatch_size * rule.gradient_accumulation
        folder = config.output_dir
        self._train_table = metrics_table.MetricsTable(
            os.path.join(folder, "train_metrics.csv"), COLUMNS, before=start
        )
        self._val_table = metrics_table.MetricsTable(
            os.path.join(folder, "val_metrics.csv"), COLUMNS, before=start + 1
        )
        self._summaries = {
            name: summaries.open_summary(folder, name, start)
            for name in ("train", "test")
        }

    def __enter__(self) -> "_Reports":
        if self._is_first:
            self._advance = self._stack.enter_context(
                progress.progress("train", *self._steps, self._images)
            )
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()
        if not self._is_first:
            return
        self._train_table.close()
        self._val_table.close()
        for summary in self._summaries.values():
            summary.close()

    def wants_images(self, step: int) -> bool:
        """Whether this step's summary has images."""
        every = IMAGE_SUMMARIES * self._mode.summary_iteration
        # The same answer in all processes, who evaluate together.
        return not self._mode.no_summary_images and step % every == 0

    def train(
        self, step: int, results: Mapping[str, Any], wait_s: float, step_s: float
    ) -> None:
        """Reports one finished step."""
        if not self._is_first:
            return
        self._advance(step + 1)
        loss, named = float(results["loss"]), metrics.named(results["metrics"])
        self._train_table.write([step, loss, *named.values()])
        if step % self._mode.logging_iteration == 0:
            speed = log.rate(self._images, wait_s, step_s)
            values = {"loss": loss}
            if self._is_scaled:
                values["loss_scale"] = float(results["loss_scale"])
            self._log("train", step, values, named, speed)
        if step % self._mode.summary_iteration == 0:
            extra = {
                "learning_rate": float(results["learning_rate"]),
                "grad_norm": float(results["grad_norm"]),
                "loss_scale": float(results["loss_scale"]),
                "images_per_second": self._images / step_s,
                "io_fetch_time": wait_s,
            }
            self._summarize("train", step, {"loss": loss, **named, **extra})

    def validation(self, step: int, loss: float, mean: np.ndarray) -> None:
        """Reports a validation after `step` updates."""
        if not self._is_first:
            return
        named = metrics.named(mean)
        self._val_table.write([step, loss, *named.values()])
        self._log("test", step, {"loss": loss}, named, None)
        self._summarize("test", step, {"loss": loss, **named})

    def images(
        self,
        kind: str,
        step: int,
        minibatch: Mapping[str, Any],
        results: Mapping[str, Any],
    ) -> None:
        """Adds the event display of the minibatch's first event."""
        if not self._is_first or not self._draws_events:
            return
        arrays = {
            name: sharding.local(results[name]) for name in ("prediction", "label")
        }
        arrays["metrics"] = np.asarray(results["metrics"])
        view = event.view_of_minibatch(minibatch, arrays, 0, self._downsample)
        try:
            figure = picture.draw(view)
        except optional_packages.MissingExtraError as error:
            logger.warning("No event displays in TensorBoard: %s", error)
            self._draws_events = False
            return
        self._summaries[kind].add_figure("event", figure, step)

    def _log(self, kind, step, values, named, speed):
        shown = {**values, **log.shown_metrics(named)}
        log.log_step(kind, step, shown, speed)

    def _summarize(self, kind, step, scalars):
        for name, value in scalars.items():
            self._summaries[kind].add_scalar(name, value, step)
