"""Computes efficiency, purity and false pixels of each class from counted pixels.

Also how well the number of predicted pixels tells which events have a class.

Unlike the metrics of CosmicTagger, an event without a class counts in no mean of that
class, and every mean has an error. Nothing here needs jax.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 400
"""Times that the events are drawn again: the error itself is then known to 4 %."""

SEED = 2024

MOST_PASSED = 0.1
"""Share of the events without a class that a choice of events may let through.

A tenth is one of ten: the least that can be told of the few events without a neutrino
of a small file, and the opposite of the usual "at 90 % rejection".
"""


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


class EventScores(NamedTuple):
    """Says how well an event's predicted pixels tell whether it has a class.

    The score of an event is the number of pixels of all planes that are predicted to
    be of the class; an event has the class where it has a true pixel of it.

    Attributes:
      with_class: [M] float64, scores of the events that have it, ascending.
      without: [N] float64, those of the others, ascending.
      area: under the ROC; the chance that an event with the class has a larger score
        than one without, equal ones counting half. Not a number where there are no
        events of both kinds.
      threshold: smallest number of pixels that at most `MOST_PASSED` of the events
        without the class reach; 0 where there are no events of both kinds.
      efficiency: share of the events with the class that reach it; its error has the
        choice of the threshold in it.
      passed: share of the events without the class that reach it.
    """

    with_class: np.ndarray
    without: np.ndarray
    area: Mean
    threshold: int
    efficiency: Mean
    passed: float

    @property
    def is_known(self) -> bool:
        """Says whether there are events with and without the class."""
        return len(self.with_class) > 0 and len(self.without) > 0

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the points of the ROC, from no event to all.

        Returns:
          Shares of the events without and of those with the class that reach a
          threshold, each [T + 1] float64 of the T different scores, the largest
          threshold first. Both kinds of events must be there.
        """
        levels = np.unique(np.concatenate([self.without, self.with_class]))[::-1]
        passed, found = (
            np.append(0.0, (len(kind) - np.searchsorted(kind, levels)) / len(kind))
            for kind in (self.without, self.with_class)
        )
        return passed, found


class ClassScores(NamedTuple):
    """Holds what is known of a class over many events.

    The first three are means over events with true pixels of the class.

    Attributes:
      name: of the class.
      efficiency: found of the true pixels; dimensionless, as are the next two.
      purity: true of the predicted pixels, of the events where any is predicted.
      iou: intersection over union.
      false_pixels: pixels predicted to be of the class in an event that has none.
      by_event: how well they tell which events have the class.
    """

    name: str
    efficiency: Mean
    purity: Mean
    iou: Mean
    false_pixels: Mean
    by_event: EventScores


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
        ClassScores(
            name,
            *means[place::number],
            by_event=score_events(found[:, place], there[:, place]),
        )
        for place, name in enumerate(classes)
    ]


def score_events(pixels: np.ndarray, there: np.ndarray) -> EventScores:
    """Says how well a number of pixels tells which events have a class.

    Args:
      pixels: [N] float64, predicted to be of the class in each event.
      there: [N] bool, whether the event has the class.

    Returns:
      The scores; errors are of the same draws as those of `average`.
    """
    numbers = int(there.sum()), int((~there).sum())
    with_class, without = np.sort(pixels[there]), np.sort(pixels[~there])
    if not all(numbers):
        unknown = Mean(math.nan, math.nan, 0)
        return EventScores(with_class, without, unknown, 0, unknown, math.nan)
    levels, place = np.unique(pixels, return_inverse=True)

    def separate(times: np.ndarray) -> tuple[float, int, float]:
        """Returns area, the threshold's place among the levels, and efficiency."""
        right, wrong = (
            np.bincount(place, times * kind, len(levels)) for kind in (there, ~there)
        )
        if not right.sum() * wrong.sum():  # of events that were drawn again
            return math.nan, 0, math.nan
        below = np.cumsum(wrong) - wrong
        area = right @ (below + wrong / 2) / (right.sum() * wrong.sum())
        reached = np.append(wrong.sum() - below, 0.0)
        first = int(np.argmax(reached <= MOST_PASSED * wrong.sum()))
        return float(area), first, float(right[first:].sum() / right.sum())

    area, first, efficiency = separate(np.ones(len(pixels)))
    drawn = np.array([separate(times) for times in _draws(len(pixels))])
    # One event of a kind is in every draw that counts, and says nothing of others.
    errors = np.nanstd(drawn, 0) if min(numbers) > 1 else np.full(3, math.nan)
    threshold = int(levels[first - 1]) + 1
    return EventScores(
        with_class,
        without,
        Mean(area, float(errors[0]), sum(numbers)),
        threshold,
        Mean(efficiency, float(errors[2]), numbers[0]),
        float(np.mean(without >= threshold)),
    )


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
    drawn = np.array(
        [_ratio(times @ filled, times @ known) for times in _draws(len(values))]
    )
    errors = [
        float(np.nanstd(column)) if count > 1 else math.nan
        for column, count in zip(drawn.T, number, strict=True)
    ]
    return [
        Mean(float(mean), error, int(count))
        for mean, error, count in zip(means, errors, number, strict=True)
    ]


def _draws(number: int) -> Iterator[np.ndarray]:
    """Yields how often each of [N] events is drawn, always the same `RESAMPLES`."""
    random = np.random.default_rng(SEED)
    for _ in range(RESAMPLES):
        places = random.integers(0, max(1, number), number)
        yield np.bincount(places, minlength=number).astype(np.float64)


def describe(scores: Sequence[ClassScores]) -> list[str]:
    """Writes two lines for each class but the first, the background."""
    return [
        line
        for each in scores[1:]
        for line in (
            f"{each.name}: efficiency {each.efficiency}, purity {each.purity}, IoU "
            f"{each.iou} ({_events(each.efficiency.events)} with it)"
            f"{_describe_false(each)}",
            f"{each.name}, event by event: {_describe_events(each.by_event)}",
        )
    ]


def _describe_false(each: ClassScores) -> str:
    """Writes the false pixels of a class, where there are events without it."""
    mean = each.false_pixels
    if not mean.events:
        return ""
    words = f"; false pixels {mean.written('{:.1f}')} in an event without"
    return f"{words} ({_events(mean.events)})"


def _describe_events(scores: EventScores) -> str:
    """Writes how well events with a class are told from those without."""
    if not scores.is_known:
        number = "every" if len(scores.with_class) else "no"
        return f"area under the ROC none ({number} event has it)"
    reached = round(scores.passed * len(scores.without))
    pixels = f"{scores.threshold:,} predicted pixel{'s' * (scores.threshold != 1)}"
    return (
        f"area under the ROC {scores.area}; {pixels} or more in {scores.efficiency} "
        f"of the events with it and in {reached:,} of the {len(scores.without):,} "
        "without"
    )


def _events(number: int) -> str:
    return f"{number:,} {'event' if number == 1 else 'events'}"


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides, to not a number where there is nothing to divide by."""
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), np.nan)
