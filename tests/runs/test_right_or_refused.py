"""Numbers that are none, results that belong together: right, or one line."""

import csv
import json
import os
import pathlib
import re
import types

import h5py
import numpy as np
import pytest

from ctjax import main
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.data.sources import open_source
from ctjax.outputs import checkpoint, checkpoint_saver, checksums
from ctjax.outputs.saved_config import CheckpointError
from ctjax.outputs.timings import StepTimings
from ctjax.runs import inference, training_loop, validation
from ctjax.runs.inference import InferenceError
from ctjax.runs.training_loop import TrainingError
from ctjax.views.event import EventViewError, check_same_event, read_view
from ctjax.views.report import events as report_events
from ctjax.views.report import records
from tests.support import ROOT, larcv_fixtures, small_networks, small_runs
from tests.support.small_runs import entries_of

pytestmark = pytest.mark.xdist_group("runs_right_or_refused")

GEOMETRY = {"image_sizes": (36.0, 12.0), "origin": (-18.0, 2.5)}
"""Wires, then ticks, in cm; plane 2 begins elsewhere."""


def run_once(runs, folder, **changes):
    """An inference of its own folder, with the initial parameters of a training."""
    weights = str(runs.train().folder)
    fields = {"mode__weights_location": weights, "run__iterations": 99, **changes}
    return small_runs.run_and_listen(runs.config("inference", folder, **fields))


def set_charges(path, entry, value):
    """Gives all voxels of an event's first plane a charge."""
    group = larcv_fixtures.IMAGE_GROUP
    with larcv_fixtures.changing(path, f"{group}/voxel_extents", f"{group}/voxels") as (
        extents,
        voxels,
    ):
        row = extents[3 * entry]
        voxels["value"][row["first"] : row["first"] + row["N"]] = value


@pytest.fixture(scope="module")
def overflowing(runs):
    """A file whose event 5 has charges that float16 does not hold."""
    path = runs.write("overflowing.h5", runs.events)
    set_charges(path, 5, 9e5)
    return path


# Numbers that are none.


@pytest.mark.slow
def test_charges_beyond_float16_end_an_inference(runs, overflowing, tmp_path):
    fields = {"data__file": overflowing, "mode__write_predictions": True}
    with pytest.raises(InferenceError) as caught:
        run_once(runs, tmp_path, run__precision="float16", **fields)
    message = str(caught.value)
    assert "\n" not in message
    assert f"entry 5 (7, 1, 105) of {overflowing}. Largest activations" in message
    assert re.search(r"of entry 5, computed in float16: \w+\S*: (inf|nan), ", message)
    assert "entry 4" not in message
    assert not (tmp_path / "predictions.h5").exists()
    # A format that holds them takes the same file.
    assert np.isfinite(list(run_once(runs, tmp_path, **fields).result.values())).all()


