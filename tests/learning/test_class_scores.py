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
    (_, line) = class_scores.describe(class_scores.score_classes(counts[1:2], CLASSES))
    assert line == (
        "neutrino: efficiency none, purity none, IoU none (0 events with it); "
        "false pixels 10.0 in an event without (1 event)"
    )
    (_, line) = class_scores.describe(class_scores.score_classes(counts[:1], CLASSES))
    assert line.endswith("IoU 0.600 (1 event with it)")
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
