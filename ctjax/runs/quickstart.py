"""Leads from nothing to a trained network beside two trivial baselines.

Events are simulated once and kept in the user's cache; a network is trained on the one
file and goes over the other, and over one of real events where it is given.
"""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctjax.base import user_cache
from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.errors import ConfigError
from ctjax.config.detectors import read_detector
from ctjax.config.fields import Config, ModeName
from ctjax.data import order, pipeline
from ctjax.data.larcv.disk_file import BusyError
from ctjax.learning import class_scores, metrics
from ctjax.learning.minibatch import make_input
from ctjax.outputs import log, older_results, run_record
from ctjax.processes import launchers
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs import inference, parts, train
from ctjax.simulation.benchmark_sets import BENCHMARK_SETS, BenchmarkFile
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters
from ctjax.simulation.production import write_events
from ctjax.simulation.progress import Progress
from ctjax.views import report
from ctjax.views.report import records, tables

logger = logging.getLogger("ctjax")

THRESHOLD_EVENTS = 100
"""Events of the training file on which the charge threshold is chosen."""

THRESHOLDS = np.geomspace(0.05, 50.0, 31)
"""Charges to choose from: below the smallest pooled one to the tip of the largest."""

FIRST_CLASS = 1
"""Of those behind the background."""

SECONDS_PER_IMAGE, MEMORY_GB = 0.15, 2.0
"""Of the quickstart's training on two cores, with all around it; docs/simulation.md."""

TEST_FOLDER = "test_file"
"""Holds what the inference over `data.test_file` leaves, in the output folder."""

WAIT_S = 0.5
"""Between two looks whether another run has simulated the events."""


def run(
    config: Config, processes: Processes = SINGLE_PROCESS
) -> dict[str, dict[str, float]]:
    """Simulates, trains, infers and reports; goes on where a former run ended.

    Args:
      config: of the run; `data.file` is for training and `data.aux_file` for the
        report, both simulated where they are not set; `data.test_file` is gone over
        after it, with the same weights.
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
    test = _for_test_file(config)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, test_file=None)
    )
    if config.data.file is None:
        _say_what_it_takes(config)
        file, aux_file = map(find_or_simulate, BENCHMARK_SETS["quickstart"])
        data = dataclasses.replace(
            config.data, data_directory="", file=file, aux_file=aux_file
        )
        config = dataclasses.replace(config, data=data)
    training = dataclasses.replace(config.mode, name=ModeName.TRAIN)
    trained = dataclasses.replace(config, mode=training)
    with run_record.keep(trained):
        state = train.run(trained)
    # Before its own record is there, which is not to be set aside.
    older_results.set_aside(config.output_dir)
    name = f"network after {int(state.step)} steps"
    threshold = choose_threshold(config)
    averages = _go_over(_for_report(config), name, threshold)
    run_record.add(config, metrics=averages)
    if test is not None:
        logger.info(
            "Going over data.test_file=%s with the same weights", test.data.file
        )
        older_results.set_aside(test.output_dir)
        run_record.add(config, test_metrics=_go_over(test, name, threshold))
        report.write_after_run(test.output_dir)
    _log_rates(records.read_record(config.output_dir))
    logger.info("Quickstart took %.0f seconds", time.perf_counter() - start)
    return averages


def _go_over(
    config: Config, name: str, threshold: float
) -> dict[str, dict[str, float]]:
    """Infers over a file and logs the scores beside those of the baselines.

    Args:
      config: of the inference.
      name: of the network, for the log.
      threshold: see `baselines`.

    Returns:
      Averages of CosmicTagger's metrics by what predicted; none without true classes.
    """
    with run_record.keep(config):
        averages = {name: inference.run(config)}
    record = records.read_record(config.output_dir)
    if record.confusion is None:
        return {}
    counts = {name: record.confusion, **baselines(config, threshold)}
    for predictor, found in counts.items():
        if predictor not in averages:
            averages[predictor] = average(found, record.detector)
    _log_scores(config, counts, record.detector)
    _log_original_metrics(averages, record.detector)
    return averages


def _say_what_it_takes(config: Config) -> None:
    """Says time and memory before anything is done, for the quickstart's own events."""
    images = (config.run.iterations or 0) * config.run.minibatch_size
    logger.info(
        "Trains on %s images, then finds the neutrino in events that it has not seen; "
        "with the network of configs/quickstart.py that takes about %.0f min on two "
        "cores and %.1f GB of memory",
        f"{images:,}",
        max(1.0, images * SECONDS_PER_IMAGE / 60),
        MEMORY_GB,
    )


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
    mode = dataclasses.replace(
        config.mode,
        name=ModeName.INFERENCE,
        weights_location=None,
        write_predictions=True,
    )
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, iterations=None),
        data=dataclasses.replace(config.data, file=config.data.aux_file),
        mode=mode,
    )


