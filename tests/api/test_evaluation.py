"""Metrics and pictures of an event."""

import numpy as np
import pytest

import ctjax
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.base.errors import UserError
from tests.support import larcv_fixtures


def classes_of(*planes):
    return np.array(planes, np.uint8)


def test_metrics_by_hand():
    label = classes_of([[2, 2], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]])
    found = classes_of([[2, 0], [1, 0]], [[2, 0], [0, 0]], [[1, 1], [0, 0]])
    values = ctjax.metrics(found, label)
    assert set(values) == {
        name.removeprefix("Average/") for name in COSMIC_TAGGER.metric_names
    }
    assert values["plane0/Neutrino_IoU"] == 0.5
    assert values["plane1/Neutrino_IoU"] == 0
    assert values["Neutrino_IoU"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert values["Cosmic_IoU"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert values["Total_Accuracy"] == pytest.approx((3 / 4 + 3 / 4 + 2 / 4) / 3)
    # Of several events it is the mean.
    both = ctjax.metrics(np.stack([found, label]), np.stack([label, label]))
    assert both["plane0/Neutrino_IoU"] == 0.75
    assert ctjax.metrics(label.astype(int).tolist(), label)["mIoU"] == 1


@pytest.mark.parametrize(
    ("classes", "label", "words"),
    [
        (np.zeros((3, 4, 4), int), None, "label: found None"),
        (np.zeros((3, 4, 4)), np.zeros((3, 4, 4), int), "classes: expected integer"),
        (
            np.zeros((2, 4, 4), int),
            np.zeros((3, 4, 4), int),
            "label: expected the shape",
        ),
        (np.zeros((3, 4, 4), int), np.zeros((3, 4, 5), int), "label: expected the sh"),
        (np.zeros((3, 4, 4), int), np.full((3, 4, 4), 3), "label: expected classes 0"),
        (np.zeros((0, 3, 4, 4), int), np.zeros((0, 3, 4, 4), int), "got [0, 3, 4, 4]"),
    ],
)
def test_what_are_no_classes_is_refused(classes, label, words):
    with pytest.raises(UserError) as caught:
        ctjax.metrics(classes, label)
    assert words in str(caught.value)


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.h5"
    return ctjax.open(larcv_fixtures.write_larcv(path, larcv_fixtures.make_events(2)))


def test_a_picture_shows_itself(events):
    """Its title has the mean of the planes, the charges all panels, the truth two."""
    event = events[0]
    figure = ctjax.draw(event, event.label)
    assert figure._repr_png_().startswith(b"\x89PNG")
    words = " ".join(text.get_text() for text in figure.texts)
    title = figure.get_suptitle()
    assert "event 7/1/100" in title and "Neutrino IoU 1.000" in title, words
    charge_alone = ctjax.draw(event)
    assert len(charge_alone.axes) < len(figure.axes)
    assert "IoU" not in charge_alone.get_suptitle()


def test_a_predicted_vertex_is_drawn(events):
    """In cm, where the middle of the first pixel of each plane is."""
    event = events[0]
    sizes = [np.divide(m.image_sizes, m.number_of_voxels) for m in event.metas]
    middles = [m.origin + size / 2 for m, size in zip(event.metas, sizes, strict=True)]
    vertex = np.array([[row, column, 0.5] for column, row in middles])
    figure = ctjax.draw(event, event.label, vertex)
    lines = [line for panel in figure.axes[:2] for line in panel.lines]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in lines] == [
        (0.5, 0.5)
    ] * 2
    with pytest.raises(UserError, match=r"vertex: expected \[3, 3\] of a tagger"):
        ctjax.draw(event, None, vertex[:2])


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (np.zeros((3, 4, 4), int), "classes: expected [3, 16, 24], got [3, 4, 4]"),
        (np.zeros((3, 16, 24)), "classes: expected integer classes, got float64"),
        (np.full((3, 16, 24), 3), "classes: expected classes 0 to 2"),
    ],
)
def test_what_does_not_fit_is_not_drawn(events, classes, words):
    with pytest.raises(UserError) as caught:
        ctjax.draw(events[0], classes)
    assert words in str(caught.value)
    with pytest.raises(UserError, match=r"expected an event of ctjax\.open, got ndarr"):
        ctjax.draw(events[0].charge)
