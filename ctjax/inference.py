"""Inference: a network's predictions and metrics over a file."""

import logging
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import jax
import numpy as np

from ctjax import checkpoint, devices, factory, losses, metrics, reporting
from ctjax.config import Config, ConfigError
from ctjax.data import pipeline
from ctjax.data.sources import EventSource
from ctjax.state import count_parameters
from ctjax.steps import device_arrays, make_eval_step, make_input

logger = logging.getLogger("ctjax")

COLUMNS = ("entry", "run", "subrun", "event", *metrics.METRIC_NAMES)


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
    size = config.run.minibatch_size
    with factory.open_events(config.data, config.data.file) as source:
        first = config.mode.start_index
        if first >= source.num_events:
            raise ConfigError(
                f"mode.start_index: expected less than the {source.num_events} events "
                f"of the data, got {first}"
            )
        model, variables = factory.make_network(config, source.image_shape)
        logger.info(
            "Total number of trainable parameters in this network: %d",
            count_parameters(variables["params"]),
        )
        variables = _restore(config, variables)
        loss_fn = losses.make_loss(config.mode.optimizer.loss_balance_scheme)
        network_input = make_input(source.image_shape, config.data.img_transform)
        eval_step = jax.jit(make_eval_step(model, loss_fn, network_input))
        entries = pipeline.sequential_entries(source.num_events, size, first)
        entries = list(islice(entries, config.run.iterations or None))
        sums, timings = _go_over(config, source, entries, eval_step, variables)

    num_events = sum(int(np.sum(part >= 0)) for part in entries)
    logger.info(
        "Inference report: %d batches processed for %d entries.",
        len(entries),
        num_events,
    )
    averages = {}
    if source.has_label:
        averages = metrics.named(sums / num_events)
        for name, value in averages.items():
            logger.info("  %s: %.4f", name, value)
    reporting.save_timings(config.output_dir, "inference", timings)
    reporting.log_totals(timings["step_s"], size)
    return averages


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
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluates every minibatch; returns sums of the metrics [M] and timings."""
    sums = np.zeros(len(metrics.METRIC_NAMES))
    timings = np.zeros(len(entries), reporting.TIMING_TYPE)
    os.makedirs(config.output_dir, exist_ok=True)
    table = reporting.MetricsTable(
        os.path.join(config.output_dir, "inference_metrics.csv"), COLUMNS
    )
    last_end = time.perf_counter()

    def finish(step: int, minibatch: dict[str, Any], results: Any, wait_s: float):
        nonlocal sums, last_end
        values = jax.device_get(results["metrics"])
        jax.block_until_ready(results["prediction"])
        for place in np.flatnonzero(minibatch["entries"] >= 0):
            event = minibatch["event_ids"][place].tolist()
            row = values[place] if source.has_label else values[place] * np.nan
            table.write([int(minibatch["entries"][place]), *event, *row.tolist()])
            sums += values[place]
        reader.release(minibatch)
        now = time.perf_counter()
        timings[step] = step, wait_s, now - last_end
        last_end = now
        if step % config.mode.logging_iteration == 0:
            shown = {}
            if source.has_label:
                mean = metrics.mean_metrics(values, minibatch["mask"])
                named = metrics.named(mean)
                shown = {
                    name: named[name]
                    for name in ("Average/Non_Bkg_Accuracy", "Average/mIoU")
                }
            step_s = timings[step]["step_s"]
            rate = (
                f"{len(minibatch['entries']) / step_s:.3g} Img/s / {wait_s:.2g} IO s / "
                f"{step_s:.2g} step s"
            )
            reporting.log_step("ana", step, shown, rate)

    try:
        with factory.read_events(config.data, source, iter(entries)) as reader:
            pending = None
            for step, minibatch in enumerate(reader):
                results = eval_step(variables, device_arrays(minibatch))
                if pending is not None:
                    finish(*pending)
                pending = (step, minibatch, results, reader.wait_s)
            if pending is not None:
                finish(*pending)
    finally:
        table.close()
    return sums, timings
