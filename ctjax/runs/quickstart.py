"""Leads from nothing to a trained network beside two trivial baselines.

Events are simulated once and kept in the user's cache; a network is trained on the one
file and goes over the other.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base import user_cache
from ctjax.base.constants import BACKGROUND
from ctjax.base.errors import ConfigError
from ctjax.config.detectors import read_detector
from ctjax.config.fields import Config, ModeName
from ctjax.data import order, pipeline
from ctjax.data.larcv.disk_file import BusyError
from ctjax.learning import metrics
from ctjax.learning.minibatch import make_input
from ctjax.outputs import log, older_results, run_record
from ctjax.processes import launchers
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs import inference, parts, train
from ctjax.simulation.benchmark_sets import BENCHMARK_SETS, BenchmarkFile
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters
from ctjax.simulation.production import write_events
from ctjax.simulation.progress import Progress

logger = logging.getLogger("ctjax")

THRESHOLD_EVENTS = 100
"""Events of the training file on which the charge threshold is chosen."""

THRESHOLDS = np.geomspace(0.05, 50.0, 31)
"""Charges to choose from: below the smallest pooled one to the tip of the largest."""

FIRST_CLASS = 1
"""Of those behind the background."""

WAIT_S = 0.5
"""Between two looks whether another run has simulated the events."""


def run(
    config: Config, processes: Processes = SINGLE_PROCESS
) -> dict[str, dict[str, float]]:
    """Simulates, trains, infers and reports; goes on where a former run ended.

    Args:
      config: of the run; `data.file` is for training and `data.aux_file` for the
        report, both simulated where they are not set.
      processes: of the run; one is enough here.

    Returns:
      Every metric, averaged over the events of the report, by what predicted.

    Raises:
      ConfigError, LarcvFileError, CheckpointError, OSError: for what the user can mend.
    """
    start = time.perf_counter()
    if processes.count > 1:
        raise ConfigError(
            f"mode.name=quickstart: expected one process, got {processes.count}"
        )
    if config.data.file is None:
        file, aux_file = map(find_or_simulate, BENCHMARK_SETS["quickstart"])
        data = dataclasses.replace(
            config.data, data_directory="", file=file, aux_file=aux_file
        )
        config = dataclasses.replace(config, data=data)
    training = dataclasses.replace(config.mode, name=ModeName.TRAIN)
    training_config = dataclasses.replace(config, mode=training)
    with run_record.keep(training_config):
        state = train.run(training_config)
    # Before its own record is there, which is not to be set aside.
    older_results.set_aside(config.output_dir)
    with run_record.keep(_for_report(config)):
        averages = inference.run(_for_report(config))
    report = {
        f"network after {int(state.step)} steps": averages,
        **baselines(config),
    }
    run_record.add(config, metrics=report)
    _log_report(config, report)
    logger.info("Quickstart took %.0f seconds", time.perf_counter() - start)
    return report


def find_or_simulate(file: BenchmarkFile) -> str:
    """Returns a simulated file in the user's cache, which it makes where absent."""
    folder = user_cache.folder("simulated")
    if folder is None:
        raise ConfigError(
            "mode.name=quickstart: found no home folder to keep simulated events in; "
            "expected HOME or XDG_CACHE_HOME to be set"
        )
    name = f"v{GENERATOR_VERSION}_seed{file.seed}_{file.events}events.h5"
    path = os.path.join(folder, name)
    if os.path.exists(path):
        logger.info("Simulated events for %s: %s", file.name, path)
        return path
    logger.info("Simulating %d events for %s: %s", file.events, file.name, path)
    os.makedirs(folder, exist_ok=True)
    is_told = False
    # Another run may be faster; the events of a name are always the same.
    while not os.path.exists(path):
        try:
            write_events(
                path,
                SimulationParameters(),
                file.seed,
                file.events,
                workers=launchers.usable_cpus(),
                report=Progress(name, file.events),
            )
        except FileExistsError:
            if not os.path.exists(path):
                raise
        except BusyError:
            if not is_told:
                logger.info("Another run simulates %s: waiting for its end", path)
            is_told = True
            time.sleep(WAIT_S)
    return path


def _for_report(config: Config) -> Config:
    """Configures the inference over all of `data.aux_file` with the new weights."""
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, iterations=None),
        data=dataclasses.replace(config.data, file=config.data.aux_file),
        mode=dataclasses.replace(
            config.mode, name=ModeName.INFERENCE, weights_location=None
        ),
    )


def baselines(config: Config) -> dict[str, dict[str, float]]:
    """Returns the metrics of two predictions that take no learning."""
    tried = threshold_metrics(config, config.data.file, THRESHOLDS, THRESHOLD_EVENTS)
    best = THRESHOLDS[np.argmax([values["Average/mIoU"] for values in tried])]
    stored, above = threshold_metrics(
        config, _for_report(config).data.file, [0.0, best]
    )
    name = read_detector(config.data).classes[FIRST_CLASS]
    return {
        f"every pixel with charge {name}": stored,
        f"charge above {best:.2g} {name}": above,
    }


def threshold_metrics(
    config: Config,
    names: str,
    thresholds: Sequence[float] | np.ndarray,
    most_events: int | None = None,
) -> list[dict[str, float]]:
    """Averages the metrics of a class for what has more charge than a threshold.

    Args:
      config: of the run.
      names: of the files, as `data.file`.
      thresholds: [T], in the charge of downsampled images; 0 takes every pixel that
        has charge.
      most_events: of the files, from the first on; None for all.

    Returns:
      T of them: every metric of calling such pixels by the first class that is not the
      background, cosmic unless the classes are others.
    """
    levels = jnp.asarray(thresholds, jnp.float32)
    with parts.open_events(config.data, names, require_label=True) as source:
        detector = source.detector
        network_input = make_input(source.image_shape, False, detector)

        @jax.jit
        def summed(minibatch):
            _, charge, label = network_input(minibatch)

            def of_level(level):
                found = jnp.where(charge > level, FIRST_CLASS, BACKGROUND)
                counts = metrics.confusion(found, label, detector.num_classes)
                return minibatch.mask @ metrics.event_metrics(counts)

            return jax.lax.map(of_level, levels)

        total = np.zeros((len(thresholds), len(detector.metric_names)))
        counted = 0
        number = min(source.num_events, most_events or source.num_events)
        entries = order.sequential_entries(number, config.run.minibatch_size)
        with pipeline.minibatches(
            source, entries, io_threads=config.data.io_threads
        ) as reader:
            for minibatch in reader:
                total += np.asarray(summed(parts.step_arrays(minibatch)))
                counted += int(minibatch.mask.sum())
                reader.release(minibatch)
    means = total / max(1, counted)
    return [metrics.named(values, detector.metric_names) for values in means]


def _log_report(config: Config, report: dict[str, dict[str, float]]) -> None:
    """Writes the table, the mean of the planes."""
    logger.info("Quickstart report: means over the events of %s", config.data.aux_file)
    logger.info("  %s", log.pixel_rules(config.mode))
    width = max(map(len, report))
    ious = read_detector(config.data).class_metrics
    shown = ("mIoU", *ious, "Non_Bkg_Accuracy", "Total_Accuracy")
    columns = "  ".join(shown)
    logger.info("  %-*s  %s", width, "", columns)
    for name, values in report.items():
        row = "  ".join(f"{values[f'Average/{m}']:{len(m)}.4f}" for m in shown)
        logger.info("  %-*s  %s", width, name, row)
