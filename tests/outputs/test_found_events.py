"""What heads have found in events: the table, the products, the order of it all."""

import contextlib
import csv
import logging
import types

import h5py
import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config.fields import Config, Data, Mode, Network
from ctjax.config.heads import (
    ActiveHeads,
    Classification,
    Vertex,
    active_heads,
    metric_names,
)
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.truth import read_neutrinos
from ctjax.learning import head_steps
from ctjax.outputs import older_results, prediction_parts, predictions
from ctjax.outputs.inference_reports import InferenceReports
from ctjax.processes.join import Processes
from ctjax.views import event_table
from tests.support import other_predictions as other

OF_EVENT, OF_VERTEX = Classification(active=True), Vertex(active=True)
NONE = Network()
EVENT, VERTEX = Network(classification=OF_EVENT), Network(vertex=OF_VERTEX)
BOTH = Network(classification=OF_EVENT, vertex=OF_VERTEX)
NAN = np.nan

SCORES = np.array(
    [[0.1, 0.7, 0.1, 0.1], [0.4, 0.2, 0.3, 0.1], [0, 0, 1, 0], [0, 0, 0, 1]], "f4"
)
LABELS = np.array([1, 2, -1, 3], np.int32)


def made_vertices(number, planes=3):
    """Predicted vertices 3 cm and 4 cm from the true ones; the last has none."""
    true = np.arange(number * planes * 2, dtype="f4").reshape(number, planes, 2)
    predicted = np.concatenate(
        [true + np.float32([3, 4]), np.full((number, planes, 1), 0.5, "f4")], -1
    )
    true[-1] = NAN
    return {"vertex": predicted, "vertex_label": true}


FOUND = {"event_score": SCORES, "event_label": LABELS, **made_vertices(4)}


def source_of(number):
    metas = [PlaneMeta((16, 8), (8.0, 16.0), (-4.0, 2.0))] * 3
    return types.SimpleNamespace(
        detector=COSMIC_TAGGER,
        image_shape=(8, 16),
        num_events=number,
        has_label=True,
        event_id=lambda entry: np.array([7, 8, entry]),
        file_of=lambda entry: "a.h5",
        plane_metas=lambda entry: metas,
        bad_events={},
    )


def reports(folder, source, network, index=0, count=1, writer=None):
    """Reports of an inference by a network."""
    config = Config(output_dir=str(folder), network=network, mode=Mode())
    processes = Processes(index, count)
    return InferenceReports(config, source, 1, processes, writer)


def results_of(number, found):
    heads = ActiveHeads(
        OF_EVENT if "event_score" in found else None,
        OF_VERTEX if "vertex" in found else None,
    )
    names = (*COSMIC_TAGGER.metric_names, *metric_names(heads, 3))
    metrics = np.zeros((number, len(names)), np.float32)
    confusion = np.zeros((number, 3, 3, 3), np.int32)
    return {"metrics": metrics, "confusion": confusion, **found}


