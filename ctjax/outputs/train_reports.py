"""Reports a training: its log, tables, summaries and progress."""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctjax.base import optional_packages
from ctjax.config import fields
from ctjax.config.fields import Config
from ctjax.config.heads import active_heads, loss_names, metric_names
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.sources import EventSource
from ctjax.learning import metrics, sharding
from ctjax.learning.precision import POLICIES
from ctjax.outputs import log, metrics_table, progress, summaries, trackers
from ctjax.views import evaluated_event, picture

logger = logging.getLogger("ctjax")

STEP_COLUMNS = ("time_s", "images_per_s", "grad_norm")
"""Of the training's table, behind the metrics: Unix time of the report, rate of the
step and norm of its gradient, which tables of version 0.1 do not have."""

IMAGE_SUMMARIES = 25  # summaries between two with images, as CosmicTagger


def event_names(minibatch: HostMinibatch) -> str:
    """Names the events of a minibatch, "(run, subrun, event), ..."."""
    return ", ".join(str(tuple(ids)) for ids in minibatch.event_ids.tolist())


class TrainReports:
    """Reports from a training run's first process; others only warn.

    Attributes:
      last: step, loss and metrics of the last step ("train") and of the last validation
        ("validation"), as far as there were any; empty in other processes.
    """

    def __init__(
        self,
        config: Config,
        source: EventSource,
        steps: range,
        is_first: bool,
    ):
        """Opens the tables and summaries of a run.

        Args:
          config: of the run.
          source: of the events.
          steps: from the first one of this start to the last one of the run.
          is_first: whether this process is the first one of the run.
        """
        self.last: dict[str, dict[str, float]] = {}
        self._mode = config.mode
        self._is_first = is_first
        self._stack = contextlib.ExitStack()
        self._num_skipped = 0
        if not is_first:
            return
        self._downsample = config.data.downsample
        self._image_shape, self._detector = source.image_shape, source.detector
        self._is_scaled = POLICIES[config.run.precision].is_scaled
        self._draws_events = True
        self._steps = steps
        rule = config.mode.optimizer
        self._images = config.run.minibatch_size * rule.gradient_accumulation
        folder = config.output_dir
        heads = active_heads(config.network)
        self._loss_names = loss_names(heads)
        self._names = (
            *source.detector.metric_names,
            *metric_names(heads, source.detector.num_planes),
        )
        columns = ("step", "loss", *self._names, *self._loss_names)
        self._train_table = metrics_table.MetricsTable(
            os.path.join(folder, "train_metrics.csv"),
            (*columns, *STEP_COLUMNS),
            before=steps.start,
            may_lack=len(STEP_COLUMNS),
        )
        self._val_table = metrics_table.MetricsTable(
            os.path.join(folder, "val_metrics.csv"), columns, before=steps.start + 1
        )
        self._summaries = {
            name: summaries.open_summary(folder, name, steps.start)
            for name in ("train", "test")
        }
        self._tracked = trackers.TrackedRun(config)
        summaries.add_config(
            self._summaries["train"],
            fields.to_dict(config),
            ("loss", *log.LOGGED_METRICS),
            steps.start,
        )

    def __enter__(self) -> "TrainReports":
        """Shows the bar of progress, where there is a terminal."""
        if self._is_first:
            self._advance = self._stack.enter_context(
                progress.progress(
                    "train", self._steps.start, self._steps.stop, self._images
                )
            )
        return self

    def __exit__(self, kind: type | None, *exception: Any) -> None:
        """Closes everything."""
        self._stack.close()
        if not self._is_first:
            return
        self._train_table.close()
        self._val_table.close()
        for summary in self._summaries.values():
            summary.close()
        self._tracked.close(kind is None)

    def wants_images(self, step: int) -> bool:
        """Says whether this step's summary has images."""
        every = IMAGE_SUMMARIES * self._mode.summary_iteration
        # The same answer in all processes, who evaluate together.
        return not self._mode.no_summary_images and step % every == 0

    def report_step(
        self, step: int, results: Mapping[str, Any], wait_s: float, step_s: float
    ) -> None:
        """Reports one finished step.

        Args:
          step: its number.
          results: of the training step, on the host.
          wait_s: seconds that it waited for reading.
          step_s: seconds in all, but for those of the start-up before it.
        """
        if not self._is_first:
            return
        self._advance(step + 1)
        loss, named = float(results["loss"]), self._named(results["metrics"])
        parts = self._named_parts(results)
        images = int(results["num_events"])
        grad_norm, images_per_s = float(results["grad_norm"]), images / step_s
        # Of ten digits, more than a float keeps in the table.
        now = f"{time.time():.3f}"
        row = [step, loss, *named.values(), *parts.values()]
        self._train_table.write([*row, now, images_per_s, grad_norm])
        self.last["train"] = {"step": step, "loss": loss, **named, **parts}
        if step % self._mode.logging_iteration == 0:
            speed = log.rate(images, wait_s, step_s)
            values = {"loss": loss, **log.shown_losses(parts)}
            if self._is_scaled:
                values["loss_scale"] = float(results["loss_scale"])
            self._log("train", step, values, named, speed)
        if step % self._mode.summary_iteration == 0:
            extra = {
                "learning_rate": float(results["learning_rate"]),
                "grad_norm": grad_norm,
                "loss_scale": float(results["loss_scale"]),
                "images_per_second": images_per_s,
                "global_step_per_sec": 1 / step_s,
                "step_time": step_s,
                "io_fetch_time": wait_s,
            }
            self._summarize("train", step, {"loss": loss, **named, **parts, **extra})

    def warn_of_skipped_update(
        self, step: int, results: Mapping[str, Any], minibatch: HostMinibatch
    ) -> None:
        """Warns, in every process, where a finished step has left its update out.

        Args:
          step: its number.
          results: of the training step, on the host.
          minibatch: of the step.
        """
        if results["is_finite"]:
            return
        self._num_skipped += 1
        # Not "train Step": who reads the log takes such lines for those with the speed.
        if results["is_overflow"]:
            logger.warning(
                "Step %d of training: gradient beyond float16 with a loss scale of %g, "
                "which is halved: update skipped, %d so far",
                step,
                float(results["loss_scale"]),
                self._num_skipped,
            )
            return
        logger.warning(
            "Step %d of training: loss %g, not finite: update skipped, %d so far; "
            "events (run, subrun, event): %s",
            step,
            float(results["loss"]),
            self._num_skipped,
            event_names(minibatch),
        )

    def report_validation(
        self, step: int, results: Mapping[str, Any], mean: np.ndarray
    ) -> None:
        """Reports a validation after `step` updates.

        Args:
          step: number of updates.
          results: of the evaluation step; its losses are those of the minibatch.
          mean: [M], metrics averaged over its events.
        """
        if not self._is_first:
            return
        loss, parts = float(results["loss"]), self._named_parts(results)
        named = self._named(mean)
        self._val_table.write([step, loss, *named.values(), *parts.values()])
        self.last["validation"] = {"step": step, "loss": loss, **named, **parts}
        shown = {"loss": loss, **log.shown_losses(parts)}
        self._log("test", step, shown, named, None)
        self._summarize("test", step, {"loss": loss, **named, **parts})

    def report_image(
        self,
        kind: str,
        step: int,
        minibatch: HostMinibatch,
        results: Mapping[str, Any],
    ) -> None:
        """Adds the event display of the minibatch's first event.

        Args:
          kind: "train" or "test".
          step: its number.
          minibatch: that has been evaluated.
          results: of the evaluation step.
        """
        if not self._is_first or not self._draws_events:
            return
        arrays = {
            name: sharding.local(results[name]) for name in ("prediction", "label")
        }
        number = len(self._detector.metric_names)
        arrays["metrics"] = np.asarray(results["metrics"])[:, :number]
        view = evaluated_event.view_of_minibatch(
            *(minibatch, arrays, 0, self._image_shape, self._downsample),
            self._detector,
        )
        try:
            figure = picture.draw(view)
        except optional_packages.MissingExtraError as error:
            logger.warning("No event displays in TensorBoard: %s", error)
            self._draws_events = False
            return
        self._summaries[kind].add_figure("event", figure, step)

    def _named(self, values):
        return metrics.named(values, self._names)

    def _named_parts(self, results):
        """Names the parts of the loss; none without heads."""
        return metrics.named(results.get("loss_parts", ()), self._loss_names)

    def _log(self, kind, step, values, named, speed):
        shown = {**values, **log.shown_metrics(named)}
        log.log_step(kind, step, shown, speed)

    def _summarize(self, kind, step, scalars):
        for name, value in scalars.items():
            self._summaries[kind].add_scalar(name, value, step)
        self._tracked.send(kind, step, scalars)
