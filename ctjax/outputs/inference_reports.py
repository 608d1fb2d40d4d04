"""Reports an inference: its log, tables, predictions and progress."""

import contextlib
import logging
import os
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from ctjax.config.fields import Config
from ctjax.config.heads import active_heads, metric_names
from ctjax.data.larcv.writer import LarcvWriter
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING, local_entries
from ctjax.data.sources import EventSource
from ctjax.learning import class_scores, head_steps, metrics, sharding
from ctjax.outputs import (
    found_events,
    log,
    metrics_table,
    predictions,
    progress,
    skipped_events,
    timings,
)
from ctjax.processes.join import Processes
from ctjax.views.event_table import EVENT_TABLE

logger = logging.getLogger("ctjax")

EVENT_COLUMNS = ("entry", "run", "subrun", "event", "file")


class InferenceReports:
    """Reports from the first process, but predictions from every one.

    Attributes:
      timings: of the minibatches; they begin when the block is entered.
    """

    def __init__(
        self,
        config: Config,
        source: EventSource,
        num_minibatches: int,
        processes: Processes,
        writer: AbstractContextManager[LarcvWriter] | None,
    ):
        """Takes what to report; entering the block opens the files.

        Args:
          config: of the run.
          source: of the events.
          num_minibatches: of the whole inference.
          processes: of the run.
          writer: of this process's predictions; None for none.
        """
        self._config, self._source, self._processes = config, source, processes
        self._open_writer = writer
        self._heads = active_heads(config.network)
        self._products = predictions.name_products(
            config.data, source.detector, source.has_label, self._heads
        )
        self._num_minibatches = num_minibatches
        self._stack = contextlib.ExitStack()
        of_pixels = source.detector.metric_names
        of_heads = metric_names(self._heads, source.detector.num_planes)
        self._names = (*of_pixels, *of_heads)
        # What heads find may have a truth where pixels have none.
        self._has_truth = np.repeat(
            [source.has_label, True], [len(of_pixels), len(of_heads)]
        )
        # Of what a head finds, an event counts only where there is something to find.
        self._sums, self._times = np.zeros((2, len(self._names)))
        self._num_events = self._num_counted = 0
        self._counts: list[np.ndarray] = []
        self._skipped: set[int] = set()

    def __enter__(self) -> "InferenceReports":
        """Opens the files and shows the bar of progress."""
        os.makedirs(self._config.output_dir, exist_ok=True)
        self._table = self._confusion = self._events = self._writer = None
        if self._processes.is_first:
            detector = self._source.detector
            self._table = self._open_table("inference_metrics.csv", self._names)
            self._confusion = self._open_table(
                "inference_confusion.csv", detector.confusion_names
            )
            if self._heads:
                columns = found_events.columns(self._heads, detector.num_planes)
                self._events = self._open_table(EVENT_TABLE, columns)
        if self._open_writer is not None:
            self._writer = self._stack.enter_context(self._open_writer)
        self._advance = self._stack.enter_context(
            progress.progress(
                "inference",
                0,
                self._num_minibatches,
                self._config.run.minibatch_size,
            )
        )
        self.timings = timings.StepTimings(self._num_minibatches)
        return self

    def __exit__(self, *exception) -> bool | None:
        """Closes the files."""
        return self._stack.__exit__(*exception)

    def report_minibatch(
        self,
        minibatch: HostMinibatch,
        entries: np.ndarray,
        results: dict[str, Any],
    ) -> None:
        """Waits for one minibatch's results and reports them.

        Args:
          minibatch: events of this process.
          entries: [B] int64 of all processes, -1 where there is no event.
          results: of the evaluation step.
        """
        jax.block_until_ready(results)
        values = np.where(self._has_truth, np.asarray(results["metrics"]), np.nan)
        found = {
            name: np.asarray(results[name])
            for name in head_steps.ALL_RESULTS
            if name in results
        }
        self._write_predictions(minibatch, results, found)
        counts = (entries != PADDING) & (np.asarray(results["counted"]) != 0)
        confusion = np.asarray(results["confusion"])
        self._write_rows(entries, counts, values, confusion, found)
        step = len(self.timings.done)
        images = int(counts.sum())
        wait_s, step_s = self.timings.end_step(step, images)
        self._advance(step + 1)
        if step % self._config.mode.logging_iteration == 0:
            shown = {}
            if counts.any():
                known = ~np.isnan(values[counts])
                mean = _divided(np.nansum(values[counts], 0), known.sum(0))
                shown = log.shown_metrics(self._with_truth(mean))
            rate = log.rate(images, wait_s, step_s)
            log.log_step("ana", step, shown, rate)

    def report_averages(self) -> dict[str, float]:
        """Writes the closing lines and the timings; returns the averaged metrics.

        Where the data have no labels, these are those of what heads have found.
        """
        config = self._config
        logger.info(
            "Inference report: %d batches processed for %d entries.",
            len(self.timings.done),
            self._num_events,
        )
        asked = (config.run.iterations or 0) * config.run.minibatch_size
        if asked > self._num_events:
            logger.info(
                "  Asked for %d entries, the data has no more: mode.wrap=True goes "
                "round again",
                asked,
            )
        there = self._source.num_events - config.mode.start_index
        if config.mode.wrap and self._num_events > there:
            logger.info(
                "  Some of them more than once: the data has %d (mode.wrap=True)", there
            )
        if self._processes.is_first:
            skipped_events.report(config, self._source, self._skipped)
        averages = self._log_averages()
        done = self.timings.done
        timings.save_rank_timings(config.output_dir, self._processes.index, done)
        if self._processes.is_first:
            timings.save_timings(config.output_dir, "inference", done)
        log.log_totals(done["step_s"], done["images"], done["start_up_s"].sum())
        return averages

    def _log_averages(self) -> dict[str, float]:
        """Logs scores and averages, as far as there is a truth; returns the latter."""
        has_label = self._source.has_label
        if not self._num_counted and (has_label or self._heads):
            logger.info("  No event that counts: no metrics")
            return {}
        averages = self._with_truth(_divided(self._sums, self._times))
        if has_label:
            logger.info("  %s", log.pixel_rules(self._config.mode))
            classes = self._source.detector.classes
            scores = class_scores.score_classes(np.stack(self._counts), classes)
            for line in class_scores.describe(scores):
                logger.info("  %s", line)
        else:
            of_pixels = " of pixels" if averages else ""
            logger.info("  No labels in the data: no metrics%s", of_pixels)
        for name, value in averages.items():
            logger.info("  %s: %.4f", name, value)
        return averages

    def _with_truth(self, means: np.ndarray) -> dict[str, float]:
        """Names means; without labels only those that some event has a truth for."""
        named = metrics.named(means, self._names)
        if self._source.has_label:
            return named
        return {name: mean for name, mean in named.items() if not np.isnan(mean)}

    def _open_table(
        self, name: str, values: tuple[str, ...]
    ) -> metrics_table.MetricsTable:
        path = os.path.join(self._config.output_dir, name)
        table = metrics_table.MetricsTable(path, (*EVENT_COLUMNS, *values))
        self._stack.callback(table.close)
        return table

    def _write_predictions(
        self,
        minibatch: HostMinibatch,
        results: dict[str, Any],
        found: dict[str, np.ndarray],
    ) -> None:
        """Writes those of this process's events, where they are asked for."""
        if self._writer is None:
            return
        arrays = {name: sharding.local(results[name]) for name in predictions.NEEDED}
        index, count = self._processes.index, self._processes.count
        for name, array in found.items():
            places = np.arange(len(array))
            arrays[name] = array[local_entries(places, index, count)]
        predictions.append_minibatch(
            self._writer, minibatch, arrays, self._source, self._products
        )

    def _write_rows(
        self,
        entries: np.ndarray,
        counts: np.ndarray,
        values: np.ndarray,
        confusion: np.ndarray,
        found: dict[str, np.ndarray],
    ) -> None:
        """Adds every event to the tables and, where it counts, to the sums."""
        has_label = self._source.has_label
        for place in np.flatnonzero(entries != PADDING).tolist():
            entry, row = int(entries[place]), values[place]
            event_id = self._source.event_id(entry).tolist()
            event = [entry, *event_id, predictions.in_utf8(self._source.file_of(entry))]
            if self._table is not None:
                shown = row if counts[place] else np.full(row.shape, np.nan)
                self._table.write([*event, *shown.tolist()])
            if self._confusion is not None and has_label:
                pixels = confusion[place].ravel() * int(counts[place])
                self._confusion.write([*event, *pixels.tolist()])
            if self._events is not None:
                counted = bool(counts[place])
                of_heads = found_events.table_row(found, place, counted)
                self._events.write([*event, *of_heads])
            self._num_events += 1
            if counts[place]:
                self._sums += np.nan_to_num(row)
                self._times += ~np.isnan(row)
                self._num_counted += 1
                # Of all planes together, as the scores of classes are.
                self._counts.append(confusion[place].sum(0, keepdims=True))
            else:
                self._skipped.add(entry)


def _divided(sums: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Divides sums by how many they are of, to not a number where it is none."""
    return np.where(times > 0, sums / np.maximum(times, 1), np.nan)
