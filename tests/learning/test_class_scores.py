"""Efficiency, purity and false pixels of classes, worked by hand."""

import numpy as np
import pytest

from ctjax.learning import class_scores

CLASSES = ("background", "cosmic", "neutrino")


@pytest.fixture
def counts():
    """Two planes of four events: with, without and with neutrino, and a skipped one."""
    counts = np.zeros((4, 2, 3, 3), int)
    counts[0, 0] = [[90, 0, 1], [0, 5, 0], [1, 1, 2]]
    counts[0, 1] = [[90, 0, 0], [0, 5, 1], [0, 0, 4]]
    counts[1, 0] = [[80, 0, 7], [0, 10, 3], [0, 0, 0]]
    counts[1, 1] = [[99, 0, 0], [0, 1, 0], [0, 0, 0]]
    counts[2, 0] = [[98, 0, 0], [0, 0, 0], [2, 0, 0]]
    return counts


def test_events_with_and_without_a_class_are_apart(counts):
    _, cosmic, neutrino = class_scores.score_classes(counts, CLASSES)
    # 6 of 8 true pixels are found in the first event, none of 2 in the third; of 8
    # predicted ones 6 are true in the first, and the third has none.
    assert neutrino.efficiency.value == pytest.approx((6 / 8 + 0) / 2)
    assert neutrino.efficiency.events == 2
    assert neutrino.purity[::2] == (6 / 8, 1) and np.isnan(neutrino.purity.error)
    assert neutrino.iou.value == pytest.approx((6 / 10 + 0) / 2)
    assert neutrino.false_pixels[::2] == (10, 1)
    assert cosmic.efficiency.value == pytest.approx((10 / 11 + 11 / 14) / 2)
    assert cosmic.false_pixels[::2] == (0, 1)


def test_an_absent_class_has_no_mean(counts):
    _, _, neutrino = class_scores.score_classes(counts[1:2], CLASSES)
    assert str(neutrino.efficiency) == "none" and neutrino.efficiency.events == 0
    lines = class_scores.describe(class_scores.score_classes(counts[1:2], CLASSES))
    assert lines[2:] == [
        "neutrino: efficiency none, purity none, IoU none (0 events with it); "
        "false pixels 10.0 in an event without (1 event)",
        "neutrino, event by event: area under the ROC none (no event has it)",
    ]
    lines = class_scores.describe(class_scores.score_classes(counts[:1], CLASSES))
    assert lines[2].endswith("IoU 0.600 (1 event with it)")
    assert lines[3].endswith("area under the ROC none (every event has it)")
    assert class_scores.score_classes(counts[:0], CLASSES)[1].iou.events == 0


def test_errors_are_those_of_means_and_always_the_same():
    values = np.random.default_rng(1).normal(5.0, 2.0, (400, 1))
    (mean,) = class_scores.average(values)
    assert mean.error == pytest.approx(values.std() / 20, rel=0.1)
    assert class_scores.average(values) == [mean]
    gaps = np.concatenate([values, np.full((400, 1), np.nan)])
    (same,) = class_scores.average(gaps)
    assert same.value == pytest.approx(mean.value) and same.events == 400
    assert same.error == pytest.approx(mean.error, rel=0.15)


def test_events_are_told_by_the_predicted_pixels_of_all_planes(counts):
    _, cosmic, neutrino = class_scores.score_classes(counts, CLASSES)
    # 8 and 0 predicted pixels with a neutrino, 10 without: no event is in order.
    scores = neutrino.by_event
    assert scores.with_class.tolist() == [0, 8] and scores.without.tolist() == [10]
    assert scores.area.value == 0 and np.isnan(scores.area.error)
    assert (scores.threshold, scores.efficiency.value, scores.passed) == (11, 0, 0)
    # The skipped event has no class and is none without it: 11, 14 with, 0 without.
    assert cosmic.by_event.area[::2] == (1, 3)
    assert cosmic.by_event.threshold == 1 and cosmic.by_event.efficiency.value == 1


def test_equal_scores_count_half_and_the_curve_has_the_same_area():
    pixels = np.array([3.0, 3, 7, 0, 3, 1])
    there = np.array([1, 1, 1, 0, 0, 1], bool)
    scores = class_scores.score_events(pixels, there)
    # Of the 8 pairs 0 is below all of 4 others; 3 is below 7, and equals two.
    assert scores.area.value == (4 + 1 + 2 / 2) / 8
    passed, found = scores.roc()
    assert passed.tolist() == [0, 0, 0.5, 0.5, 1]
    assert found.tolist() == [0, 0.25, 0.75, 1, 1]
    assert ((found[1:] + found[:-1]) / 2 * np.diff(passed)).sum() == scores.area.value
    # Of two events none may pass, which 4 pixels see to; one of four has as many.
    assert (scores.threshold, scores.passed) == (4, 0)
    assert scores.efficiency[::2] == (0.25, 4)


def test_the_threshold_is_the_smallest_that_a_tenth_of_the_others_reaches():
    pixels = np.concatenate([np.arange(20.0), [18, 19, 40]])
    there = np.arange(23) >= 20
    scores = class_scores.score_events(pixels, there)
    assert (scores.threshold, scores.passed) == (18, 0.1)
    assert scores.efficiency.value == 1
    line = class_scores._describe_events(scores)
    assert "18 predicted pixels or more in 1.000 ±" in line
    assert line.endswith("of the events with it and in 2 of the 20 without")
    # One that all scores share lets none pass, and finds none.
    scores = class_scores.score_events(np.full(23, 5.0), there)
    assert (scores.threshold, scores.efficiency.value) == (6, 0)
    assert (scores.area.value, scores.area.error) == (0.5, 0)


def test_the_error_of_the_area_is_its_spread_over_other_events():
    random = np.random.default_rng(3)
    there = np.arange(300) < 200
    areas, errors = [], []
    for _ in range(40):
        pixels = random.poisson(np.where(there, 12.0, 9.0)).astype(float)
        area = class_scores.score_events(pixels, there).area
        areas.append(area.value)
        errors.append(area.error)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.35)
