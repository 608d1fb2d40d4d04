"""Inference: a network's predictions and metrics over a file."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ctjax.base.constants import CONFUSION_NAMES
from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config
from ctjax.data import order
from ctjax.data.order import PADDING, local_entries
from ctjax.data.sources import EventSource
from ctjax.learning import devices, losses, metrics, sharding
from ctjax.learning.compiled import compile_eval_step, device_arrays
from ctjax.learning.state import count_parameters
from ctjax.learning.steps import make_eval_step, make_input
from ctjax.models import UResNet
from ctjax.outputs import checkpoint, log, metrics_table, predictions, progress, timings
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs import parts as runs_parts

logger = logging.getLogger("ctjax")

COLUMNS = ("entry", "run", "subrun", "event", *metrics.METRIC_NAMES)
CONFUSION_COLUMNS = ("entry", *CONFUSION_NAMES)
PREDICTIONS = "predictions.h5"


def run(config: Config, processes: Processes = SINGLE_PROCESS) -> dict[str, float]:
    """Goes over the file once, in order, and reports the averaged metrics.

    Args:
      config: of the run; `run.iterations` limits the minibatches; None for all.
      processes: of the run; they have joined already, see `distributed.start`.

    Returns:
      Mean of every metric over the events; empty where the file has no labels.

    Raises:
      ConfigError, LarcvFileError, CheckpointError: for what the user can mend.
    """
    mesh = devices.select(config.run.compute_mode)
    devices.check_divisible(mesh, minibatch_size=config.run.minibatch_size)
    mode, size = config.mode, config.run.minibatch_size
    with runs_parts.open_events(
        config.data, config.data.file, require_label=False
    ) as source:
        if mode.start_index >= source.num_events:
            raise ConfigError(
                f"mode.start_index: expected less than the {source.num_events} events "
                f"of the data, got {mode.start_index}"
            )
        model, variables = runs_parts.make_network(config, source.image_shape)
        logger.info(
            "Total number of trainable parameters in this network: %d",
            count_parameters(variables["params"]),
        )
        variables = _restore(config, sharding.replicate(variables, mesh))
        eval_step = _compiled_step(config, model, source.image_shape, mesh)
        entries = order.sequential_entries(source.num_events, size, mode.start_index)
        entries = list(islice(entries, config.run.iterations))
        with _Reports(config, source, len(entries), processes) as reports:
            step = functools.partial(eval_step, variables)
            _go_over(config, source, entries, step, reports, mesh, processes)
        if mode.write_predictions and processes.count > 1:
            _join_predictions(config.output_dir, source, entries, processes)
    return reports.finish()


def _compiled_step(
    config: Config, model: UResNet, image_shape: tuple[int, int], mesh: Mesh
) -> Callable:
    rule, axis_name = config.mode.optimizer, sharding.EVENT_AXIS
    with_scores = config.mode.write_predictions
    step = make_eval_step(
        model,
        losses.make_loss(
            rule.loss_balance_scheme, rule.loss_charged_pixels_only, axis_name
        ),
        make_input(image_shape, config.data.img_transform),
        config.mode.mask_empty_pixels,
        with_scores,
        axis_name,
    )
    return compile_eval_step(step, mesh, with_scores)


def _restore(config: Config, variables: dict[str, Any]) -> dict[str, Any]:
    """Weights of `mode.weights_location` or of the output folder."""
    location = config.mode.weights_location or config.output_dir
    try:
        restored, step = checkpoint.restore_weights(location, variables, config)
    except checkpoint.CheckpointError:
        # The speed of inference can be measured before anything has been trained.
        is_there = os.path.isdir(os.path.join(location, checkpoint.FOLDER))
        if config.mode.weights_location or not config.data.synthetic or is_there:
            raise
        logger.warning("No checkpoint in %s: random weights", location)
        return variables
    logger.info("Restored weights of step %d from %s", step, location)
    return restored


def _go_over(
    config: Config,
    source: EventSource,
    entries: list[np.ndarray],
    eval_step: Callable,
    reports: "_Reports",
    mesh: Mesh,
    processes: Processes,
) -> None:
    """Evaluates every minibatch, one ahead of the one that is reported."""
    mine = (local_entries(e, processes.index, processes.count) for e in entries)
    with runs_parts.read_events(config.data, source, mine) as reader:
        pending = None
        for minibatch, all_entries in zip(reader, entries, strict=True):
            results = eval_step(device_arrays(minibatch, mesh))
            following = (minibatch, all_entries, results, reader.wait_s)
            if pending is not None:
                reports.minibatch(*pending)
                reader.release(pending[0])
            pending = following
        if pending is not None:
            reports.minibatch(*pending)
            reader.release(pending[0])


def _join_predictions(
    output_dir: str,
    source: EventSource,
    entries: list[np.ndarray],
    processes: Processes,
) -> None:
    """Makes one file, in the order of the events, of those of the processes."""
    join.wait_for_all("predictions")
    if processes.is_first:
        path = os.path.join(output_dir, PREDICTIONS)
        parts = [predictions.part_path(path, n) for n in range(processes.count)]
        order = [
            process
            for minibatch in entries
            for process in range(processes.count)
            for entry in local_entries(minibatch, process, processes.count)
            if entry != PADDING
        ]
        predictions.join(parts, order, path, source.image_shape, source.has_label)
    # Nobody leaves earlier: the end of a process waits for the others only so long.
    join.wait_for_all("joined predictions")


class _Reports:
    """Log, table and predictions; but for the last of the first process alone."""

    def __init__(
        self,
        config: Config,
        source: EventSource,
        num_minibatches: int,
        processes: Processes,
    ):
        self._config, self._source, self._processes = config, source, processes
        self._stack = contextlib.ExitStack()
        self._timings = np.zeros(num_minibatches, timings.TIMING_TYPE)
        self._sums = np.zeros(len(metrics.METRIC_NAMES))
        self._done = self._num_events = 0

    def __enter__(self) -> "_Reports":
        os.makedirs(self._config.output_dir, exist_ok=True)
        self._table = self._confusion = self._writer = None
        if self._processes.is_first:
            folder = self._config.output_dir
            path = os.path.join(folder, "inference_metrics.csv")
            self._table = metrics_table.MetricsTable(path, COLUMNS)
            self._stack.callback(self._table.close)
            path = os.path.join(folder, "inference_confusion.csv")
            self._confusion = metrics_table.MetricsTable(path, CONFUSION_COLUMNS)
            self._stack.callback(self._confusion.close)
        if self._config.mode.write_predictions:
            path = os.path.join(self._config.output_dir, PREDICTIONS)
            if self._processes.count > 1:
                path = predictions.part_path(path, self._processes.index)
            self._writer = self._stack.enter_context(
                predictions.open_writer(
                    path,
                    self._source.image_shape,
                    self._source.has_label,
                )
            )
        self._advance = self._stack.enter_context(
            progress.progress(
                "inference",
                0,
                len(self._timings),
                self._config.run.minibatch_size,
            )
        )
        self._last_end = time.perf_counter()
        return self

    def __exit__(self, *exception) -> bool | None:
        return self._stack.__exit__(*exception)

    def minibatch(
        self,
        minibatch: dict[str, Any],
        entries: np.ndarray,
        results: dict[str, Any],
        wait_s: float,
    ) -> None:
        """Waits for one minibatch's results and reports them.

        Args:
          minibatch: events of this process.
          entries: [B] int64 of all processes, -1 where there is no event.
          results: of the evaluation step.
          wait_s: seconds waited for reading.
        """
        jax.block_until_ready(results)
        values, has_label = np.asarray(results["metrics"]), self._source.has_label
        confusion = np.asarray(results["confusion"])
        if self._writer is not None:
            arrays = {
                name: sharding.local(results[name]) for name in predictions.NEEDED
            }
            for place in np.flatnonzero(minibatch["entries"] != PADDING).tolist():
                event_id = minibatch["event_ids"][place]
                predictions.append(self._writer, event_id, arrays, place, has_label)
        mask = entries != PADDING
        for place in np.flatnonzero(mask).tolist():
            entry, row = int(entries[place]), values[place]
            if self._table is not None:
                event_id = self._source.event_id(entry).tolist()
                shown = row if has_label else np.full(row.shape, np.nan)
                self._table.write([entry, *event_id, *shown.tolist()])
            if self._confusion is not None and has_label:
                counts = confusion[place].ravel()
                self._confusion.write([entry, *counts.tolist()])
            self._sums += row
            self._num_events += 1
        now = time.perf_counter()
        step, step_s = self._done, now - self._last_end
        self._timings[step] = step, wait_s, step_s
        self._done, self._last_end = step + 1, now
        self._advance(self._done)
        if step % self._config.mode.logging_iteration == 0:
            shown = log.shown_metrics(
                metrics.named(values[mask].mean(0)) if has_label else {}
            )
            rate = log.rate(self._config.run.minibatch_size, wait_s, step_s)
            log.log_step("ana", step, shown, rate)

    def finish(self) -> dict[str, float]:
        """Writes the closing lines; returns the averaged metrics."""
        config = self._config
        logger.info(
            "Inference report: %d batches processed for %d entries.",
            self._done,
            self._num_events,
        )
        averages = {}
        if self._source.has_label:
            averages = metrics.named(self._sums / self._num_events)
            logger.info("  %s", log.pixel_rules(config.mode))
            for name, value in averages.items():
                logger.info("  %s: %.4f", name, value)
        else:
            logger.info("  No labels in the data: no metrics")
        if self._processes.is_first:
            timings.save_timings(config.output_dir, "inference", self._timings)
        log.log_totals(self._timings["step_s"], config.run.minibatch_size)
        return averages