@pytest.mark.parametrize("bad, named", [([1], [5]), ([0, 1, 2, 3], [4, 5, 6, 7])])
def test_scores_that_are_no_numbers_end_an_inference(
    runs, tmp_path, monkeypatch, bad, named
):
    """A step that gives none for some events of the second minibatch."""
    asked, steps_done = {}, []

    def compile_eval_step(step, mesh, with_scores, *, with_loss, heads):
        asked.update(with_scores=with_scores, with_loss=with_loss)

        def eval_step(variables, arrays):
            steps_done.append(arrays)
            is_finite = np.ones(4, np.int32)
            if len(steps_done) == 2:
                is_finite[bad] = 0
            metrics = np.where(is_finite[:, None], 0.5, np.nan)
            metrics = np.broadcast_to(metrics, (4, len(COSMIC_TAGGER.metric_names)))
            confusion = np.zeros((4, 3, 3, 3), np.int32)
            return {
                **{"is_finite": is_finite, "metrics": metrics, "confusion": confusion},
                "counted": np.ones(4, np.float32),
            }

        return eval_step

    def describe(model, variables, image, train):
        assert image.shape == (1, 3, *small_runs.SHAPE) and not train
        return f"a charge of {float(image.max()):.4g}"

    monkeypatch.setattr(inference, "compile_eval_step", compile_eval_step)
    monkeypatch.setattr(
        inference, "compile_ahead", lambda name, step, *arguments: (step, None)
    )
    monkeypatch.setattr(inference.nonfinite, "describe_activations", describe)
    with pytest.raises(InferenceError) as caught:
        run_once(runs, tmp_path)
    names = ", ".join(f"entry {e} (7, 1, {100 + e}) of {runs.file}" for e in named)
    charge = max(plane[1].max() for plane in runs.events[named[0]])
    assert str(caught.value) == (
        f"found class scores that are not finite, expected numbers: {names}. Largest "
        f"activations of entry {named[0]}, computed in float32: a charge of "
        f"{charge:.4g}"
    )
    # Nobody reads a loss here, and nothing was written of the bad events.
    assert asked == {"with_scores": False, "with_loss": False}
    with open(tmp_path / "inference_metrics.csv", newline="") as file:
        assert [row["entry"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]


def test_a_validation_that_is_no_number_has_no_score(runs, monkeypatch, caplog):
    config = runs.config("train", "unused", data__aux_file=runs.file)

    def eval_step(variables, arrays):
        is_finite = np.array([1, 0, 1, 0])
        metrics = np.where(is_finite[:, None], 0.5, np.nan) * np.ones(
            len(COSMIC_TAGGER.metric_names)
        )
        results = {"loss": np.nan, "metrics": metrics, "is_finite": is_finite}
        return {**results, "counted": np.ones(4, np.float32)}

    class Reports:
        def __init__(self):
            self.rows = []

        def report_validation(self, step, results, mean):
            self.rows.append((step, mean))

        def wants_images(self, step):
            return False

    state = types.SimpleNamespace(variables={})
    timings = StepTimings(1)
    monkeypatch.setattr(validation.sharding, "distribute", lambda arrays, mesh: arrays)
    monkeypatch.setattr(
        validation, "compile_ahead", lambda name, step, *arguments: (step, None)
    )
    reports, processes = Reports(), validation.Processes()
    mesh = validation.sharding.make_mesh()
    with (
        open_source(file=runs.file) as trained_on,
        validation.open_validation(
            config, trained_on, eval_step, reports, 0, mesh, processes
        ) as validate,
    ):
        assert validate(2, state, timings) == []
    assert np.isnan(reports.rows[0][1]).all()
    assert "test Step 2: no score, class scores of 2 of 4 events are not" in caplog.text


@pytest.mark.parametrize("name", ["params", "batch_stats"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(runs, tmp_path, name, value):
    config = runs.config("inference", tmp_path, network__normalization="batch")
    drawn = small_networks.random_variables(config.network)
    collection = drawn[name]
    while isinstance(collection, dict):
        parent, key = collection, sorted(collection)[0]
        collection = collection[key]
    parent[key] = np.full_like(collection, value)
    checkpoint.save_weights(str(tmp_path), drawn, 1, config)
    words = rf"/1: found numbers that are not finite in {name}/\S*{key}, expected"
    with pytest.raises(CheckpointError, match=words) as caught:
        inference.run(config)
    assert "\n" not in str(caught.value)


class _Saver:
    """Saves nothing, in one of three ways."""

    def __init__(self, error=None, failure=None):
        self.error, self.failure, self.waited = error, failure, False

    def save(self, state, config, score):
        if self.error:
            raise self.error

    def wait(self):
        self.waited = True


def test_a_save_that_fails_is_told_and_not_raised():
    for saver, words in (
        (_Saver(), "is saved"),
        (_Saver(failure="step 3: full"), "could not be saved (step 3: full)"),
        (_Saver(CheckpointError("three in a row")), "could not be saved (three in a"),
    ):
        training = types.SimpleNamespace(saver=saver, config=None)
        assert training_loop._save_before(training, None).startswith(words)
        assert saver.waited != bool(saver.error)


@pytest.mark.slow
def test_a_save_that_fails_does_not_hide_why_a_training_ends(
    runs, tmp_path, monkeypatch
):
    def save(self, step, *arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
    monkeypatch.setattr(checkpoint_saver, "MAX_FAILURES", 1)
    path = runs.write("huge.h5", runs.events)
    set_charges(path, int(entries_of(0)[0]), 3e38)
    fields = {"data__file": path, "data__charge_limit": 3.4e38}
    with pytest.raises(TrainingError) as caught:
        small_runs.run_and_listen(runs.config("train", tmp_path, **fields))
    message = str(caught.value)
    assert "\n" not in message and message.startswith("step 0: loss ")
    assert "Largest activations: " in message
    assert "the state before it could not be saved (step 0 " in message
    assert "No space left on device" in message


def test_negative_charges_hardly_change_the_other_pixels(runs, shared_folder, tmp_path):
    names = ("neg_good", "neg_one", "bipolar")
    # Initial parameters would call every pixel background.
    config = runs.config("train", tmp_path)
    drawn = small_networks.random_variables(config.network)
    variables = {"batch_stats": {}, **drawn}
    checkpoint.save_weights(str(tmp_path / "weights"), variables, 1, config)
    run = run_once(
        runs,
        tmp_path,
        mode__weights_location=str(tmp_path / "weights"),
        data__file=",".join(str(shared_folder / "cases" / f"{n}.h5") for n in names),
        data__img_transform=True,
        mode__write_predictions=True,
    )
    assert len(run.table("inference_metrics")) == 4 + 4 + 3
    assert np.isfinite(list(run.result.values())).all()
    scores = run.predictions("cosmic_prediction")
    assert all(np.isfinite(p["value"]).all() for event in scores for p in event)
    classes = run.predictions("cosmicseg_prediction")
    changed = total = 0
    for good, one in zip(classes[:4], classes[4:8], strict=True):
        for a, b in zip(good, one, strict=True):
            assert np.array_equal(a["id"], b["id"])
            changed += np.sum(a["value"] != b["value"])
            total += len(a)
    every = np.concatenate([p["value"] for event in classes for p in event])
    assert min(np.bincount(every.astype(int))) > 100
    assert total == 2400 and changed <= 20


def test_charges_in_electrons_are_read_with_their_limit(shared_folder):
    path = str(shared_folder / "cases" / "electrons.h5")
    with open_source(file=path, charge_limit=2e7) as source:
        sums = [
            pixels.values.sum(dtype=float) / 4e4 for pixels in source.read_sparse(0)
        ]
    assert sums == pytest.approx([6217.445, 6169.713, 5762.225], rel=1e-5)


# Results that belong together.


@pytest.fixture(scope="module")
def measured(runs):
    """The usual events, in cm."""
    path = runs.write("measured.h5", runs.events)
    for group in (larcv_fixtures.IMAGE_GROUP, larcv_fixtures.LABEL_GROUP):
        with larcv_fixtures.changing(path, f"{group}/image_meta") as rows:
            for name, values in GEOMETRY.items():
                rows[name] = values
            rows["origin"][2::3, 0] = -57.5
    return path


@pytest.fixture(scope="module")
def predicted(runs, measured):
    """Predictions for these events from the third on, pooled once."""
    return runs.infer(data__file=measured, data__downsample=1, mode__start_index=2)


def test_predictions_keep_the_geometry_of_their_events(predicted):
    with h5py.File(predicted.folder / "predictions.h5") as file:
        for group in file["Data"].values():
            rows = group["image_meta"][...]
            assert len(rows) == 18
            np.testing.assert_array_equal(rows["number_of_voxels"], [[12, 8]] * 18)
            np.testing.assert_array_equal(rows["image_sizes"], [[36.0, 12.0]] * 18)
            origin = [[-18.0, 2.5], [-18.0, 2.5], [-57.5, 2.5]] * 6
            np.testing.assert_array_equal(rows["origin"], origin)


def test_predictions_say_where_they_come_from(runs, predicted, measured):
    with h5py.File(predicted.folder / "predictions.h5") as file:
        found = dict(file.attrs)
    (source,) = json.loads(found["input_files"])
    size = os.path.getsize(measured)
    assert source == {"file": measured, "bytes": size, "events": 8}
    weights = runs.train(data__downsample=0)
    assert found["weights"] == f"{runs.train().folder}, step 2"
    assert found["weights_sha256"] == checksums.sum_arrays(weights.variables)
    assert (found["downsample"], found["img_transform"]) == (1, False)
    assert (found["precision"], found["mask_empty_pixels"]) == ("float32", True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert found["ctjax_version"] and found["ctjax_commit"]


def test_the_checksum_of_weights_is_of_names_and_numbers():
    tree = {"params": {"a": np.arange(3.0), "b": np.zeros(2)}}
    same = {"params": {"b": np.zeros(2), "a": np.arange(3.0)}}
    assert checksums.sum_arrays(tree) == checksums.sum_arrays(same)
    for other in (
        {"params": {"a": np.arange(3.0), "c": np.zeros(2)}},
        {"params": {"a": np.arange(3.0), "b": np.array([0, 1e-9])}},
        {"params": {"a": np.arange(3.0), "b": np.zeros((2, 1))}},
    ):
        assert checksums.sum_arrays(tree) != checksums.sum_arrays(other)


def test_the_documented_snippet_reads_predictions(predicted, monkeypatch, capsys):
    page = (ROOT / "docs/data-format.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (snippet,) = (s for s in snippets if "predictions.h5" in s)
    monkeypatch.chdir(predicted.folder)
    exec(compile(snippet, "docs/data-format.md", "exec"), names := {})
    ids, score, wire_cm = names["ids"], names["score"], names["wire_cm"]
    table = predicted.predictions("neutrino_prediction")[0][2]
    np.testing.assert_array_equal(ids, table["id"])
    np.testing.assert_array_equal(score, table["value"])
    # Twelve pixels over 36 cm from -57.5 on: the first one's middle is 1.5 cm away.
    np.testing.assert_allclose(wire_cm, -57.5 + 3.0 * (ids // 8 + 0.5))
    np.testing.assert_allclose(names["tick_cm"], 2.5 + 1.5 * (ids % 8 + 0.5))
    assert "float32" in capsys.readouterr().out


def test_rows_name_their_file(runs, measured, tmp_path):
    names = f"{measured},{runs.file}"
    run_once(runs, tmp_path, data__file=names, mode__start_index=6, run__iterations=1)
    for table in ("inference_metrics", "inference_confusion"):
        with open(tmp_path / f"{table}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = ("entry", "run", "subrun", "event", "file")
        assert [tuple(row[name] for name in columns) for row in rows] == [
            ("6", "7", "1", "106", measured),
            ("7", "7", "1", "107", measured),
            ("8", "7", "1", "100", runs.file),
            ("9", "7", "1", "101", runs.file),
        ]


RESULTS = ("predictions.h5", "inference_metrics.csv", "inference_confusion.csv")


def test_a_new_inference_sets_the_old_results_aside(runs, tmp_path):
    first = run_once(runs, tmp_path, mode__write_predictions=True)
    old = {name: (tmp_path / name).read_bytes() for name in RESULTS}
    fields = {"data__downsample": 1, "mode__allow_other_images": True}
    second = run_once(runs, tmp_path, **fields)
    aside = tmp_path / "older_inferences" / "1"
    assert {name: (aside / name).read_bytes() for name in RESULTS} == old
    assert (aside / "inference_timings.npy").exists()
    assert not (tmp_path / "predictions.h5").exists()
    assert any(str(aside) in message for message in second.messages)
    assert not any("aside" in message for message in first.messages)
    # One that fails leaves no older table beside its name, either.
    with pytest.raises(CheckpointError):
        run_once(runs, tmp_path, mode__weights_location=str(tmp_path / "none"))
    assert not (tmp_path / "inference_metrics.csv").exists()
    assert (tmp_path / "older_inferences/2/inference_metrics.csv").exists()


def test_the_configuration_goes_with_its_results(runs, tmp_path, monkeypatch):
    def infer(config, processes):
        path = pathlib.Path(config.output_dir, "inference_metrics.csv")
        path.write_text(str(config.run.seed))

    monkeypatch.setattr(inference, "run", infer)
    monkeypatch.setattr(main.report, "write_after_run", lambda folder: None)
    for seed in (1, 2, 3):
        main.run(runs.config("inference", tmp_path, run__seed=seed))
    for place, seed in (("older_inferences/1", 1), ("older_inferences/2", 2), (".", 3)):
        record = json.loads((tmp_path / place / "inference_config.json").read_text())
        assert record["config"]["run"]["seed"] == seed
        assert (tmp_path / place / "inference_metrics.csv").read_text() == str(seed)


def changed_file(runs, name, change):
    """A file that differs from the one of the predictions."""
    path = runs.write(f"{name}.h5", runs.events)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def renumber(file):
    rows = file["Events/event_id"][:]
    rows["event"] += 1
    file["Events/event_id"][:] = rows


def recharge(file):
    table = file[larcv_fixtures.IMAGE_GROUP]["voxels"]
    rows = table[:]
    rows["value"] *= 2
    table[:] = rows


def move(file):
    """Moves the last charge of entry 4, plane 2, to the last pixel, as it is."""
    group = file[larcv_fixtures.IMAGE_GROUP]
    extent, rows = group["voxel_extents"][3 * 4 + 2], group["voxels"][:]
    num_rows, num_columns = small_runs.SHAPE
    last = extent["first"] + extent["N"] - 1
    # Not in the last two rows: another pixel where 2 x 2 are one, too.
    assert rows["id"][last - 1] < rows["id"][last] and rows["id"][last] % num_rows < 14
    rows["id"][last] = num_rows * num_columns - 1
    group["voxels"][:] = rows


@pytest.mark.parametrize(
    "change, words",
    [
        (renumber, r"found event \(7, 1, 104\) at place 2, expected \(7, 1, 105\)"),
        (recharge, r"found other charges in plane 0 at place 2 than in entry 4 of"),
        (move, r"found other charges in plane 2 at place 2 than in entry 4 of"),
    ],
)
def test_predictions_are_not_drawn_over_another_event(runs, predicted, change, words):
    path = changed_file(runs, change.__name__, change)
    predictions = str(predicted.folder / "predictions.h5")
    assert read_view(runs.file, predictions, 4).has_prediction
    with pytest.raises(EventViewError, match=words) as caught:
        read_view(path, predictions, 4)
    assert "\n" not in str(caught.value)


def test_predictions_of_fewer_events_are_of_another_inference(predicted):
    predictions = str(predicted.folder / "predictions.h5")
    check_same_event(predictions, 5, (7, 1, 107), [], 7, 1)
    with pytest.raises(EventViewError, match="found 6 events, expected more than 6"):
        check_same_event(predictions, 6, (7, 1, 108), [], 8, 1)


def report_of(runs, predicted, folder, predictions, names):
    """Events of a report whose folder holds a table and predictions."""
    for name in ("inference_metrics.csv", "inference_config.json"):
        if (predicted.folder / name).exists():
            (folder / name).write_bytes((predicted.folder / name).read_bytes())
    config = {
        "data": {"file": names, "data_directory": "", "synthetic": False},
        "mode": {"write_predictions": True},
    }
    config["data"]["downsample"] = 1
    (folder / "inference_config.json").write_text(json.dumps({"config": config}))
    (folder / "predictions.h5").write_bytes(predictions.read_bytes())
    return report_events.pack_events([records.read_record(str(folder))], 1)


def test_a_report_draws_no_predictions_of_another_inference(
    runs, predicted, tmp_path, caplog
):
    whole = predicted.folder / "predictions.h5"
    assert len(report_of(runs, predicted, tmp_path, whole, runs.file)) == 3
    assert len(report_of(runs, predicted, tmp_path, whole, "/gone.h5")) == 3
    assert not caplog.records
    other = runs.infer(data__downsample=1, mode__start_index=1).folder
    for predictions, names, words in (
        (other / "predictions.h5", "/gone.h5", "predictions of another inference"),
        (whole, changed_file(runs, "doubled", recharge), "found other charges"),
        (pathlib.Path(runs.file), runs.file, "predictions of another inference"),
    ):
        caplog.clear()
        assert report_of(runs, predicted, tmp_path, predictions, names) == []
        assert words in caplog.text
