"""Runs the IO test: reads, makes dense, discards; no device and no jax."""

import logging
import time
from collections.abc import Callable

import numpy as np

from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config
from ctjax.config.file_names import file_patterns
from ctjax.data import pipeline, sources
from ctjax.data.order import local_entries, wrapped_entries
from ctjax.outputs import progress, run_record
from ctjax.outputs.timings import (
    StepTimings,
    find_rates,
    save_rank_timings,
    save_timings,
)
from ctjax.processes import join, launchers
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs.event_form import choose_form

logger = logging.getLogger("ctjax")


def run(config: Config, processes: Processes = SINGLE_PROCESS) -> dict[str, float]:
    """Goes over the file in order, from the start again at its end.

    Args:
      config: `run.iterations` minibatches of `run.minibatch_size` events are read,
        after a few that start the reading, the first of which begins at
        `mode.start_index`, in the form that would go to the device: dense, or sparse
        with `data.densify=device`, or as sites where the network is a sparse one.
      processes: of the run, each of which reads its own events of every minibatch.

    Returns:
      `total_s` seconds, `images` read, `images_per_s` and `wait_s`, as logged: of all
      processes, by the slowest.

    Raises:
      LarcvFileError: where the file cannot be read.
      ConfigError: the minibatch cannot be shared out evenly.
    """
    size = config.run.minibatch_size
    if size % processes.count:
        raise ConfigError(
            f"run.minibatch_size={size}: expected a multiple of the {processes.count} "
            "processes of this run, an equal number of events for each"
        )
    timings = _read(config, processes)
    save_rank_timings(config.output_dir, processes.index, timings)
    if processes.count > 1:
        names = "wait_s", "step_s", "images"
        of_all = join.gather(np.stack([timings[name] for name in names]))
        slowest = int(of_all[:, 1].sum(-1).argmax())
        timings["wait_s"], timings["step_s"], _ = of_all[slowest]
        timings["images"] = of_all[:, 2].sum(0)
    if processes.is_first:
        save_timings(config.output_dir, "io", timings)
    images = int(timings["images"].sum())
    total_s = float(timings["step_s"].sum())
    figures = {
        "total_s": total_s,
        "images": images,
        "images_per_s": images / total_s if total_s else 0.0,
        "wait_s": float(timings["wait_s"].sum()),
    }
    if processes.is_first:
        run_record.add(
            config,
            steps={"first": 0, "end": len(timings)},
            images_per_s=find_rates(timings, skipped=0),
        )
    logger.info("Total IO Time: %.4fs", total_s)
    logger.info("Total images read per batch: %d", size)
    logger.info("Average Image IO Throughput: %.3f images/s", figures["images_per_s"])
    return figures


def _read(config: Config, processes: Processes) -> np.ndarray:
    """Reads this process's part of every minibatch; returns the timings."""
    data, size = config.data, config.run.minibatch_size
    threads = data.io_threads or launchers.default_io_threads()
    with sources.open_source(
        file=file_patterns(data, data.file),
        downsample=data.downsample,
        synthetic=data.synthetic,
        seed=data.seed,
        data=data,
    ) as source:
        if processes.count > 1:
            join.check_alike(source.describe())
        hosts = run_record.count_hosts(processes)
        if processes.is_first:
            run_record.add(
                config,
                hosts=hosts,
                processes=processes.count,
                data=run_record.describe_events(source),
            )
        logger.info(
            "Reading %d events of %d x %d pixels: %d process%s of %d threads",
            source.num_events,
            *source.image_shape,
            processes.count,
            "es" if processes.count > 1 else "",
            threads,
        )
        entries = (
            local_entries(minibatch, processes.index, processes.count)
            for minibatch in wrapped_entries(
                source.num_events, size, config.mode.start_index
            )
        )
        with pipeline.minibatches(
            source,
            entries,
            io_threads=threads,
            prefetch=data.prefetch,
            form=choose_form(config, is_alone=processes.count == 1),
        ) as reader:
            _warm_up(reader, data.prefetch + 1, processes)
            with progress.progress("iotest", 0, config.run.iterations, size) as advance:
                return _discard(reader, config.run.iterations, advance)


def _warm_up(
    reader: pipeline.MinibatchReader, count: int, processes: Processes
) -> None:
    """Reads the first minibatches, which the rate is not to have.

    With one for each buffer of the reader all memory is there, and the clock begins as
    it ends: just when a minibatch has been taken and the next ones are under way. While
    processes wait for each other their readers run ahead: that is taken, too.
    """
    begin = time.perf_counter()
    _take(reader, count)
    if processes.count > 1:
        join.wait_for_all("iotest")
        _take(reader, count)
        count *= 2
    logger.info(
        "Start-up: %.4fs for the first %d minibatches, which are in no rate",
        time.perf_counter() - begin,
        count,
    )


def _take(reader: pipeline.MinibatchReader, count: int) -> None:
    for _ in range(count):
        reader.release(next(reader))


def _discard(
    reader: pipeline.MinibatchReader,
    iterations: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Takes minibatches and gives them back; returns timings of this process."""
    timings = StepTimings(iterations)
    for iteration in range(iterations):
        minibatch = next(reader)
        images = int(minibatch.mask.sum())
        reader.release(minibatch)
        timings.add_wait(reader.wait_s)
        _, step_s = timings.end_step(iteration, images)
        logger.info("%d: time to fetch a minibatch: %.4fs", iteration, step_s)
        advance(iteration + 1)
    return timings.done
