"""What the page says of classes of events and of vertices, against numbers by hand."""

import dataclasses

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.base.event_classes import EVENT_CLASS_WORDS
from ctjax.views import event_table
from ctjax.views.event_table import FoundEvents, Vertices
from ctjax.views.report import events, heads, page, records, tables
from tests.support import head_tables

NAN = np.nan
CLASSES = np.array([[1, 1], [1, 2], [3, 3], [-1, 0], [1, -1], [1, 1]])
DISTANCES = np.array([[1.0, 2.0], [3.0, NAN], [8.0, 4.0]])


WITHOUT = records.Record(
    *("made", "made", {}, None, None, None, None), timings={}, detector=COSMIC_TAGGER
)
"""A run whose network has no heads."""


def record_of(classes=None, distances=None, name="made"):
    vertices = None
    if distances is not None:
        places = np.zeros((*distances.shape, 2))
        vertices = Vertices(places, places, distances, distances)
    found = FoundEvents(np.arange(len(CLASSES)), classes, vertices)
    return dataclasses.replace(WITHOUT, found=found, name=name)


def test_classes_are_counted_where_both_are_known():
    found = heads.confusion(record_of(CLASSES))
    assert (found["right"], found["events"]) == (3, 4)
    counts = [[count for count, _ in cells] for _, _, cells in found["rows"]]
    assert counts == [[0, 0, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    words, events_of_class, cells = found["rows"][1]
    assert (words, events_of_class) == (EVENT_CLASS_WORDS[1], 3)
    assert [share for _, share in cells] == pytest.approx([0, 2 / 3, 1 / 3, 0])


def test_resolutions_of_all_planes_and_of_each():
    found = {
        name: rest for name, *rest in heads.resolutions(record_of(None, DISTANCES))
    }
    assert [number for number, _ in found.values()] == [5, 3, 2]
    # Of 1, 2, 3, 4, 8: the 68 % are at place 0.68 * 4 of the sorted ones.
    assert found["all planes"][1] == pytest.approx((3, 3.6, 3.72))
    assert found["plane 1"][1] == pytest.approx((3, 3, 2 + 0.68 * 2))


def test_histograms_hold_every_distance():
    figures = heads.residuals([record_of(None, DISTANCES)])
    assert sorted(figures) == ["residual_0", "residual_1"]
    for plane, figure in enumerate(figures.values()):
        columns = figure.renderers[0].data_source.data
        known = DISTANCES[~np.isnan(DISTANCES[:, plane]), plane]
        assert columns["top"].sum() == len(known)
        for distance in known:
            at = (columns["left"] <= distance) & (distance <= columns["right"])
            assert (columns["top"][at] > 0).any()


def test_a_vertex_that_is_hit_is_drawn():
    """Of a logarithmic axis zero is no place."""
    (figure,) = heads.residuals([record_of(None, np.zeros((2, 1)))]).values()
    assert figure.renderers[0].data_source.data["top"][0] == 2


def test_two_runs_share_the_histograms():
    pair = [
        record_of(None, DISTANCES, "a"),
        record_of(None, 20 * DISTANCES[:, :1], "b"),
    ]
    figures = heads.residuals(pair)
    names = [[i.label.value for i in f.legend[0].items] for f in figures.values()]
    assert names == [["a", "b"], ["a"]]
    edges = [r.data_source.data["right"][-1] for r in figures["residual_0"].renderers]
    assert edges == pytest.approx([160, 160])


def test_what_is_not_there_is_not_said():
    nothing = np.full((2, 3), NAN)
    for record in (WITHOUT, record_of(None, nothing), record_of(CLASSES[3:4])):
        assert heads.summary(record) == {} == heads.residuals([record])
    assert heads.tables_of(WITHOUT) is None
    assert heads.tables_of(record_of(None, nothing))["resolutions"] == []
    named = dict(tables.summary([record_of(CLASSES, DISTANCES)]))
    assert named["classes of events right"] == ["75.0 %"]
    assert named["vertex, median distance"] == ["3.00 cm"]


@pytest.fixture
def folder(tmp_path):
    """An inference of two events with heads."""
    return head_tables.write_run(tmp_path)


def test_the_page_has_a_section_only_with_heads(folder):
    page.write([str(folder)], str(folder / "report.html"))
    text = (folder / "report.html").read_text()
    assert '<section id="heads">' in text and 'id="vertices"' in text
    assert "1 of 2 events are right" in text and "68 % are within" in text
    assert text.count("from true to predicted vertex") == 2
    (folder / event_table.EVENT_TABLE).unlink()
    page.write([str(folder)], str(folder / "report.html"))
    text = (folder / "report.html").read_text()
    assert 'href="#heads"' not in text and 'id="vertices"' not in text
    assert '<section id="heads">' not in text
    assert "true vertex</span>" not in text


def test_packed_events_have_their_vertices(folder):
    record = records.read_record(str(folder))
    first, second = events.pack_events([record], 3)
    assert "predicted: no neutrino" in second["title"]
    # Rows and columns 1, 1 and 2, 3; each pixel is two wires and ticks.
    plane = second["planes"][0]
    assert plane["vertices"] == {"true vertex": (2, 2), "predicted vertex": (6, 4)}
    assert plane["vertex_words"] == "vertex 1.1 cm off, score 0.75"
    assert [*first["planes"][1]["vertices"]] == ["predicted vertex"]
    assert events.have_vertices([first, second])


def test_a_table_of_other_events_is_left_out(folder):
    table = folder / event_table.EVENT_TABLE
    table.write_text("\n".join(table.read_text().splitlines()[:2]))
    assert records.read_record(str(folder)).found is None