def _for_test_file(config: Config) -> Config | None:
    """Configures the inference over `data.test_file`, in a folder of its own.

    Raises:
      LarcvFileError, ConfigError: the file is missing or is none that the network
        takes, said before anything is trained.
    """
    name = config.data.test_file
    if name is None:
        return None
    with parts.open_for_network(config, name, False, SINGLE_PROCESS) as tested:
        found, expected = tested.detector.num_planes, COSMIC_TAGGER.num_planes
    if config.data.file is not None:
        with parts.open_for_network(
            config, config.data.file, True, SINGLE_PROCESS
        ) as trained:
            expected = trained.detector.num_planes
    if found != expected:
        raise ConfigError(
            f"data.test_file={name}: found events of {found} planes, expected "
            f"{expected} as those of the training"
        )
    test = _for_report(config)
    return dataclasses.replace(
        test,
        data=dataclasses.replace(test.data, file=name, aux_file=None, test_file=None),
        mode=dataclasses.replace(test.mode, weights_location=config.output_dir),
        output_dir=os.path.join(config.output_dir, TEST_FOLDER),
    )


def choose_threshold(config: Config) -> float:
    """Returns the charge above which calling pixels cosmic is best in training."""
    tried = threshold_counts(config, config.data.file, THRESHOLDS, THRESHOLD_EVENTS)
    detector = dataclasses.replace(
        read_detector(config.data), num_planes=tried.shape[2]
    )
    scores = [average(counts, detector)["Average/mIoU"] for counts in tried]
    return float(THRESHOLDS[np.argmax(scores)])


def baselines(config: Config, threshold: float) -> dict[str, np.ndarray]:
    """Returns the counted pixels of two predictions that take no learning.

    Args:
      config: whose `data.file` is gone over.
      threshold: charge, from `choose_threshold`.
    """
    stored, above = threshold_counts(config, config.data.file, [0.0, threshold])
    name = read_detector(config.data).classes[FIRST_CLASS]
    return {
        f"every pixel with charge {name}": stored,
        f"charge above {threshold:.2g} {name}": above,
    }


def threshold_counts(
    config: Config,
    names: str,
    thresholds: Sequence[float] | np.ndarray,
    most_events: int | None = None,
) -> np.ndarray:
    """Counts pixels where what has more charge than a threshold is called a class.

    Args:
      config: of the run.
      names: of the files, as `data.file`.
      thresholds: [T], in the charge of downsampled images; 0 takes every pixel that
        has charge.
      most_events: of the files, from the first on; None for all.

    Returns:
      [T, N, P, K, K] int32, see `metrics.confusion`; such pixels are called the first
      class that is not the background, cosmic unless the classes are others.
    """
    levels = jnp.asarray(thresholds, jnp.float32)
    with parts.open_events(config.data, names, require_label=True) as source:
        detector = source.detector
        network_input = make_input(source.image_shape, False, detector)

        @jax.jit
        def count(minibatch):
            _, charge, label = network_input(minibatch)

            def of_level(level):
                found = jnp.where(charge > level, FIRST_CLASS, BACKGROUND)
                return metrics.confusion(found, label, detector.num_classes)

            return jax.lax.map(of_level, levels)

        size = detector.num_classes
        counted = [
            np.zeros((len(thresholds), 0, detector.num_planes, size, size), np.int32)
        ]
        number = min(source.num_events, most_events or source.num_events)
        entries = order.sequential_entries(number, config.run.minibatch_size)
        with pipeline.minibatches(
            source, entries, io_threads=config.data.io_threads
        ) as reader:
            for minibatch in reader:
                counts = np.asarray(count(parts.step_arrays(minibatch)))
                counted.append(counts[:, minibatch.mask > 0])
                reader.release(minibatch)
    return np.concatenate(counted, 1)


def average(counts: np.ndarray, detector: Detector) -> dict[str, float]:
    """Averages CosmicTagger's metrics over events.

    Args:
      counts: [N, P, K, K], see `metrics.confusion`.
      detector: of the events.
    """
    values = metrics.event_metrics(jnp.asarray(counts, jnp.int32))
    mean = np.asarray(values, np.float64).mean(0)
    return metrics.named(mean, detector.metric_names)


def _log_scores(
    config: Config, counts: Mapping[str, np.ndarray], detector: Detector
) -> None:
    """Writes efficiency, purity and false pixels of every prediction."""
    size = 2**config.data.downsample
    logger.info("Quickstart report: means over the events of %s", config.data.file)
    logger.info("  %s", log.pixel_rules(config.mode))
    logger.info(
        "  A pixel is a square of %d x %d stored ones; errors are from drawing the "
        "events again (bootstrap)",
        *(size, size),
    )
    for name, found in counts.items():
        logger.info("  %s", name)
        scores = class_scores.score_classes(found, detector.classes)
        for line in class_scores.describe(scores):
            logger.info("    %s", line)


def _log_original_metrics(
    averages: Mapping[str, Mapping[str, float]], detector: Detector
) -> None:
    """Writes CosmicTagger's metrics, the mean of the planes."""
    logger.info(
        "CosmicTagger's metrics, where a class neither present nor predicted "
        "counts as 1:"
    )
    width = max(map(len, averages))
    shown = ("mIoU", *detector.class_metrics, "Non_Bkg_Accuracy", "Total_Accuracy")
    logger.info("  %-*s  %s", width, "", "  ".join(shown))
    for name, values in averages.items():
        row = "  ".join(f"{values[f'Average/{m}']:{len(m)}.4f}" for m in shown)
        logger.info("  %-*s  %s", width, name, row)


def _log_rates(record: records.Record) -> None:
    """Writes the usual number of images per second of training and inference."""
    for row in tables.times([record]):
        if row["median_images_per_s"]:
            words = row["mode"], row["median_images_per_s"]
            logger.info("Images per second, %s: %.3g (median)", *words)