def read_rows(folder):
    with open(folder / event_table.EVENT_TABLE, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_classes_and_vertices(tmp_path):
    """The third of four events has no known class and the second was skipped."""
    results = results_of(5, {k: v[[0, 1, 2, 3, 3]] for k, v in FOUND.items()})
    results["counted"] = np.array([1, 0, 1, 1, 0], np.float32)
    entries = np.array([3, 4, 5, 6, -1])
    with reports(tmp_path, source_of(9), BOTH) as report:
        report.report_minibatch(None, entries, results)
    rows = read_rows(tmp_path)
    assert [row["entry"] for row in rows] == ["3", "4", "5", "6"]
    assert (rows[0]["run"], rows[0]["event"], rows[0]["file"]) == ("7", "3", "a.h5")
    assert [row["true_class"] for row in rows] == ["numu", "", "", "no_nu"]
    assert [row["predicted_class"] for row in rows] == ["numu", "", "nc", "no_nu"]
    assert float(rows[0]["score_numu"]) == pytest.approx(0.7)
    assert float(rows[0]["plane1/true_row_cm"]) == 2
    assert float(rows[0]["plane1/column_cm"]) == 3 + 4
    assert float(rows[0]["plane1/score"]) == 0.5
    assert float(rows[0]["plane1/distance_cm"]) == 5
    # Of an event without a vertex there is the predicted one alone.
    assert rows[3]["plane0/distance_cm"] == rows[3]["plane0/true_row_cm"] == "nan"
    assert float(rows[3]["plane0/row_cm"]) == 18 + 3
    numbers = set(rows[1]) - {*event_table.CLASS_COLUMNS[:2], "file"}
    known = {name for name in numbers if rows[1][name] != "nan"}
    assert known == {"entry", "run", "subrun", "event"}


def test_the_table_is_read_back(tmp_path):
    results = results_of(4, FOUND) | {"counted": np.array([1, 1, 0, 1], np.float32)}
    with reports(tmp_path, source_of(4), BOTH) as report:
        report.report_minibatch(None, np.arange(4), results)
    found = event_table.read_found_events(str(tmp_path))
    assert found.entries.tolist() == [0, 1, 2, 3]
    assert found.classes.tolist() == [[1, 1], [2, 0], [-1, -1], [3, 3]]
    true, predicted = FOUND["vertex_label"].copy(), FOUND["vertex"].copy()
    true[2] = predicted[2] = NAN
    np.testing.assert_array_equal(found.vertices.true, true)
    np.testing.assert_array_equal(found.vertices.predicted, predicted[..., :2])
    np.testing.assert_array_equal(found.vertices.scores, predicted[..., 2])


@pytest.mark.parametrize("network", [EVENT, VERTEX])
def test_one_head_alone_has_its_columns(tmp_path, network):
    names = head_steps.ALL_RESULTS[:2] if network is EVENT else ()
    names = names or head_steps.ALL_RESULTS[2:]
    results = results_of(4, {name: FOUND[name] for name in names})
    results["counted"] = np.ones(4, np.float32)
    with reports(tmp_path, source_of(4), network) as report:
        report.report_minibatch(None, np.arange(4), results)
    found = event_table.read_found_events(str(tmp_path))
    assert (found.classes is not None) == (network is EVENT)
    assert (found.vertices is not None) == (network is VERTEX)


def test_without_heads_there_is_no_table(tmp_path):
    results = results_of(1, {}) | {"counted": np.ones(1, np.float32)}
    with reports(tmp_path, source_of(1), NONE) as report:
        report.report_minibatch(None, np.arange(1), results)
    assert not (tmp_path / event_table.EVENT_TABLE).exists()
    assert event_table.read_found_events(str(tmp_path)) is None


def test_an_older_table_is_set_aside(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / event_table.EVENT_TABLE).write_text("entry\n")
    older_results.set_aside(str(tmp_path))
    assert not (tmp_path / event_table.EVENT_TABLE).exists()
    assert (tmp_path / "older_inferences/1" / event_table.EVENT_TABLE).exists()


@pytest.mark.parametrize(
    "text", ["entry,plane0/distance_cm\n0,1\n", "run\n1\n", "entry\nx\n"]
)
def test_another_table_is_named(tmp_path, text):
    (tmp_path / event_table.EVENT_TABLE).write_text(text)
    with pytest.raises(event_table.EventTableError, match=r"_events\.csv: exp"):
        event_table.read_found_events(str(tmp_path))


def write_predictions(path, shapes, results, mask):
    source = other.source_of(shapes)
    other.write(path, results, mask, source, heads=active_heads(BOTH))
    return predictions.name_products(
        other.DATA, source.detector, True, active_heads(BOTH)
    )


def made_predictions(planes):
    random = np.random.default_rng(0)
    results = other.made_results(random, 3, planes)
    return {**results, "event_score": SCORES[[0, 1, 2]], **made_vertices(3, planes)}


def test_predictions_say_class_and_vertex(tmp_path):
    path = tmp_path / "predictions.h5"
    write_predictions(path, other.SHAPES, made_predictions(2), [1, 0, 1])
    with h5py.File(path) as file:
        group = file["Data/particle_sbndneutrino_prediction_group"]
        rows = group["particles"][:]
        assert group["extents"]["N"].tolist() == [1, 1, 1]
        assert rows["pdg"].tolist() == [14, 0, 0]
        assert rows["current_type"].tolist() == [0, -1, 1]
        assert rows["process"].tolist() == [b"predicted", b"skipped", b"predicted"]
        group = file["Data/bbox2d_bbox_neutrino_prediction_group"]
        assert group["bbox_extents"]["N"].tolist() == [1, 1, 0, 0, 1, 1]
        boxes = group["bboxes"][:]
        metas = group["image_meta"][:]
    vertices = made_vertices(3, 2)["vertex"][[0, 2]].reshape(-1, 3)
    np.testing.assert_array_equal(boxes["centroid"], vertices[:, [1, 0]])
    # Three pixels of half a centimetre.
    np.testing.assert_array_equal(boxes["half_length"], np.full((4, 2), 0.75))
    assert metas["number_of_voxels"][:2].tolist() == [[9, 6], [12, 4]]


def test_particles_say_what_the_table_of_neutrinos_reads(tmp_path):
    path = tmp_path / "predictions.h5"
    write_predictions(path, other.SHAPES, made_predictions(2), [1, 1, 1])
    with h5py.File(path, "r+") as file:
        name = "Data/particle_sbndneutrino{}_group"
        file.move(name.format("_prediction"), name.format(""))
    found = read_neutrinos([str(path)])
    assert found["pdg"].tolist() == [14, 12, 0]
    assert found["current"].tolist()[:2] == [0, 0]


def test_parts_of_processes_are_joined_with_their_products(tmp_path):
    """The first process has the first two of three events of the minibatch."""
    whole, path = tmp_path / "whole.h5", str(tmp_path / "predictions.h5")
    results = made_predictions(2)
    products = write_predictions(whole, other.SHAPES, results, [1, 0, 1])
    parts = [prediction_parts.part_path(path, number) for number in range(2)]
    for part, (at, mask) in zip(parts, (([0, 1], [1, 0]), ([2], [1])), strict=True):
        some = {name: array[at] for name, array in results.items()}
        write_predictions(part, other.SHAPES, some, mask)
    prediction_parts.join(parts, [0, 0, 1], path, products)
    with h5py.File(path) as joined, h5py.File(whole) as expected:
        names = []
        expected.visit(names.append)
        for name in names:
            if not isinstance(expected[name], h5py.Dataset) or "event_id" in name:
                continue
            np.testing.assert_array_equal(joined[name][...], expected[name][...], name)
        assert "Data/bbox2d_bbox_neutrino_prediction_group/bboxes" in names


def test_each_process_writes_its_part_of_what_all_have(tmp_path, monkeypatch):
    """Heads' results are those of all events, in every process."""
    written = []
    monkeypatch.setattr(
        predictions,
        "append_minibatch",
        lambda writer, minibatch, arrays, source, products: written.append(arrays),
    )
    monkeypatch.setattr("ctjax.learning.sharding.local", np.asarray)
    results = results_of(4, FOUND) | {"counted": np.ones(4, np.float32)}
    results |= dict.fromkeys(predictions.NEEDED, np.zeros(2))
    options = {"index": 1, "count": 2, "writer": contextlib.nullcontext(object())}
    with reports(tmp_path, source_of(4), BOTH, **options) as report:
        report.report_minibatch(None, np.arange(4), results)
    np.testing.assert_array_equal(written[0]["event_score"], SCORES[2:])
    np.testing.assert_array_equal(written[0]["vertex"], FOUND["vertex"][2:])
    # The first process alone writes tables.
    assert not (tmp_path / event_table.EVENT_TABLE).exists()
    assert predictions.name_products(Data(), COSMIC_TAGGER, True).particles == ()
