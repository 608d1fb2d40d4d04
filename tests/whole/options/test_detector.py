"""Each field that says what a detector is, changed, changes what it should in a run."""

import json

import numpy as np
import pytest

from ctjax import main
from ctjax.base.detector import IGNORED, Detector
from ctjax.data.larcv.file import LarcvFileError
from ctjax.outputs.saved_config import CheckpointError
from ctjax.views import skipped
from tests.support import detector_files
from tests.support.small_runs import SHAPE, entries_of, logits_of

pytestmark = pytest.mark.xdist_group("options_of_detector")


@pytest.fixture(scope="module")
def products(runs):
    """The same events under other names."""
    path = runs.folder / "names.h5"
    detector_files.write(path, runs.events, [SHAPE] * 3, image="wire", label="seg")
    return str(path)


def modes(runs):
    return [
        (runs.train, lambda run: run.table("train_metrics")),
        (runs.infer, lambda run: run.table("inference_metrics")),
        (runs.read, lambda run: run.result["images"]),
    ]


def test_image_product(runs, products):
    for make, results in modes(runs):
        with pytest.raises(
            LarcvFileError, match=r"data\.image_product .*wire \(sparse"
        ):
            make(data__file=products)
        named = make(
            data__file=products, data__image_product="wire", data__label_product="seg"
        )
        assert results(named) == results(make())


def test_label_product(runs, products):
    # What is read are the labels: those of another product are another run.
    path = str(runs.folder / "labels.h5")
    swapped = [[(i, q, 2 - c) for i, q, c in planes] for planes in runs.events]
    detector_files.write(path, swapped, [SHAPE] * 3, label="other")
    run = runs.train(data__file=path, data__label_product="other")
    assert run.losses[0] > 0 and run.losses != runs.train().losses
    for make, _ in modes(runs):
        with pytest.raises(LarcvFileError, match=r"data\.label_product"):
            make(data__file=path, data__label_product="none_such")


