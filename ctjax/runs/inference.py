"""Applies a network to the events of a file, for predictions and metrics."""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config
from ctjax.data import order
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING, local_entries
from ctjax.data.pipeline import MinibatchReader
from ctjax.data.sources import EventSource
from ctjax.learning import devices, sharding
from ctjax.learning.compiled import compile_eval_step
from ctjax.learning.one_behind import one_behind
from ctjax.learning.state import count_parameters
from ctjax.learning.steps import make_eval_step
from ctjax.models import PixelNetwork
from ctjax.outputs import checkpoint, predictions
from ctjax.outputs.inference_reports import InferenceReports
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs import parts as runs_parts

logger = logging.getLogger("ctjax")

PREDICTIONS = "predictions.h5"


def run(config: Config, processes: Processes = SINGLE_PROCESS) -> dict[str, float]:
    """Goes over the file once, in order, and reports the averaged metrics.

    Args:
      config: of the run; `run.iterations` limits the minibatches; None for all.
      processes: of the run; they have joined already, see `join.start`.

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
        path = _predictions_path(config, processes)
        with InferenceReports(config, source, len(entries), processes, path) as reports:
            step = functools.partial(eval_step, variables)
            _go_over(config, source, entries, step, reports, mesh, processes)
        if mode.write_predictions and processes.count > 1:
            _join_predictions(config.output_dir, source, entries, processes)
    return reports.report_averages()


def _compiled_step(
    config: Config, model: PixelNetwork, image_shape: tuple[int, int], mesh: Mesh
) -> Callable:
    with_scores = config.mode.write_predictions
    step = make_eval_step(
        model=model,
        options=runs_parts.make_step_options(config, image_shape),
        with_scores=with_scores,
    )
    return compile_eval_step(step, mesh, with_scores)


def _restore(config: Config, variables: dict[str, Any]) -> dict[str, Any]:
    """Restores the weights of `mode.weights_location` or of the output folder."""
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
    reports: InferenceReports,
    mesh: Mesh,
    processes: Processes,
) -> None:
    """Evaluates every minibatch, one ahead of the one that is reported."""
    mine = (local_entries(e, processes.index, processes.count) for e in entries)
    with runs_parts.read_events(config.data, source, mine) as reader:
        for started in one_behind(_start_steps(reader, entries, eval_step, mesh)):
            reports.report_minibatch(*started)
            reader.release(started[0])


def _start_steps(
    reader: MinibatchReader, entries: list[np.ndarray], eval_step: Callable, mesh: Mesh
) -> Iterator[tuple[HostMinibatch, np.ndarray, dict[str, Any], float]]:
    """Starts one evaluation after the other, and waits for none of them.

    Yields:
      The minibatch, its entries in all processes, the results under way, and the
      seconds waited for reading.
    """
    for minibatch, all_entries in zip(reader, entries, strict=True):
        arrays = sharding.distribute(runs_parts.step_arrays(minibatch), mesh)
        yield minibatch, all_entries, eval_step(arrays), reader.wait_s


def _predictions_path(config: Config, processes: Processes) -> str | None:
    """Names the file of this process's predictions, where they are asked for."""
    if not config.mode.write_predictions:
        return None
    path = os.path.join(config.output_dir, PREDICTIONS)
    return predictions.part_path(path, processes.index) if processes.count > 1 else path


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
