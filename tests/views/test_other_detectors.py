"""Pictures of other planes and classes than CosmicTagger's."""

import dataclasses

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector
from ctjax.base.errors import UserError
from ctjax.commands import data_fields
from ctjax.data.minibatch import HostMinibatch
from ctjax.views import evaluated_event, legends, picture
from ctjax.views import event as views_event
from ctjax.views.event import EventView, PlanePixels
from ctjax.views.predicted import EventViewError
from tests.support import detector_files

pytest.importorskip("matplotlib.figure", reason="extra [display] is not installed")

COLOURS = ("#C9CCD1", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
FIVE = Detector(
    2,
    ("background", "track", "shower", "delta", "michel"),
    COLOURS,
    ((6, 9), (4, 12)),
    has_ignored=True,
)


def plane(*rows):
    """Pixels (row, column, charge, truth, prediction)."""
    types = (np.int32, np.int32, np.float32, np.uint8, np.uint8)
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    return PlanePixels(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


VIEW = EventView(
    planes=(
        plane((5, 8, 9.0, 4, 4), (0, 0, 5.0, 1, 3), (1, 1, 5.0, IGNORED, 2)),
        plane((3, 11, 7.0, 4, 0), (2, 2, 3.0, 0, 1)),
    ),
    image_shape=(8, 16),
    pixel_size=2,
    has_truth=True,
    has_prediction=True,
    title="by hand",
    metrics=dict.fromkeys(FIVE.metric_names, 0.5),
    detector=FIVE,
)


@pytest.fixture(scope="module")
def figure():
    return picture.draw(VIEW)


def test_each_plane_is_drawn_in_its_own_size(figure):
    panels = {panel.get_title("left"): panel for panel in figure.axes}
    assert {f"plane {p}: charge" for p in range(2)} <= set(panels)
    assert "plane 2: charge" not in panels
    for number, (rows, columns) in enumerate(FIVE.plane_shapes):
        panel = panels[f"plane {number}: charge"]
        assert panel.get_xlim() == (0, 2 * columns)
        assert panel.get_ylim() == (0, 2 * rows)


def test_classes_and_errors_of_others_have_their_names_and_colours(figure):
    shown = {
        text.get_text(): patch.get_facecolor()
        for legend in figure.legends
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    colors = pytest.importorskip("matplotlib.colors")
    for name, colour in (
        *zip(FIVE.classes, COLOURS, strict=True),
        ("ignored", legends.IGNORED_COLOUR),
        ("taken for background", legends.ERROR_COLOURS[3]),
    ):
        assert colors.to_hex(shown[name]).upper() == colour
    panels = {panel.get_title("left"): panel for panel in figure.axes}
    truth = panels["plane 0: truth"].images[0].get_array()
    assert (truth[5, 8], truth[0, 0], truth[1, 1]) == (4, 1, 5)
    errors = panels["plane 0: errors"].images[0].get_array()
    # The last class right, taken for another class, ignored.
    assert (errors[5, 8], errors[0, 0], errors[1, 1]) == (2, 5, legends.IGNORED_KIND)
    errors = panels["plane 1: errors"].images[0].get_array()
    assert (errors[3, 11], errors[2, 2]) == (3, 4)
    assert "Michel IoU 0.500" in figure.get_suptitle()


def test_kinds_of_error_of_two_classes():
    two = dataclasses.replace(COSMIC_TAGGER, classes=("background", "muon"))
    names = [name for name, _ in legends.error_legend(two)]
    assert names == [
        *("background, right", "muon, right"),
        *("taken for background", "background taken for a class"),
    ]
    assert legends.error_table(two)[:2].tolist() == [[0, 4], [3, 2]]


def test_legends_and_titles_of_many_classes_stay_within_the_picture():
    names = tuple(f"a_long_class_name_{number:02}" for number in range(16))
    many = Detector(1, names, COLOURS[:1] * 16, has_ignored=True)
    metrics = dict.fromkeys(many.metric_names, 0.5)
    view = VIEW._replace(planes=VIEW.planes[:1], metrics=metrics, detector=many)
    figure = picture.draw(view)
    figure.draw_without_rendering()
    lowest = min(panel.get_window_extent().y0 for panel in figure.axes)
    boxes = [legend.get_window_extent() for legend in figure.legends]
    assert len(boxes) == 2 and not boxes[0].overlaps(boxes[1])
    for box in boxes:
        assert 0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 and box.y1 < lowest
    title = figure._suptitle.get_window_extent()
    assert title.x1 <= figure.bbox.x1
    assert title.y0 > max(panel.get_window_extent().y1 for panel in figure.axes)


@pytest.mark.parametrize("planes", [1, 4, 6])
def test_pictures_grow_with_the_planes(planes):
    detector = dataclasses.replace(COSMIC_TAGGER, num_planes=planes)
    view = VIEW._replace(
        planes=VIEW.planes[1:] * planes, metrics={}, detector=detector, has_truth=False
    )
    figure = picture.draw(view)
    titles = [panel.get_title("left") for panel in figure.axes]
    assert f"plane {planes - 1}: prediction" in titles
    per_plane = (figure.get_figheight() - 1.1 - 0.86) / planes
    assert per_plane == pytest.approx(5.08, abs=0.01)


def test_what_is_predicted_in_the_padding_is_not_shown():
    prediction = np.ones((1, 2, 8, 16), np.uint8)
    minibatch = HostMinibatch(
        entries=np.zeros(1, np.int64),
        event_ids=np.zeros((1, 3), np.int64),
        mask=np.ones(1, np.float32),
        image=np.zeros((1, 2, 8, 16), np.float32),
    )
    values = np.arange(float(len(FIVE.metric_names)))[None]
    results = {"prediction": prediction, "label": 0 * prediction, "metrics": values}
    view = evaluated_event.view_of_minibatch(minibatch, results, 0, (8, 16), 0, FIVE)
    assert [len(pixels.rows) for pixels in view.planes] == [6 * 9, 4 * 12]
    assert view.planes[1].rows.max() == 3 and view.planes[1].columns.max() == 11
    assert view.metrics["plane1/Michel_IoU"] == len(FIVE.metric_names) - 3


@pytest.fixture
def file(tmp_path):
    """Two planes of other sizes, products and labels."""
    event = detector_files.make_event(
        np.random.default_rng(0), FIVE.plane_shapes, labels=(0, 7, 9)
    )
    path = tmp_path / "others.h5"
    names = {"image": "wire", "label": "seg"}
    return detector_files.write(path, [event], FIVE.plane_shapes, **names), event


def test_fields_say_how_a_file_is_shown(file):
    path, event = file
    fields = data_fields.read(
        [
            *("data.image_product=wire", "data.label_product=seg", "data.planes=1,0"),
            *("data.classes=none,dot:#009E73", "data.label_map=0:none,7:dot,9:ignore"),
            "data.charge_scale=0.5",
        ]
    )
    view = views_event.read_view(path, "", 0, fields)
    assert view.plane_shapes == FIVE.plane_shapes[::-1]
    assert view.detector.classes == ("none", "dot")
    assert view.detector.colours[1] == "#009E73"
    for pixels, (height, _), stored in zip(
        view.planes, view.plane_shapes, event[::-1], strict=True
    ):
        ids, charges, labels = stored
        np.testing.assert_array_equal(pixels.columns * height + pixels.rows, ids)
        np.testing.assert_array_equal(pixels.charge, charges / 2)
        expected = [{0: 0, 7: 1, 9: IGNORED}[label] for label in labels]
        np.testing.assert_array_equal(pixels.truth, expected)


@pytest.mark.parametrize(
    "word, message",
    [
        ("data.downsample=1", "data.downsample: expected one of data.image_product"),
        ("data.classes=a", "data.classes=a: expected 2 to 16"),
        ("data.charge_scale=x", "data.charge_scale: expected float"),
    ],
)
def test_other_fields_are_refused(file, word, message):
    with pytest.raises(UserError, match=message):
        views_event.read_view(file[0], "", 0, data_fields.read([word]))


def test_other_predictions_are_refused(file, tmp_path):
    path, _ = file
    fields = {"image_product": "wire", "label_product": "seg"}
    fields["label_map"] = "0:0,7:1,9:2"
    with pytest.raises(EventViewError, match=r"expected a predictions\.h5 of ctjax"):
        views_event.read_view(path, path, 0, fields)


def test_events_beside_bad_ones_are_shown(tmp_path):
    random = np.random.default_rng(0)
    events = [detector_files.make_event(random, FIVE.plane_shapes) for _ in range(3)]
    events[1] += events[0]
    path = detector_files.write(tmp_path / "bad.h5", events, FIVE.plane_shapes)
    view = views_event.read_view(path, "", 2)
    assert [len(p.rows) for p in view.planes] == [len(ids) for ids, _, _ in events[2]]
    with pytest.raises(EventViewError, match=r"bad\.h5, entry 1, product sbndwire"):
        views_event.read_view(path, "", 1)
    events = [events[1]]
    path = detector_files.write(tmp_path / "worse.h5", events, FIVE.plane_shapes)
    with pytest.raises(UserError, match=r"worse\.h5, entry 0, product") as caught:
        views_event.read_view(path, "", 0)
    assert "no event of the file" not in str(caught.value)
