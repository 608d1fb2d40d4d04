"""True and predicted vertices in pictures of events."""

import dataclasses

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.data.larcv.records import PlaneMeta
from ctjax.views import event as views_event
from ctjax.views import picture, vertex_marks
from ctjax.views.event import EventView, PlanePixels
from ctjax.views.event_table import Vertices, read_found_events
from tests.support import head_tables
from tests.support import other_predictions as other

pytest.importorskip("matplotlib.figure", reason="extra [display] is not installed")

NAN = np.nan


def plane(*rows):
    """Pixels (row, column, charge, truth, prediction)."""
    types = (np.int32, np.int32, np.float32, np.uint8, np.uint8)
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    return PlanePixels(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


VIEW = EventView(
    planes=(
        plane((5, 8, 9.0, 2, 2), (0, 0, 5.0, 1, 2)),
        plane((3, 11, 7.0, 2, 0), (2, 2, 3.0, 0, 1)),
    ),
    image_shape=(8, 16),
    pixel_size=2,
    has_truth=True,
    has_prediction=True,
    title="by hand",
    metrics={},
    detector=dataclasses.replace(COSMIC_TAGGER, num_planes=2),
)
MARKED = VIEW._replace(
    vertices=Vertices(
        true=np.array([[1.5, 2.0], [NAN, NAN]]),
        predicted=np.array([[3.0, 4.5], [1.0, 6.0]]),
        scores=np.array([0.5, 0.25]),
        distances_cm=np.array([7.25, NAN]),
    )
)


def marks_of(panel):
    """Wire, tick and shape of what is marked in a panel."""
    return [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_marker())
        for line in panel.lines
    ]


def test_centimetres_become_rows_and_columns():
    """Of a plane of 16 wires of 0.5 cm and 8 ticks of 2 cm."""
    metas = [PlaneMeta((16, 8), (8.0, 16.0), (-4.0, 2.0))]
    at = np.array([[2.0 + 3 * 2, -4.0 + 5 * 0.5]])
    moved = at + np.array([2.0, 0.25])
    found = Vertices(at, moved, np.ones(1), np.ones(1)).in_pixels(metas)
    np.testing.assert_allclose(found.true, [[3, 5]])
    np.testing.assert_allclose(found.predicted, [[4, 5.5]])


def test_vertices_are_marked_where_they_are():
    """A ring and a cross, each on white, at wire and tick; charges stay as they are."""
    figure = picture.draw(MARKED)
    # The pixels are two wires and two ticks large.
    ring, cross = (4.0, 3.0, "o"), (9.0, 6.0, "x")
    for layer, expected in (
        ("charge", []),
        *((name, [ring] * 2 + [cross] * 2) for name in ("truth", "prediction")),
        ("errors", [ring] * 2 + [cross] * 2),
    ):
        (at,) = (
            number
            for number, panel in enumerate(figure.axes)
            if panel.get_title("left") == f"plane 0: {layer}"
        )
        assert marks_of(figure.axes[at]) == expected
        # The box below shows them, too.
        assert marks_of(figure.axes[at + 4]) == expected
    panels = {panel.get_title("left"): panel for panel in figure.axes}
    assert marks_of(panels["plane 1: truth"]) == [(12.0, 2.0, "x")] * 2
    words = [panels[f"plane {p}: prediction"].get_title("right") for p in range(2)]
    assert words == ["vertex 7.2 cm off, score 0.50", "vertex score 0.25"]


def test_a_vertex_beyond_the_plane_moves_no_edge():
    far = MARKED.vertices._replace(predicted=np.full((2, 2), 300.0))
    edges = [
        [(panel.get_xlim(), panel.get_ylim()) for panel in picture.draw(view).axes]
        for view in (VIEW, MARKED._replace(vertices=far))
    ]
    assert edges[0] == edges[1]


def test_the_legend_names_what_is_marked():
    def names(view):
        texts = [legend.get_texts() for legend in picture.draw(view).legends]
        return {text.get_text() for each in texts for text in each}

    assert names(MARKED) - names(VIEW) == {*vertex_marks.MARKS}
    unknown = MARKED.vertices._replace(true=np.full((2, 2), NAN))
    assert vertex_marks.TRUE_VERTEX not in names(MARKED._replace(vertices=unknown))


def test_charges_alone_are_marked():
    alone = MARKED._replace(has_truth=False, has_prediction=False)
    panels = {p.get_title("left"): p for p in picture.draw(alone).axes}
    assert len(marks_of(panels["plane 0: charge"])) == 4


@pytest.fixture
def inferred(tmp_path):
    """Predictions of two events, which hold their charges and are their own input."""
    source = other.source_of()
    results = other.made_results(np.random.default_rng(0), 2)
    path = tmp_path / "predictions.h5"
    other.write(path, results, [1, 1], source, other.ATTRIBUTES)
    true = [[[2.0, 1.5], [NAN, NAN]], [[1.5, 0.5], [2.5, 2.0]]]
    head_tables.write(
        tmp_path,
        {
            "event_score": np.float32([[0.1, 0.7, 0.1, 0.1], [0, 0, 0, 1]]),
            "event_label": np.int32([1, 2]),
            **head_tables.made_vertices(true, (0.5, 1.0)),
        },
    )
    return path


def read_view(path, entry):
    as_written = {"label_map": "0:0,1:1,2:2,255:ignore"}
    return views_event.read_view(str(path), str(path), entry, as_written)


def test_a_view_has_what_stands_beside_its_predictions(inferred):
    view = read_view(inferred, 1)
    assert "predicted: no neutrino" in view.title
    # Half a centimetre a pixel; plane 1 begins at wire 1 cm, both at tick 1 cm.
    np.testing.assert_allclose(view.vertices.true, [[1, 1], [3, 2]])
    np.testing.assert_allclose(view.vertices.predicted, [[2, 3], [4, 4]])
    assert view.vertices.words(0) == "vertex 1.1 cm off, score 0.75"


def test_the_page_reads_the_same(inferred):
    found = read_found_events(str(inferred.parent))
    view = views_event.read_predicted_view(
        str(inferred), 0, 1, "", found.vertices_of(0)
    )
    np.testing.assert_allclose(view.vertices.true, [[2, 3], [NAN, NAN]])
    assert view.vertices.words(1) == "vertex score 0.75"


def test_a_table_of_other_events_is_not_drawn(inferred):
    table = inferred.parent / "inference_events.csv"
    head, _, second = table.read_text().splitlines()
    table.write_text(f"{head}\n{second}\n")
    assert read_view(inferred, 0).vertices is None
