"""Inference: a network's predictions and metrics over a file."""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import numpy as np

from ctjax import (
    checkpoint,
    devices,
    factory,
    losses,
    metrics,
    predictions,
    reporting,
)
from ctjax.config import Config, ConfigError
from ctjax.constants import CONFUSION_NAMES
from ctjax.data import pipeline
from ctjax.data.sources import EventSource
from ctjax.state import count_parameters
from ctjax.steps import device_arrays, make_eval_step, make_input

logger = logging.getLogger("ctjax")

COLUMNS = ("entry", "run", "subrun", "event", *metrics.METRIC_NAMES)
CONFUSION_COLUMNS = ("entry", *CONFUSION_NAMES)
PREDICTIONS = "predictions.h5"


def run(config: Config) -> dict[str, float]:
    """Goes over the file once, in order, and reports the averaged metrics.

    Args:
      config: of the run; `run.iterations` limits the minibatches, 0 for all.

    Returns:
      Mean of every metric over the events; empty where the file has no labels.

    Raises:
      ConfigError, LarcvFileError, CheckpointError: for what the user can mend.
    """
    devices.select(config.run.compute_mode)
    mode, size = config.mode, config.run.minibatch_size
    with factory.open_events(
        config.data, config.data.file, require_label=False
    ) as source:
        if mode.start_index >= source.num_events:
            raise ConfigError(
                f"mode.start_index: expected less than the {source.num_events} events "
                f"of the data, got {mode.start_index}"
            )
        model, variables = factory.make_network(config, source.image_shape)
        logger.info(
            "Total number of trainable parameters in this network: %d",
            count_parameters(variables["params"]),
        )
        variables = _restore(config, variables)
        rule = mode.optimizer
        eval_step = jax.jit(
            make_eval_step(
                model,
                losses.make_loss(
                    rule.loss_balance_scheme, rule.loss_charged_pixels_only
                ),
                make_input(source.image_shape, config.data.img_transform),
                mode.mask_empty_pixels,
                mode.write_predictions,
            )
        )
        entries = pipeline.sequential_entries(source.num_events, size, mode.start_index)
        entries = list(islice(entries, config.run.iterations or None))
        with _Reports(config, source, len(entries)) as reports:
            _go_over(config, source, entries, eval_step, variables, reports)
    return reports.finish()


def _restore(config: Config, variables: dict[str, Any]) -> dict[str, Any]:
    """Weights of `mode.weights_location` or of the output folder."""
    location = config.mode.weights_location or config.output_dir
    try:
        restored, step = checkpoint.restore_weights(location, variables, config)
    except checkpoint.CheckpointError:
        # The speed of inference can be measured before anything has been trained.
        if config.mode.weights_location or not config.data.synthetic:
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
    variables: dict[str, Any],
    reports: "_Reports",
) -> None:
    """Evaluates every minibatch, one ahead of the one that is reported."""
    with factory.read_events(config.data, source, iter(entries)) as reader:
        pending = None
        for minibatch in reader:
            results = eval_step(variables, device_arrays(minibatch))
            following = (minibatch, results, reader.wait_s)
            if pending is not None:
                reports.minibatch(*pending)
                reader.release(pending[0])
            pending = following
        if pending is not None:
            reports.minibatch(*pending)
            reader.release(pending[0])


class _Reports:
    """Log, table and predictions of an inference."""

    def __init__(self, config: Config, source: EventSource, num_minibatches: int):
        self._config, self._source = config, source
        self._stack = contextlib.ExitStack()
        self._timings = np.zeros(num_minibatches, reporting.TIMING_TYPE)
        self._sums = np.zeros(len(metrics.METRIC_NAMES))
        self._done = self._num_events = 0

    def __enter__(self) -> "_Reports":
        os.makedirs(self._config.output_dir, exist_ok=True)
        path = os.path.join(self._config.output_dir, "inference_metrics.csv")
        self._table = reporting.MetricsTable(path, COLUMNS)
        self._stack.callback(self._table.close)
        path = os.path.join(self._config.output_dir, "inference_confusion.csv")
        self._confusion = reporting.MetricsTable(path, CONFUSION_COLUMNS)
        self._stack.callback(self._confusion.close)
        self._writer = None
        if self._config.mode.write_predictions:
            self._writer = self._stack.enter_context(
                predictions.open_writer(
                    os.path.join(self._config.output_dir, PREDICTIONS),
                    self._source.image_shape,
                    self._source.has_label,
                )
            )
        self._advance = self._stack.enter_context(
            reporting.progress(
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
        self, minibatch: dict[str, Any], results: dict[str, Any], wait_s: float
    ) -> None:
        """Waits for one minibatch's results and reports them."""
        if self._writer is None:
            jax.block_until_ready(results)
            results = {name: results[name] for name in ("metrics", "confusion")}
        results = jax.device_get(results)
        values, has_label = results["metrics"], self._source.has_label
        for place in np.flatnonzero(minibatch["entries"] >= 0).tolist():
            event_id = minibatch["event_ids"][place]
            row = values[place] if has_label else np.full(values[place].shape, np.nan)
            entry = int(minibatch["entries"][place])
            self._table.write([entry, *event_id.tolist(), *row.tolist()])
            if has_label:
                counts = results["confusion"][place].ravel()
                self._confusion.write([entry, *counts.tolist()])
            self._sums += values[place]
            self._num_events += 1
            if self._writer is not None:
                predictions.append(self._writer, event_id, results, place, has_label)
        now = time.perf_counter()
        step, step_s = self._done, now - self._last_end
        self._timings[step] = step, wait_s, step_s
        self._done, self._last_end = step + 1, now
        self._advance(self._done)
        if step % self._config.mode.logging_iteration == 0:
            mask = minibatch["mask"]
            shown = reporting.shown_metrics(
                metrics.named(mask @ values / mask.sum()) if has_label else {}
            )
            rate = reporting.rate(self._config.run.minibatch_size, wait_s, step_s)
            reporting.log_step("ana", step, shown, rate)

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
            masked = config.mode.mask_empty_pixels
            logger.info(
                "  Pixels without charge: %s",
                "background (mode.mask_empty_pixels)" if masked else "as predicted",
            )
            for name, value in averages.items():
                logger.info("  %s: %.4f", name, value)
        else:
            logger.info("  No labels in the data: no metrics")
        reporting.save_timings(config.output_dir, "inference", self._timings)
        reporting.log_totals(self._timings["step_s"], config.run.minibatch_size)
        return averages
