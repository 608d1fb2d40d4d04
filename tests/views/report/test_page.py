"""The numbers of the report page, and its command."""

import base64
import csv
import gzip
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.views.report import events as report_events
from ctjax.views.report import figures, page, records, tables
from tests.support import ROOT, larcv_fixtures, processes, tiny

SHAPE = (40, 64)

pytestmark = pytest.mark.xdist_group("runs_of_page")  # they share a training


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def larcv_file(tmp_path_factory):
    report_events = larcv_fixtures.make_events(12, SHAPE, most=300)
    return larcv_fixtures.write_larcv(
        tmp_path_factory.mktemp("data") / "few.h5", report_events, SHAPE
    )


@pytest.fixture(scope="module")
def finished(larcv_file, tmp_path_factory):
    """A run that trained and then inferred, and what it said at its ends."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    fields = {"data__synthetic": False, "data__file": larcv_file}
    fields |= {"data__downsample": 0, "mode__mask_empty_pixels": True}
    said = processes.run(
        folder, data__aux_file=larcv_file, run__aux_iterations=2, **fields
    )
    said += processes.run(
        folder,
        mode__name="inference",
        mode__write_predictions=True,
        run__iterations=None,
        **fields,
    )
    return folder, said


@pytest.fixture(scope="module")
def record(finished):
    return records.read_record(str(finished[0]))


@pytest.mark.slow
def test_every_mode_ends_with_a_page(finished, tmp_path):
    folder, said = finished
    assert said.count(f"Report page: {folder}/report.html") == 2
    said = processes.run(tmp_path / "io", mode__name="iotest")
    assert f"Report page: {tmp_path}/io/report.html" in said
    text = (tmp_path / "io/report.html").read_text()
    assert "Where the time went" in text and "<td>4</td>" in text
    assert 'id="inference"' not in text and 'id="events"' not in text


def test_the_page_needs_no_network_and_is_light(finished):
    text = (finished[0] / "report.html").read_text()
    # The browser's test, which has no network, sees all else that could be fetched.
    assert not re.search(r'<(?:script|link|img|iframe)[^>]*="(?:https?:)?//', text)
    assert len(text) < 2.5e6
    for words in ("Events", "Inference", "Training", "Where the time", "Configuration"):
        assert f"<h2>{words}" in text


def test_without_bokeh_the_run_goes_on(tmp_path):
    flags = tiny.flags(tmp_path, mode__name="iotest", run__iterations=2)
    code = (
        "import sys; sys.modules['bokeh'] = None\n"
        "from ctjax import main; sys.exit(main.main(sys.argv[1:]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--config", "configs/default.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("No report page: ") == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_confusion_agrees_with_the_metrics(finished, record):
    assert record.confusion.shape == (12, 3, 3, 3)
    pixels = SHAPE[0] * SHAPE[1]
    np.testing.assert_array_equal(record.confusion.sum((2, 3)), pixels)
    for plane in range(3):
        counts = record.confusion[:, plane]
        right = np.trace(counts, axis1=1, axis2=2) / pixels
        np.testing.assert_allclose(
            right, record.inference[f"plane{plane}/Total_Accuracy"], rtol=1e-6
        )
        both = counts[:, 1, 1]
        union = counts[:, 1].sum(1) + counts[:, :, 1].sum(1) - both
        iou = np.where(union > 0, both / np.maximum(union, 1), 1.0)
        np.testing.assert_allclose(
            iou, record.inference[f"plane{plane}/Cosmic_IoU"], rtol=1e-5
        )


def test_tables_by_hand(tmp_path):
    counts = np.zeros((2, 3, 3, 3), int)
    counts[0, 0] = [[90, 4, 0], [2, 6, 0], [1, 1, 8]]
    write(
        tmp_path,
        "inference_confusion.csv",
        ["entry", *COSMIC_TAGGER.confusion_names],
        [[entry, *counts[entry].ravel()] for entry in range(2)],
    )
    values = np.linspace(0, 1, len(COSMIC_TAGGER.metric_names))
    write(
        tmp_path,
        "inference_metrics.csv",
        ["entry", *COSMIC_TAGGER.metric_names],
        [[0, *values], [1, *(values + 1)]],
    )
    (tmp_path / "profiles").mkdir()
    timings = [(0, 0.5, 11.0), (1, 0.25, 1.0), (2, 0.25, 1.0), (3, 0.0, 2.0)]
    types = [("iteration", "i8"), ("wait_s", "f8"), ("step_s", "f8")]
    np.save(tmp_path / "profiles/train_timings.npy", np.array(timings, types))
    (tmp_path / "train_config.json").write_text(
        json.dumps({"config": {"run": {"minibatch_size": 3}, "mode": {
            "optimizer": {"gradient_accumulation": 2}}}})
    )  # fmt: skip
    record = records.read_record(str(tmp_path))
    neutrino = tables.class_metrics(record)[2]
    assert neutrino == {
        **{"name": "neutrino", "true": 10, "found": 8},
        **{"efficiency": 0.8, "purity": 1.0, "iou": 0.8},
    }
    whole, first, *_ = tables.confusion_matrices(record)
    assert first["name"] == "plane 0" and whole["rows"] == first["rows"]
    assert first["rows"][1] == ("cosmic", [(2, 0.25), (6, 0.75), (0, 0.0)])
    name, cells = tables.plane_metrics(record)[0]
    assert name == "Total_Accuracy" and cells[0] == (0.5, 0.5)
    (row,) = tables.times([record])
    assert row["total_s"] == 15 and row["median_s"] == 1
    assert [seconds for _, seconds in row["parts"]] == [10, 1, 4]
    assert row["images_per_s"] == pytest.approx(6 * 3 / 4)


def write(folder, name, header, rows):
    with open(folder / name, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_events_are_the_best_median_and_worst(record):
    scores = record.inference["Average/mIoU"]
    picked = report_events.pick(record, 2)
    assert [kind for _, kind in picked] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
    chosen = scores[[place for place, _ in picked]]
    ranked = np.sort(scores)[::-1]
    np.testing.assert_array_equal(chosen, ranked[[0, 1, 5, 6, 10, 11]])
    everything = report_events.pick(record, 4)
    assert len(everything) == 12 and everything[0][1] == "best"
    assert everything[-1][1] == "worst"


def unpacked(event, plane):
    """ids, charges, true and predicted classes of a packed plane."""
    packed = event["planes"][plane]
    content = gzip.decompress(base64.b64decode(packed["bytes"]))
    count = packed["count"]
    assert len(content) == 7 * count
    ids = np.cumsum(np.frombuffer(content, "<u4", count))
    codes = np.frombuffer(content, np.uint8, count, 4 * count)
    share = codes / report_events.CHARGE_STEPS
    charge = event["low"] * (event["high"] / event["low"]) ** share
    truth, prediction = np.frombuffer(content, np.uint8, offset=5 * count).reshape(
        2, -1
    )
    return ids, charge, truth, prediction


def test_packed_pixels_are_those_of_the_file(record, larcv_file):
    packed = report_events.pack_events([record], 2)
    assert len(packed) == 6
    truth = larcv_fixtures.make_events(12, SHAPE, most=300)
    for event, (place, _) in zip(packed, report_events.pick(record, 2), strict=True):
        assert event["has_truth"] and event["has_prediction"]
        right = 0
        for plane, (ids, values, classes) in enumerate(truth[place]):
            found_ids, charge, true, found = unpacked(event, plane)
            np.testing.assert_array_equal(found_ids, ids)
            np.testing.assert_array_equal(true, classes)
            clipped = np.clip(values, event["low"], event["high"])
            np.testing.assert_allclose(charge, clipped, rtol=0.02)
            counts = record.confusion[place, plane]
            right += np.sum(true == found) + SHAPE[0] * SHAPE[1] - len(ids)
            right -= np.trace(counts)
        assert right == 0


def test_without_predictions_the_file_is_read(finished, larcv_file, tmp_path):
    folder, _ = finished
    for name in ("inference_metrics.csv", "inference_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "inference_config.json").read_text())
    config["config"]["mode"]["write_predictions"] = False
    (tmp_path / "inference_config.json").write_text(json.dumps(config))
    (tmp_path / "predictions.h5").write_text("of another inference")
    event, *_ = report_events.pack_events([records.read_record(str(tmp_path))], 1)
    assert event["has_truth"] and not event["has_prediction"]
    config["config"]["data"]["file"] = "/gone.h5"
    (tmp_path / "inference_config.json").write_text(json.dumps(config))
    record = records.read_record(str(tmp_path))
    assert report_events.pack_events([record], 1) == []
    assert np.isnan(record.neutrinos["energy_gev"]).all()
    page.write([str(tmp_path)], str(tmp_path / "report.html"))


@pytest.mark.slow
def test_several_runs_and_their_difference(finished, tmp_path):
    folder, _ = finished
    processes.run(tmp_path / "second", run__seed=5)
    output = tmp_path / "both.html"
    result = run(
        *("ctjax", "report", folder, tmp_path / "second", "--output", output),
    )
    assert result.returncode == 0, result.stderr
    text = output.read_text()
    different = re.findall(r'<tr class="different"><th>([^<]+)<', text)
    same = re.findall(r'<tr class="same"><th>([^<]+)<', text)
    assert "run.seed" in different and "network.depth" in same
    both = [records.read_record(str(f)) for f in (folder, tmp_path / "second")]
    (table,) = tables.configurations(both)
    assert table["heads"] == ["first: train", "first: inference", "second: train"]
    values = {row["name"]: row["values"] for row in table["rows"]}
    assert values["run.seed"] == ["0", "0", "5"]


def test_mistakes_of_the_command(finished, tmp_path):
    def fails(*arguments):
        result = run("ctjax", "report", *arguments)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1, result.stderr
        return result.stderr

    assert "none: expected the output folder" in fails(tmp_path / "none")
    assert "expected tables or timings" in fails(tmp_path)
    assert "--output" in fails(finished[0], finished[0])
    (tmp_path / "train_metrics.csv").write_text("step,loss\n0,x\n")
    assert "train_metrics.csv: expected numbers" in fails(tmp_path)


def test_text_of_a_run_is_no_markup(finished, tmp_path):
    folder = tmp_path / "<b>&name"
    folder.mkdir()
    (folder / "train_config.json").write_text('{"config": {"x": "</script><i>"}}')
    page.write([str(folder)], str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    assert "<b>&name" not in text and "&lt;b&gt;&amp;name" in text
    assert "</script><i>" not in text


def test_thinned_smoothed_and_binned():
    steps = np.arange(4001.0)
    thin, values = figures.thinned(steps, steps**2)
    assert len(thin) == len(values) == 1333
    assert thin[0] == 1 and values[0] == pytest.approx((0 + 1 + 4) / 3)
    np.testing.assert_array_equal(figures.smoothed(np.arange(9.0)), np.arange(9.0))
    noisy = np.tile([0.0, 1.0], 100)
    assert np.abs(figures.smoothed(noisy)[10:-10] - 0.5).max() < 0.1
    x = np.arange(16.0)[::-1]
    centres, means = figures.binned(x, {"m": x * 2})
    np.testing.assert_array_equal(centres, np.arange(8) * 2 + 0.5)
    np.testing.assert_array_equal(means["m"], centres * 2)


def test_main_writes_the_launch(finished):
    launch = json.loads((finished[0] / "train_config.json").read_text())
    assert launch["config"]["data"]["downsample"] == 0
    assert launch["versions"]["jax"] and launch["machine"]["cores"]
