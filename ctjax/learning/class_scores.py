"""Computes efficiency, purity and false pixels of each class from counted pixels.

Unlike the metrics of CosmicTagger, an event without a class counts in no mean of that
class, and every mean has an error. Nothing here needs jax.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 400
"""Times that the events are drawn again: the error itself is then known to 4 %."""

SEED = 2024


class Mean(NamedTuple):
    """Holds a mean over events.

    Attributes:
      value: not a number where no event counts.
      error: standard deviation of the mean when the events are drawn again, with
        replacement; not a number for fewer than two events.
      events: number of events that count.
    """

    value: float
    error: float
    events: int

    def __str__(self) -> str:
        """Writes the mean and its error, or "none" where no event counts."""
        return self.written("{:.3f}")

    def written(self, form: str, factor: float = 1.0) -> str:
        """Writes the mean and its error, each times a factor.

        Args:
          form: of a number, for `str.format`.
          factor: 100 for percentages.
        """
        if math.isnan(self.value):
            return "none"
        words = form.format(factor * self.value)
        if math.isnan(self.error):
            return words
        return f"{words} ± {form.format(factor * self.error)}"


class ClassScores(NamedTuple):
    """Holds what is known of a class over many events.

    The first three are means over events with true pixels of the class.

    Attributes:
      name: of the class.
      efficiency: found of the true pixels; dimensionless, as are the next two.
      purity: true of the predicted pixels, of the events where any is predicted.
      iou: intersection over union.
      false_pixels: pixels predicted to be of the class in an event that has none.
    """

    name: str
    efficiency: Mean
    purity: Mean
    iou: Mean
    false_pixels: Mean


def score_classes(counts: np.ndarray, classes: Sequence[str]) -> list[ClassScores]:
    """Scores every class; the pixels of an event's planes are counted together.

    Args:
      counts: [N, P, K, K] pixels of each event and plane, the true class first. An
        event without any pixel was skipped and counts nowhere.
      classes: names of the K classes.

    Returns:
      K of them, in the order of the classes.
    """
    events = np.asarray(counts, np.float64).sum(1)
    events = events[events.sum((1, 2)) > 0]
    right = np.diagonal(events, axis1=1, axis2=2)
    true, found = events.sum(2), events.sum(1)
    there = true > 0
    columns = [
        _ratio(right, true),
        np.where(there, _ratio(right, found), np.nan),
        np.where(there, _ratio(right, true + found - right), np.nan),
        np.where(there, np.nan, found),
    ]
    means = average(np.concatenate(columns, 1))
    number = len(classes)
    return [
        ClassScores(name, *means[place::number]) for place, name in enumerate(classes)
    ]


def average(values: np.ndarray) -> list[Mean]:
    """Averages columns over the events that have a number there.

    Args:
      values: [N, M] float64, not a number where an event does not count.

    Returns:
      M means. All errors are of the same `RESAMPLES` draws, the same in every call.
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    number = known.sum(0)
    means = _ratio(filled.sum(0), number)
    random = np.random.default_rng(SEED)
    drawn = np.empty((RESAMPLES, values.shape[1]))
    for row in drawn:
        places = random.integers(0, max(1, len(values)), len(values))
        times = np.bincount(places, minlength=len(values)).astype(np.float64)
        row[:] = _ratio(times @ filled, times @ known)
    errors = [
        float(np.nanstd(column)) if count > 1 else math.nan
        for column, count in zip(drawn.T, number, strict=True)
    ]
    return [
        Mean(float(mean), error, int(count))
        for mean, error, count in zip(means, errors, number, strict=True)
    ]


def describe(scores: Sequence[ClassScores]) -> list[str]:
    """Writes a line for each class but the first, the background."""
    return [
        f"{each.name}: efficiency {each.efficiency}, purity {each.purity}, IoU "
        f"{each.iou} ({_events(each.efficiency.events)} with it){_describe_false(each)}"
        for each in scores[1:]
    ]


def _describe_false(each: ClassScores) -> str:
    """Writes the false pixels of a class, where there are events without it."""
    mean = each.false_pixels
    if not mean.events:
        return ""
    words = f"; false pixels {mean.written('{:.1f}')} in an event without"
    return f"{words} ({_events(mean.events)})"


def _events(number: int) -> str:
    return f"{number:,} {'event' if number == 1 else 'events'}"


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides, to not a number where there is nothing to divide by."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), np.nan)