def loss_of(logits, label, weights=None):
    """The sum over planes of the weighted mean cross entropy of what is not ignored."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = 0.0
    for plane in range(label.shape[1]):
        true = label[:, plane].ravel()
        kept = true != IGNORED
        own = log_p[:, plane].reshape(len(true), -1)[kept, true[kept]]
        w = np.ones(len(own)) if weights is None else np.array(weights)[true[kept]]
        total += -(w * own).sum() / w.sum()
    return total


def check_losses(run, image, label, detector, weights=None):
    expected = []
    for step in range(2):
        at = entries_of(step)
        logits = logits_of(run.config, run.variables, image[at], detector=detector)
        expected.append(loss_of(logits, label[at], weights))
    assert run.losses == pytest.approx(expected, rel=1e-5)


def test_planes(runs, truth):
    image, label = truth
    run = runs.train(data__planes="2,0")
    chosen = image[:, [2, 0]], label[:, [2, 0]].astype(np.uint8)
    check_losses(run, *chosen, Detector(num_planes=2))
    found = runs.infer(data__planes="0,1,2").table("inference_metrics")
    assert found == runs.infer().table("inference_metrics")
    # Each plane on its own, as an event of one.
    read = runs.read(data__planes="0/1/2")
    assert any("Reading 24 events" in message for message in read.messages)


def test_classes(runs, truth):
    image, label = truth
    run = runs.train(data__classes="empty,track,shower,other")
    check_losses(
        run, image, label, Detector(classes=("empty", "track", "shower", "other"))
    )
    names = {name.partition("/")[2] for name in run.table("train_metrics")[0]}
    assert {"Track_IoU", "Shower_IoU", "Other_IoU", "mIoU"} <= names
    assert not {"Cosmic_IoU", "Neutrino_IoU"} & names
    two = {"data__classes": "empty,track"}
    for make in (runs.train, runs.read):
        with pytest.raises(LarcvFileError, match="value 2, expected classes 0 to 1"):
            make(**two, run__iterations=4)
    with pytest.raises(CheckpointError, match=r"3 classes .*expected the 2"):
        runs.infer(**two)


def test_label_map(runs, truth):
    image, label = truth
    fields = {"data__label_map": "0:ignore,1:neutrino,2:cosmic"}
    run = runs.train(**fields)
    # What is not stored is background all the same.
    mapped = np.array([0, 2, 1])[label].astype(np.uint8)
    for entry, planes in enumerate(runs.events):
        for plane, (ids, _, classes) in enumerate(planes):
            ignored = ids[np.asarray(classes) == 0]
            mapped[entry, plane, ignored % SHAPE[0], ignored // SHAPE[0]] = IGNORED
    check_losses(run, image, mapped, Detector(has_ignored=True))
    counted = (mapped != IGNORED).sum((2, 3))
    confusion = runs.infer(**fields).table("inference_confusion")
    for entry, row in enumerate(confusion):
        for plane in range(3):
            cells = [v for name, v in row.items() if name.startswith(f"plane{plane}/")]
            assert sum(cells) == counted[entry, plane]
    for make, _ in modes(runs):
        with pytest.raises(LarcvFileError, match="value 2, expected labels 0, 1"):
            make(data__label_map="0:0,1:1", run__iterations=4)


def test_charge_scale(runs):
    doubled = [[(i, q * 2, c) for i, q, c in planes] for planes in runs.events]
    path = runs.write("doubled.h5", doubled)
    for make, results in modes(runs):
        here = make(data__file=path, data__charge_scale=0.5)
        assert results(here) == results(make())
    assert runs.train(data__file=path).losses != runs.train().losses


def test_on_bad_event(runs, truth):
    image, label = truth
    bad = int(entries_of(0)[1])
    events = [
        planes * 2 if e == bad else planes for e, planes in enumerate(runs.events)
    ]
    path = str(runs.folder / "bad.h5")
    detector_files.write(path, events, [SHAPE] * 3)
    for make, _ in modes(runs):
        with pytest.raises(LarcvFileError, match=f"entry {bad}, .* 0 twice"):
            make(data__file=path)
    fields = {"data__file": path, "data__on_bad_event": "skip"}
    run = runs.train(**fields)
    expected = []
    for step in range(2):
        at = [entry for entry in entries_of(step) if entry != bad]
        logits = logits_of(run.config, run.variables, image[at])
        expected.append(loss_of(logits, label[at]))
    assert run.losses == pytest.approx(expected, rel=1e-5)
    assert run.timings("train")["images"].tolist() == [
        4 - int(bad in entries_of(step)) for step in range(2)
    ]
    rows = runs.infer(**fields).table("inference_metrics")
    for row, whole in zip(rows, runs.infer().table("inference_metrics"), strict=True):
        if row["entry"] == bad:
            assert np.isnan(row["Average/mIoU"])
        else:
            assert row == whole
    good = [row["Average/mIoU"] for row in rows if row["entry"] != bad]
    result = runs.infer(**fields).result
    assert result["Average/mIoU"] == pytest.approx(np.mean(good), rel=1e-5)
    assert runs.read(**fields, run__iterations=2).result["images"] == 7


@pytest.mark.parametrize("is_in_the_tables", [True, False])
def test_on_bad_event__is_named_in_the_error(
    runs, products, tmp_path, is_in_the_tables
):
    planes = runs.events[3]
    wrong = [(ids, charges, np.full(len(ids), 7)) for ids, charges, _ in planes]
    events = [*runs.events[:3], planes * 2 if is_in_the_tables else wrong]
    path = str(tmp_path / "bad.h5")
    detector_files.write(path, events, [SHAPE] * 3)
    with pytest.raises(LarcvFileError, match=r"entry 3, .*found .*, expected") as bad:
        main.run(runs.config("iotest", tmp_path / "run", data__file=path))
    assert str(bad.value).endswith(
        "; or data.on_bad_event=skip, which leaves such events out"
    )
    record = json.loads((tmp_path / "run" / "iotest_config.json").read_text())
    assert record["ended"]["why"].endswith(str(bad.value))
    # Of a file that is wrong it would not help.
    with pytest.raises(LarcvFileError, match=r"image_product") as other:
        main.run(runs.config("iotest", tmp_path / "other", data__file=products))
    assert "on_bad_event" not in str(other.value)


def test_on_bad_event__in_a_validation(runs, tmp_path):
    ids, charges, _ = runs.events[2][0]
    wrong = [(ids, charges, np.full(len(ids), 7)), *runs.events[2][1:]]
    # One that the tables tell, and one that has to be read.
    events = [runs.events[0] * 2, runs.events[1], wrong, *runs.events[3:]]
    path = str(tmp_path / "bad.h5")
    detector_files.write(path, events, [SHAPE] * 3)
    fields = {"data__aux_file": path, "run__aux_iterations": 1}
    fields |= {"run__aux_minibatch_size": 8, "data__on_bad_event": "skip"}
    run = runs.train(**fields)
    (line,) = [m for m in run.messages if m.startswith("Skipped ")]
    assert line.startswith("Skipped 2 events of data.aux_file (data.on_bad_event=skip)")
    assert "entry 0: " in line and "entry 2: " in line
    rows = skipped.read_table(skipped.table_path(str(run.folder), skipped.VALIDATION))
    assert [(row["entry"], row["file"]) for row in rows] == [("0", path), ("2", path)]
    assert not (run.folder / "train_skipped.csv").exists()
    assert np.isfinite(run.table("val_metrics")[0]["Average/mIoU"])
