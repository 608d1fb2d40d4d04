"""Computes the tables of the report, plain values for page.html to lay out."""

from typing import Any

import numpy as np

from ctjax.views import skipped
from ctjax.views.report.records import Record, flatten


def configurations(records: list[Record]) -> list[dict[str, Any]]:
    """Lists every field of every launch, and whether launches differ in it.

    Args:
      records: what the runs have left.

    Returns:
      At most one table: `heads` of the columns, and `rows` of (name, values,
      is_different).
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
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = []
    for name in names:
        values = [str(column.get(name, "")) for column in columns]
        rows.append((name, values, len(set(values)) > 1))
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
        for mode, rows in record.skipped.items():
            if rows:
                found[f"events skipped, {mode}"] = f"{len(rows):,}"
        for row in times([record]):
            if row["images_per_s"]:
                name = f"{row['mode']}, images/s after the first step"
                found[name] = f"{row['images_per_s']:.3g}"
        columns.append(found)
    names = dict.fromkeys(name for found in columns for name in found)
    return [(name, [found.get(name, "") for found in columns]) for name in names]


def skipped_events(record: Record) -> dict[str, str]:
    """Says by mode how many events were skipped, and names the first."""
    return {
        mode: f"{len(rows):,} {'event' if len(rows) == 1 else 'events'} skipped "
        f"(data.on_bad_event=skip): {skipped.describe(rows)}"
        for mode, rows in record.skipped.items()
        if rows
    }


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
