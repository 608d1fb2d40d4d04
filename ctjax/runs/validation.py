"""Validates a training between its steps."""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ctjax.base.detector import Detector, ImageShape
from ctjax.base.errors import ConfigError
from ctjax.config.fields import Config
from ctjax.config.file_names import file_patterns
from ctjax.data import order, sources
from ctjax.data.order import local_entries
from ctjax.data.sources import EventSource
from ctjax.learning import head_steps, metrics, sharding
from ctjax.learning.compiled import compile_ahead
from ctjax.learning.state import TrainState
from ctjax.learning.steps import EvalStep
from ctjax.outputs import checkpoint, run_record, skipped_events
from ctjax.outputs.timings import StepTimings
from ctjax.outputs.train_reports import TrainReports
from ctjax.processes.join import Processes
from ctjax.runs import parts
from ctjax.views.skipped import VALIDATION

logger = logging.getLogger("ctjax")

Validate = Callable[[int, TrainState, StepTimings], list[float]]
"""`(step, state, timings) -> scores`, see `open_validation`."""


def minibatch_size(config: Config) -> int:
    """Returns the number of events of a validation."""
    return config.run.aux_minibatch_size or config.run.minibatch_size


@contextlib.contextmanager
def open_validation(
    config: Config,
    trained_on: EventSource,
    eval_step: EvalStep,
    reports: TrainReports,
    start: int,
    mesh: Mesh,
    processes: Processes,
) -> Iterator[Validate]:
    """Opens the events for validation, if there are any.

    Args:
      config: of the run.
      trained_on: events of the training, whose planes those of the validation have.
      eval_step: compiled.
      reports: of the training.
      start: its first step; validation goes on where that of a former run ended.
      mesh: of the devices.
      processes: of the run.

    Yields:
      A function that evaluates the state after `step` updates on the next minibatch,
      and takes what it compiles out of the timings of the step under way. It returns
      the score by which the best checkpoint is kept, or nothing.
    """
    if not config.data.aux_file or config.data.synthetic:
        yield lambda step, state, timings: []
        return
    _say_what_is_shared(config)
    with parts.open_for_network(
        config, config.data.aux_file, True, processes
    ) as source:
        _check_planes(source, trained_on, config.data.aux_file)
        if processes.is_first:
            run_record.add(config, validation_data=run_record.describe_events(source))
        entries = _entries(config, source.num_events, start, processes)
        with parts.read_events(config, source, entries, mesh) as reader:
            evaluate = _compiling_apart(eval_step)
            number = len(source.detector.metric_names)

            def validate(
                step: int, state: TrainState, timings: StepTimings
            ) -> list[float]:
                minibatch = next(reader)
                arrays = sharding.distribute(parts.step_arrays(minibatch), mesh)
                results = evaluate(state.variables, arrays, timings)
                mean = head_steps.mean_over_events(
                    results["metrics"], results["counted"], number
                )
                reports.report_validation(step, results, mean)
                if reports.wants_images(step):
                    reports.report_image("test", step, minibatch, results)
                reader.release(minibatch)
                return _score(step, results, mean, source.detector)

            yield validate

        skipped_events.report_training(
            *(config, source, processes, start > 0, VALIDATION)
        )


def _entries(
    config: Config, num_events: int, start: int, processes: Processes
) -> Iterator[np.ndarray]:
    """Yields the entries of this process in one validation after the other."""
    for count in itertools.count(start // config.run.aux_iterations):
        entries = order.training_entries(
            num_events, minibatch_size(config), config.data.seed, count
        )
        yield local_entries(entries, processes.index, processes.count)


def _check_planes(source: EventSource, trained_on: EventSource, name: str) -> None:
    """Refuses images that a network for those of the training is not made for.

    Raises:
      ConfigError: there are other planes, or padding in other places.
    """
    found, expected = source.detector, trained_on.detector
    if found.num_planes != expected.num_planes:
        raise ConfigError(
            f"data.aux_file={name}: found {found.num_planes} planes, expected "
            f"{expected.num_planes} as in data.file (data.planes)"
        )
    sizes, wanted = (
        detector.plane_shapes or (of.image_shape,) * detector.num_planes
        for detector, of in ((found, source), (expected, trained_on))
    )
    if found != expected:
        raise ConfigError(
            f"data.aux_file={name}: found planes of {_listed(sizes)}, expected "
            f"{_listed(wanted)} as in data.file"
        )


def _listed(shapes: Sequence[ImageShape]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in shapes)


def _score(
    step: int, results: dict[str, Any], mean: np.ndarray, detector: Detector
) -> list[float]:
    """Returns the score of a validation; nothing where an event has none."""
    if not _are_finite(step, np.asarray(results["is_finite"])):
        return []
    names = detector.metric_names
    return [metrics.named(mean[: len(names)], names)[checkpoint.SCORE]]


def _are_finite(step: int, is_finite: np.ndarray) -> bool:
    """Says whether all events [B] have class scores, and logs it where not."""
    num_bad = int(np.sum(is_finite == 0))
    if num_bad:
        words = "test Step %d: no score, class scores of %d of %d events are not finite"
        logger.warning(words, step, num_bad, len(is_finite))
    return not num_bad


def _compiling_apart(eval_step: EvalStep) -> Callable:
    """Returns `(variables, arrays, timings) -> results`.

    What the first call compiles is in the start-up of the timings.
    """
    compiled: list[Callable] = []

    def evaluate(variables: Any, arrays: Any, timings: StepTimings) -> Any:
        if not compiled:
            with timings.start_up():
                compiled.append(
                    compile_ahead("validation", eval_step, variables, arrays)[0]
                )
        return compiled[0](variables, arrays)

    return evaluate


def _say_what_is_shared(config: Config) -> None:
    """Logs files whose events are both trained on and validated with."""
    trained_on, validated_with = (
        {
            os.path.realpath(path)
            for path in sources.find_files(file_patterns(config.data, names))
        }
        for names in (config.data.file, config.data.aux_file or "")
    )
    for path in sorted(trained_on & validated_with):
        logger.info(
            "%s is in data.file and data.aux_file: validation has events that were "
            "trained on, and says nothing about others",
            path,
        )
