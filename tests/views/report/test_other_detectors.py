"""The report of other planes and classes, and of events that were skipped."""

import csv
import json

import numpy as np
import pytest

from ctjax.base.detector import Detector
from ctjax.data.larcv.truth import NEUTRINO_TYPE
from ctjax.views import skipped
from ctjax.views.report import events as report_events
from ctjax.views.report import figures, page, records, tables

CLASSES = ("background", "track", "HIP", "michel")
FOUR = Detector(2, CLASSES, ("#C9CCD1", "#0072B2", "#D55E00", "#123456"))
TEXT = "background,track,HIP,michel:#123456"
SKIPPED = {1: "a.h5: entry 1: <found> nothing"}


def write(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_run(folder, detector=FOUR, *, skips=(), launch=None):
    """Writes the tables of an inference of four events, and of a training."""
    folder.mkdir(exist_ok=True)
    names, counts = detector.metric_names, detector.confusion_names
    values = [
        [entry, *(np.full(len(names), np.nan if entry in skips else entry / 10))]
        for entry in range(4)
    ]
    write(folder / "inference_metrics.csv", ["entry", *names], values)
    confusion = [
        [entry, *(np.arange(len(counts)) * (entry not in skips))] for entry in range(4)
    ]
    write(folder / "inference_confusion.csv", ["entry", *counts], confusion)
    steps = [[step, 1.0, *np.full(len(names), step / 10)] for step in range(3)]
    write(folder / "train_metrics.csv", ["step", "loss", *names], steps)
    write(folder / "val_metrics.csv", ["step", "loss", *names], steps)
    if launch is not None:
        for mode in ("train", "inference"):
            record = {"config": {"data": launch}}
            (folder / f"{mode}_config.json").write_text(json.dumps(record))
    if skips:
        rows = [[e, 7, 1, 100 + e, "a.h5", SKIPPED[e]] for e in skips]
        write(skipped.table_path(str(folder), "inference"), skipped.COLUMNS, rows)
    return records.read_record(str(folder))


@pytest.fixture
def record(tmp_path):
    launch = {"planes": "0,1", "classes": TEXT, "synthetic": True}
    return write_run(tmp_path / "four", launch=launch)


def test_the_detector_is_that_of_the_record(record):
    assert record.detector == FOUR
    assert record.confusion.shape == (4, 2, 4, 4)
    rows = dict(tables.plane_metrics(record))
    assert list(rows) == list(FOUR.plane_metrics)
    assert len(rows["HIP_IoU"]) == 1 + 2
    assert [row["name"] for row in tables.class_metrics(record)] == list(CLASSES)
    assert len(tables.confusion_matrices(record)) == 1 + 2
    summary = dict(tables.summary([record]))
    assert [each.name for each in tables.scores(record)] == list(CLASSES[1:])
    assert summary["best validation Michel IoU"] == ["0.200 at step 2"]
    assert "michel efficiency" in summary and "mean Michel IoU" in summary
    assert "events skipped, inference" not in summary


def test_the_head_says_what_was_run(tmp_path):
    launch = {"planes": "0,1", "classes": TEXT, "data_directory": "d", "file": "a.h5"}
    record = write_run(tmp_path / "four", launch=launch)
    lines = ["x - Total number of trainable parameters in this network: 1234567"]
    lines += ["x - Launch arguments: /p/ctjax/__main__.py train --config scc21"]
    lines += ["x - Devices: 1 (cpu) of 1 process"]
    (tmp_path / "four" / "process.log").write_text("\n".join(lines))
    assert dict(tables.head([record])) == {
        "parameters": ["1,234,567"],
        "data": ["d/a.h5 (train); d/a.h5 (inference)"],
        "devices": ["1 (cpu) of 1 process"],
        "command": ["ctjax train --config scc21"],
    }


def test_what_differs_from_its_default_comes_first(tmp_path):
    launch = {"downsample": 1, "planes": "0,1", "classes": TEXT, "synthetic": True}
    record = write_run(tmp_path / "four", launch=launch)
    (table,) = tables.configurations([record])
    changed = [row["name"] for row in table["rows"] if row["default"] is not None]
    assert changed == ["data.planes", "data.classes", "data.synthetic"]
    assert [row["name"] for row in table["rows"]][:3] == changed
    assert not any(row["differs"] for row in table["rows"])


def test_without_a_record_the_columns_say_it(tmp_path):
    record = write_run(tmp_path / "four")
    assert record.detector.classes == CLASSES and record.detector.num_planes == 2
    assert record.confusion is not None


def test_each_class_has_its_curve_and_its_metric_of_events(record):
    curves = figures.learning_curves([record])
    assert list(curves) == [
        *("curve_loss", "curve_mIoU", "curve_michel_IoU", "curve_HIP_IoU"),
        *("curve_track_IoU", "curve_non-background_accuracy"),
    ]
    assert figures.metrics_of_events(FOUR) == [
        *("Michel_IoU", "mIoU", "HIP_IoU", "Track_IoU", "Non_Bkg_Accuracy")
    ]
    shown = figures.event_metrics([record])["events_pixels"]
    assert shown.xaxis[0].axis_label == "true michel pixels, all planes"


def test_pictures_have_the_planes_and_their_ticks():
    shared = figures.planes(["#FFFFFF"], FOUR, True)
    assert list(shared) == ["plane0", "plane1"]
    assert shared["plane0"].y_range is shared["plane1"].y_range
    apart = figures.planes(["#FFFFFF"], FOUR, False)
    assert apart["plane0"].y_range is not apart["plane1"].y_range
    (truth,) = [r for r in apart["plane1"].renderers if r.name == "truth1"]
    assert list(truth.glyph.fill_color.transform.palette) == list(FOUR.colours)


def test_skipped_events_are_named_and_are_no_part_of_any_number(tmp_path):
    launch = {"planes": "0,1", "classes": TEXT, "synthetic": True}
    record = write_run(tmp_path / "four", skips=[1], launch=launch)
    assert [place for place, _ in report_events.pick(record, 2)] == [3, 2, 0]
    assert dict(tables.plane_metrics(record))["mIoU"][0][0] == pytest.approx(0.5 / 3)
    summary = dict(tables.summary([record]))
    assert summary["events skipped, inference"] == ["1"]
    assert summary["mean mIoU"] == [f"{0.5 / 3:.3f}"]
    source = figures.event_metrics([record])["events_pixels"].renderers[0].data_source
    assert source.data["entry"].tolist() == [0, 2, 3]
    page.write([record.folder], str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    assert "1 event skipped (data.on_bad_event=skip): entry 1: a.h5: entry 1: " in text
    assert "&lt;found&gt; nothing" in text
    rows = [[e, 7, 1, 100 + e, "b.h5", f"b.h5: entry {e}: bad"] for e in (4, 6)]
    folder = str(tmp_path / "four")
    write(skipped.table_path(folder, skipped.VALIDATION), skipped.COLUMNS, rows)
    record = records.read_record(folder)
    assert dict(tables.summary([record]))["events skipped, validation"] == ["2"]
    page.write([folder], str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    words = "2 events of validations skipped (data.on_bad_event=skip): entry 4: b.h5"
    assert words in text


def test_runs_of_several_detectors_are_side_by_side(record, tmp_path):
    three = write_run(tmp_path / "three", Detector())
    curves = figures.learning_curves([record, three])
    assert {"curve_michel_IoU", "curve_neutrino_IoU", "curve_mIoU"} <= set(curves)
    assert len(curves["curve_neutrino_IoU"].renderers) == 3  # of one run
    assert len(curves["curve_mIoU"].renderers) == 6
    page.write([record.folder, three.folder], str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    for name in ("Michel IoU", "Neutrino IoU", "<th>michel</th>", "<th>neutrino</th>"):
        assert name in text


def test_entries_of_one_event_have_its_neutrino(tmp_path, monkeypatch):
    launch = {"planes": "0,1/2,3", "classes": TEXT, "synthetic": False}
    launch |= {"data_directory": "", "file": "gone.h5"}
    record = write_run(tmp_path / "apart", launch=launch)
    two = np.zeros(2, NEUTRINO_TYPE)
    two["energy_gev"] = 1, 2
    monkeypatch.setattr(records.Record, "files", lambda self: ["gone.h5"])
    monkeypatch.setattr(records, "read_neutrinos", lambda paths: two)
    assert record.neutrinos["energy_gev"].tolist() == [1, 1, 2, 2]
