"""Applies a network to the events of a file, for predictions and metrics."""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ctjax.base.errors import ConfigError, UserError
from ctjax.config.fields import Config
from ctjax.config.heads import active_heads
from ctjax.data import order, pipeline
from ctjax.data.larcv.writer import LarcvWriter
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING, local_entries
from ctjax.data.pipeline import MinibatchReader
from ctjax.data.sources import EventSource
from ctjax.learning import devices, sharding
from ctjax.learning.compiled import compile_ahead, compile_eval_step
from ctjax.learning.one_behind import one_behind
from ctjax.learning.state import count_parameters
from ctjax.learning.steps import StepOptions, make_eval_step
from ctjax.models import PixelNetwork
from ctjax.outputs import (
    checkpoint,
    checksums,
    older_results,
    prediction_parts,
    predictions,
    run_record,
    timings,
)
from ctjax.outputs.inference_reports import InferenceReports
from ctjax.outputs.predictions import PREDICTIONS
from ctjax.processes import join
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs import nonfinite
from ctjax.runs import parts as runs_parts
from ctjax.runs.event_form import choose_form

logger = logging.getLogger("ctjax")

MAX_NAMED = 4
"""Events that a message names."""


class InferenceError(UserError):
    """Ends an inference whose results would be no numbers; the message says where."""


def run(config: Config, processes: Processes = SINGLE_PROCESS) -> dict[str, float]:
    """Goes over the file in order, and reports the averaged metrics.

    The results of an inference before in the same folder are set aside first.

    Args:
      config: of the run; `run.iterations` limits the minibatches; None for all, once.
        With `mode.wrap` the file begins again at its end.
      processes: of the run; they have joined already, see `join.start`.

    Returns:
      Mean of every metric over the events; without labels those of the vertex alone.

    Raises:
      ConfigError, LarcvFileError, CheckpointError, InferenceError: for what the user
        can mend.
    """
    if processes.is_first:
        older_results.set_aside(config.output_dir)
    mesh = devices.select(config.run.compute_mode)
    devices.check_divisible(mesh, minibatch_size=config.run.minibatch_size)
    with runs_parts.open_for_network(
        config, config.data.file, False, processes
    ) as source:
        config = runs_parts.with_planes(config, source, processes)
        events = source.image_shape, source.detector
        if config.mode.start_index >= source.num_events:
            raise ConfigError(
                f"mode.start_index: expected less than the {source.num_events} events "
                f"of the data, got {config.mode.start_index}"
            )
        model, variables = runs_parts.make_network(config, *events)
        logger.info(
            "Total number of trainable parameters in this network: %d",
            count_parameters(variables["params"]),
        )
        variables, weights = _restore(
            config, sharding.replicate(variables, mesh), processes
        )
        runs_parts.record_parts(config, source, variables, mesh, processes)
        options = runs_parts.make_step_options(config, *events)
        eval_step = _compiled_step(config, model, options, mesh)
        entries = _choose_entries(config, source.num_events, processes)
        writer = _open_predictions(config, source, weights, processes)
        with InferenceReports(
            config, source, len(entries), processes, writer
        ) as reports:
            check = functools.partial(
                _check_finite, config, source, model, variables, options
            )
            _go_over(
                *(config, source, entries, eval_step, variables),
                *(check, reports, mesh, processes),
            )
        if config.mode.write_predictions and processes.count > 1:
            _join_predictions(config, source, entries, processes)
        averages = reports.report_averages()
        if processes.is_first:
            _record_results(config, reports.timings.done, averages, weights)
    return averages


def _record_results(
    config: Config,
    done: np.ndarray,
    averages: dict[str, float],
    weights: dict[str, Any],
) -> None:
    """Adds to the record of the run what has come of it.

    Args:
      config: of the run.
      done: [N] of `timings.TIMING_TYPE`.
      averages: of the metrics.
      weights: see `_restore`.
    """
    run_record.add(
        config,
        steps={"first": 0, "end": len(done)},
        images_per_s=timings.find_rates(done),
        metrics=averages,
        weights=weights,
    )


def _choose_entries(
    config: Config, num_events: int, processes: Processes
) -> list[np.ndarray]:
    """Lists the entries of every minibatch, and says where there are too few of them.

    Args:
      config: of the run.
      num_events: of the data.
      processes: of the run.

    Returns:
      [B] int64 for each minibatch, -1 where there is no event.
    """
    mode, size, iterations = (
        config.mode,
        config.run.minibatch_size,
        config.run.iterations,
    )
    there = num_events - mode.start_index
    if iterations is not None and iterations * size > there and processes.is_first:
        words = "goes round again" if mode.wrap else f"takes {there} entries"
        logger.warning(
            "Asked for %d entries (run.iterations=%d minibatches of %d), the data has "
            "%d from mode.start_index=%d on: mode.wrap=%s %s",
            iterations * size,
            iterations,
            size,
            there,
            mode.start_index,
            mode.wrap,
            words,
        )
    # Without a number of minibatches there is no end of going round.
    goes_round = mode.wrap and iterations is not None
    in_order = order.wrapped_entries if goes_round else order.sequential_entries
    return list(islice(in_order(num_events, size, mode.start_index), iterations))


def _compiled_step(
    config: Config, model: PixelNetwork, options: StepOptions, mesh: Mesh
) -> Callable:
    with_scores = config.mode.write_predictions
    step = make_eval_step(
        model=model, options=options, with_scores=with_scores, with_loss=False
    )
    heads = options.heads
    return compile_eval_step(step, mesh, with_scores, with_loss=False, heads=heads)


