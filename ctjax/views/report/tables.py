"""Computes the tables of the report, plain values for page.html to lay out."""

import os
import re
from typing import Any

import numpy as np

from ctjax.config import fields
from ctjax.learning import class_scores
from ctjax.views import skipped
from ctjax.views.report import heads
from ctjax.views.report.records import Record, flatten

PLAIN_WORDS = {
    "mIoU": "mean IoU",
    "Non_Bkg_Accuracy": "non-background accuracy",
    "Total_Accuracy": "accuracy of all pixels",
}
"""What CosmicTagger's metrics are, by their names."""

DEFAULTS = fields.to_dict(fields.Config(network=fields.Network()))

LOGGED = (
    ("parameters", re.compile(r"Total number of trainable parameters .*: (\d+)$")),
    ("devices", re.compile(r"Devices: (.+)$")),
    ("command", re.compile(r"Launch arguments: (.+)$")),
)
"""What process.log says of a run, by name."""


def head(records: list[Record]) -> list[tuple[str, list[str]]]:
    """Says what was run: network, data, device, duration, command.

    Returns:
      A row for each: its name and its value in every run, empty where it is not known.
    """
    columns = [_head_of(record) for record in records]
    names = ("network", "parameters", "data", "devices", "duration", "command")
    rows = [(name, [column.get(name, "") for column in columns]) for name in names]
    return [(name, values) for name, values in rows if any(values)]


def _head_of(record: Record) -> dict[str, str]:
    """Returns the rows of `head` for a run."""
    found = {}
    for mode in record.launches:
        found["network"] = str(record.option(mode, "network", "name") or "")
        folder = str(record.option(mode, "data", "data_directory") or "")
        files = str(record.option(mode, "data", "file") or "")
        if record.option(mode, "data", "synthetic"):
            files = "synthetic events"
        elif folder and files:
            files = os.path.join(folder, files)
        found["data"] = "; ".join(
            filter(None, (found.get("data"), f"{files} ({mode})" if files else ""))
        )
    parts = [f"{row['mode']} {_duration(row['total_s'])}" for row in times([record])]
    found["duration"] = ", ".join(parts)
    for line in record.log:
        for name, pattern in LOGGED:
            if match := pattern.search(line):
                found[name] = match[1]
    if "command" in found:
        found["command"] = plain_command(found["command"])
    if found.get("parameters"):
        found["parameters"] = f"{int(found['parameters']):,}"
    return found


def plain_command(words: str) -> str:
    """Writes a command as it was typed, not as Python was given it."""
    program, *rest = words.split(" ", 1)
    return " ".join(["ctjax", *rest]) if program.endswith("__main__.py") else words


def plain_words(metric: str) -> str:
    """Says what a metric is, by its name."""
    return PLAIN_WORDS.get(metric, metric.replace("_", " "))