def _restore(
    config: Config, variables: dict[str, Any], processes: Processes
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores the weights of `mode.weights_location` or of the output folder.

    Returns:
      The variables, in words where they are "from", their "step", None where they are
      random, and their "sha256".
    """
    location = config.mode.weights_location or config.output_dir
    try:
        restored, step = runs_parts.restore_weights(
            location, variables, config, processes
        )
    except checkpoint.CheckpointError:
        # The speed of inference can be measured before anything has been trained.
        is_there = os.path.isdir(os.path.join(location, checkpoint.FOLDER))
        if config.mode.weights_location or not config.data.synthetic or is_there:
            raise
        logger.warning("No checkpoint in %s: random weights", location)
        restored, step = variables, None
        found = f"random, run.seed={config.run.seed}"
    else:
        logger.info("Restored weights of step %d from %s", step, location)
        found = f"{os.path.abspath(location)}, step {step}"
    checksum = checksums.sum_arrays(restored)
    return restored, {"from": found, "step": step, "sha256": checksum}


def _check_finite(
    config: Config,
    source: EventSource,
    model: PixelNetwork,
    variables: dict[str, Any],
    options: StepOptions,
    entries: np.ndarray,
    results: dict[str, Any],
) -> None:
    """Refuses results that are no numbers, before anything is written of them.

    Args:
      config: of the run.
      source: of the events.
      model: the network.
      variables: its parameters and running statistics.
      options: of its step.
      entries: [B] int64 of all processes, -1 where there is no event.
      results: of the evaluation step.

    Raises:
      InferenceError: naming events, and the modules with the largest outputs.
    """
    is_bad = (np.asarray(results["is_finite"]) == 0) & (entries != PADDING)
    bad = entries[is_bad].tolist()
    if not bad:
        return
    with pipeline.minibatches(
        source, [np.array(bad[:1])], form=choose_form(config)
    ) as reader:
        event = runs_parts.step_arrays(next(reader))
    largest = nonfinite.describe_activations(
        model, variables, options.network_input(event)[0], train=False
    )
    names = [
        f"entry {entry} {tuple(source.event_id(entry).tolist())} of "
        f"{source.file_of(entry)}"
        for entry in bad[:MAX_NAMED]
    ]
    more = f" and {len(bad) - MAX_NAMED} more" * (len(bad) > MAX_NAMED)
    raise InferenceError(
        f"found class scores that are not finite, expected numbers: {', '.join(names)}"
        f"{more}. Largest activations of entry {bad[0]}, computed in "
        f"{np.dtype(model.dtype).name}: {largest}"
    )


def _go_over(
    config: Config,
    source: EventSource,
    entries: list[np.ndarray],
    eval_step: Callable,
    variables: dict[str, Any],
    check: Callable,
    reports: InferenceReports,
    mesh: Mesh,
    processes: Processes,
) -> None:
    """Evaluates every minibatch, one ahead of the one that is reported."""
    mine = (local_entries(e, processes.index, processes.count) for e in entries)
    with runs_parts.read_events(config, source, mine, mesh) as reader:
        steps = _start_steps(reader, entries, eval_step, variables, reports, mesh)
        for started in one_behind(steps):
            minibatch, all_entries, results = started
            check(all_entries, results)
            reports.report_minibatch(*started)
            reader.release(minibatch)


def _start_steps(
    reader: MinibatchReader,
    entries: list[np.ndarray],
    eval_step: Callable,
    variables: dict[str, Any],
    reports: InferenceReports,
    mesh: Mesh,
) -> Iterator[tuple[HostMinibatch, np.ndarray, dict[str, Any]]]:
    """Starts one evaluation after the other, and waits for none of them.

    Yields:
      The minibatch, its entries in all processes, and the results under way.
    """
    for count, minibatch in enumerate(reader):
        reports.timings.add_wait(reader.wait_s)
        arrays = sharding.distribute(runs_parts.step_arrays(minibatch), mesh)
        if count == 0:
            with reports.timings.start_up():
                eval_step, _ = compile_ahead("inference", eval_step, variables, arrays)
        results = eval_step(variables, arrays)
        yield minibatch, entries[count], results


def _open_predictions(
    config: Config,
    source: EventSource,
    weights: dict[str, Any],
    processes: Processes,
) -> AbstractContextManager[LarcvWriter] | None:
    """Opens the file of this process's predictions, where they are asked for."""
    if not config.mode.write_predictions:
        return None
    path = os.path.join(config.output_dir, PREDICTIONS)
    if processes.count > 1:
        path = prediction_parts.part_path(path, processes.index)
    attributes = predictions.provenance(
        config, source, weights["from"], weights["sha256"]
    )
    products = _name_products(config, source)
    metas = predictions.metas_of(source)
    return predictions.open_writer(path, metas, products, attributes)


def _name_products(config: Config, source: EventSource) -> predictions.Products:
    """Names what this inference writes of its events."""
    heads = active_heads(config.network)
    return predictions.name_products(
        config.data, source.detector, source.has_label, heads
    )


def _join_predictions(
    config: Config,
    source: EventSource,
    entries: list[np.ndarray],
    processes: Processes,
) -> None:
    """Makes one file, in the order of the events, of those of the processes."""
    join.wait_for_all("predictions")
    if processes.is_first:
        path = os.path.join(config.output_dir, PREDICTIONS)
        parts = [prediction_parts.part_path(path, n) for n in range(processes.count)]
        order = [
            process
            for minibatch in entries
            for process in range(processes.count)
            for entry in local_entries(minibatch, process, processes.count)
            if entry != PADDING
        ]
        products = _name_products(config, source)
        prediction_parts.join(parts, order, path, products)
    # Nobody leaves earlier: the end of a process waits for the others only so long.
    join.wait_for_all("joined predictions")