def _duration(seconds: float) -> str:
    """Writes a duration in the units that suit it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def configurations(records: list[Record]) -> list[dict[str, Any]]:
    """Lists every field of every launch, those that differ from their defaults first.

    Args:
      records: what the runs have left.

    Returns:
      At most one table: `heads` of the columns, and `rows` of dictionaries: `name`,
      `values`, `differs` between the launches, and `default`, None for a field that
      has it everywhere or for what is no field.
    """
    launches = [
        (f"{record.name}: {mode}" if len(records) > 1 else mode, launch)
        for record in records
        for mode, launch in record.launches.items()
    ]
    columns = []
    for _, launch in launches:
        flat = flatten(launch.get("config", {}))
        flat.update(flatten({k: v for k, v in launch.items() if k != "config"}))
        columns.append(flat)
    defaults = {name: str(value) for name, value in flatten(DEFAULTS).items()}
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [str(column.get(name, "")) for column in columns]
        default = defaults.get(name)
        rows.append(
            {
                "name": name,
                "values": values,
                "differs": len(set(values)) > 1,
                "default": None if {*values} <= {default, ""} else default,
            }
        )
    rows.sort(key=lambda row: row["default"] is None)
    return [{"heads": [head for head, _ in launches], "rows": rows}] if rows else []


def times(records: list[Record]) -> list[dict[str, Any]]:
    """Finds where the time of each run and mode went.

    Returns:
      A row for each: run, mode, steps, seconds in all and in three parts, and mean and
      median of the images per second after the first step (None if the minibatch size
      is not known).
    """
    rows = []
    for record in records:
        for mode, timings in record.timings.items():
            step_s, wait_s = timings["step_s"], timings["wait_s"]
            rest_s = float(step_s[1:].sum())
            images = record.images_per_step(mode)
            first, total = float(step_s[0]), float(step_s.sum())
            usual = float(np.median(step_s[1:])) if len(step_s) > 1 else first
            if "start_up_s" in (timings.dtype.names or ()):
                compile_s = float(timings["start_up_s"].sum())
                total += compile_s
            else:
                # By a version whose first step took longer because of compilation.
                compile_s = max(0.0, first - usual) if mode != "iotest" else 0.0
            wait = min(float(wait_s.sum()), total - compile_s)
            rate = median_rate = None
            if images is not None and rest_s:
                rate = float(images[1:].sum()) / rest_s
                median_rate = float(np.median(images[1:] / step_s[1:]))
            rows.append(
                {
                    "run": record.name,
                    "mode": mode,
                    "steps": len(step_s),
                    "total_s": total,
                    "parts": [
                        ("start (compilation)", compile_s),
                        ("waiting for events", wait),
                        ("computing and the rest", total - compile_s - wait),
                    ],
                    "median_s": usual,
                    "images_per_s": rate,
                    "median_images_per_s": median_rate,
                }
            )
    return rows


def plane_metrics(record: Record) -> list[tuple[str, list[tuple[float, float]]]]:
    """Computes mean and spread of every metric over the events.

    Returns:
      A row per metric: its name, then (mean, standard deviation) for the mean of the
      planes and for each plane. No rows without truth.
    """
    table = record.inference
    if table is None or np.isnan(table["Average/mIoU"]).all():
        return []
    counts = ~np.isnan(table["Average/mIoU"])
    groups = ["Average", *(f"plane{p}" for p in range(record.detector.num_planes))]
    rows = []
    for metric in record.detector.plane_metrics:
        columns = [table[f"{group}/{metric}"][counts] for group in groups]
        rows.append((metric, [(float(c.mean()), float(c.std())) for c in columns]))
    return rows


def scores(record: Record) -> list[class_scores.ClassScores]:
    """Scores each class but the background over the events; none without truth."""
    if record.confusion is None or not record.confusion.any():
        return []
    return class_scores.score_classes(record.confusion, record.detector.classes)[1:]


def percentages(*means: class_scores.Mean) -> list[str]:
    """Writes means and their errors as percentages."""
    return [
        f"{mean.written('{:.1f}', 100)} %" if mean.events else str(mean)
        for mean in means
    ]


def class_metrics(record: Record) -> list[dict[str, Any]]:
    """Counts pixels of each class; computes efficiency, purity and IoU.

    Returns:
      A row per class, over the pixels of all events and planes. No rows without truth.
    """
    if record.confusion is None:
        return []
    counts = record.confusion.sum((0, 1))
    rows = []
    for number, name in enumerate(record.detector.classes):
        right, true = counts[number, number], counts[number].sum()
        found = counts[:, number].sum()
        rows.append(
            {
                "name": name,
                "true": int(true),
                "found": int(found),
                "efficiency": _ratio(right, true),
                "purity": _ratio(right, found),
                "iou": _ratio(right, true + found - right),
            }
        )
    return rows


def confusion_matrices(record: Record) -> list[dict[str, Any]]:
    """Makes the confusion matrices of all planes together and of each plane.

    Returns:
      `name` and `rows`; a row is the name of the true class and (count, share of the
      true class) for each predicted class.
    """
    if record.confusion is None:
        return []
    by_plane = record.confusion.sum(0)
    named = [("all planes", by_plane.sum(0))]
    named += [(f"plane {plane}", counts) for plane, counts in enumerate(by_plane)]
    return [
        {
            "name": name,
            "rows": [
                (true, [(int(n), _ratio(n, row.sum()) or 0.0) for n in row])
                for true, row in zip(record.detector.classes, counts, strict=True)
            ],
        }
        for name, counts in named
    ]


def summary(records: list[Record]) -> list[tuple[str, list[str]]]:
    """Picks a few numbers for the top of the page.

    Returns:
      A row per number: its name and its value in every run, empty where there is none.
    """
    columns: list[dict[str, str]] = []
    for record in records:
        found = {}
        for each in scores(record)[-1:]:
            efficiency, purity = percentages(each.efficiency, each.purity)
            found[f"{each.name} efficiency"] = efficiency
            found[f"{each.name} purity"] = purity
            if each.by_event.is_known:
                name = f"{each.name} events, area under the ROC"
                found[name] = str(each.by_event.area)
            name = f"false {each.name} pixels in an event without"
            found[name] = each.false_pixels.written("{:.1f}")
        found.update(heads.summary(record))
        found.update(_best_validations(record))
        if record.train is not None:
            steps, losses = record.train["step"], record.train["loss"]
            found["training steps"] = f"{int(steps[-1]) + 1:,}"
            last = losses[-max(1, len(losses) // 20) :].mean()
            found["loss, last twentieth"] = f"{last:.4g}"
        if record.inference is not None:
            found["events inferred"] = f"{len(record.inference['entry']):,}"
            for metric in ("mIoU", record.detector.class_metrics[-1]):
                values = record.inference[f"Average/{metric}"]
                if not np.isnan(values).all():
                    mean = np.nanmean(values)
                    found[f"mean {metric.replace('_', ' ')}"] = f"{mean:.3f}"
        for part, rows in record.skipped.items():
            if rows:
                name = "validation" if part == skipped.VALIDATION else part
                found[f"events skipped, {name}"] = f"{len(rows):,}"
        for row in times([record]):
            if row["median_images_per_s"]:
                name = f"{row['mode']}, images/s (median)"
                found[name] = f"{row['median_images_per_s']:.3g}"
        columns.append(found)
    names = dict.fromkeys(name for found in columns for name in found)
    return [(name, [found.get(name, "") for found in columns]) for name in names]


def _best_validations(record: Record) -> dict[str, str]:
    """Returns the best mIoU and IoU of the last class, with their steps."""
    found = {}
    for metric in ("mIoU", record.detector.class_metrics[-1]):
        column = f"Average/{metric}"
        if record.validation is None or np.isnan(record.validation[column]).all():
            continue
        best = int(np.nanargmax(record.validation[column]))
        value, step = (record.validation[name][best] for name in (column, "step"))
        name = f"best validation {metric.replace('_', ' ')}"
        found[name] = f"{value:.3f} at step {int(step):,}"
    return found


def skipped_events(record: Record) -> dict[str, str]:
    """Says by mode or VALIDATION how many were skipped, and names the first."""
    return {
        part: f"{len(rows):,} {'event' if len(rows) == 1 else 'events'} "
        f"{'of validations ' * (part == skipped.VALIDATION)}skipped "
        f"(data.on_bad_event=skip): {skipped.describe(rows)}"
        for part, rows in record.skipped.items()
        if rows
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
