"""Training as a whole, on tiny runs; the accuracies on real events are `slow`."""

import gzip
import json
import os
import re
import signal
import sys

import h5py
import jax
import numpy as np
import pytest

from ctjax.data.larcv.file import LarcvFile
from ctjax.data.sources import EventSource
from ctjax.learning import state as learning_state
from ctjax.outputs import checkpoint
from ctjax.processes.stop_requests import Interrupted
from ctjax.runs import inference, train
from ctjax.runs import parts as runs_parts
from tests.support import larcv_fixtures, tiny
from tests.support.finished_runs import read_table


def leaves_equal(a, b):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def larcv_file(tmp_path_factory):
    """Three events of 40 x 64 pixels."""
    path = tmp_path_factory.mktemp("data") / "three.h5"
    events = larcv_fixtures.make_events(3, (40, 64), most=300)
    return larcv_fixtures.write_larcv(path, events, (40, 64))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Six steps in one go."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, train.run(tiny.make(folder, run__iterations=6))


def test_a_row_a_step_and_the_files_of_a_run(unbroken):
    folder, _ = unbroken
    rows = read_table(folder, "train_metrics.csv")
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert list(rows[0])[:3] == ["step", "loss", "Average/Total_Accuracy"]
    assert len(rows[0]) == 25
    assert list(rows[0])[-3:] == ["time_s", "images_per_s", "grad_norm"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    timings = np.load(folder / "profiles" / "train_timings.npy")
    assert len(timings) == 6 and np.all(timings["step_s"] > 0)
    rates = [float(row["images_per_s"]) for row in rows]
    assert rates == pytest.approx(4 / timings["step_s"], rel=1e-6)
    ends = timings["begin_s"] + timings["start_up_s"] + timings["step_s"]
    times = [float(row["time_s"]) for row in rows]
    assert times == pytest.approx(ends, abs=5) and times == sorted(times)
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    assert list((folder / "train").glob("events.out.tfevents*"))


def test_a_run_in_two_parts_ends_bit_for_bit_as_the_unbroken_one(unbroken, tmp_path):
    folder, expected = unbroken
    first = train.run(tiny.make(tmp_path, run__iterations=3))
    assert not leaves_equal(first.params, expected.params)
    second = train.run(tiny.make(tmp_path, run__iterations=6))
    assert int(second.step) == 6
    assert leaves_equal(second, expected)
    steps = [
        [row[name] for name in ("step", "loss", "Average/mIoU")]
        for row in read_table(tmp_path, "train_metrics.csv")
    ]
    assert steps == [
        [row[name] for name in ("step", "loss", "Average/mIoU")]
        for row in read_table(folder, "train_metrics.csv")
    ]


def test_a_finished_run_is_left_alone(unbroken, tmp_path):
    folder, expected = unbroken
    before = (folder / "train_metrics.csv").read_bytes()
    again = train.run(tiny.make(folder, run__iterations=6))
    assert leaves_equal(again, expected)
    assert (folder / "train_metrics.csv").read_bytes() == before


@pytest.mark.slow
def test_five_checkpoints_are_kept(tmp_path):
    train.run(tiny.make(tmp_path, run__iterations=7, mode__checkpoint_iteration=1))
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {3, 4, 5, 6, 7}


def test_weights_location_gives_weights_but_not_the_step(unbroken, tmp_path):
    folder, expected = unbroken
    config = tiny.make(
        tmp_path,
        mode__weights_location=str(folder),
        run__iterations=1,
        mode__optimizer__learning_rate=0.0,
        mode__optimizer__name="sgd",
    )
    started = train.run(config)
    assert int(started.step) == 1
    assert leaves_equal(started.params, expected.params)


def test_validation_every_so_many_steps(tmp_path, larcv_file):
    config = tiny.make(
        tmp_path,
        data__synthetic=False,
        data__downsample=0,
        data__file=str(larcv_file),
        data__aux_file=str(larcv_file),
        run__aux_iterations=2,
        run__aux_minibatch_size=4,
    )
    train.run(config)
    rows = read_table(tmp_path, "val_metrics.csv")
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert list((tmp_path / "test").glob("events.out.tfevents*"))


@pytest.mark.slow
def test_densify_on_the_device_is_the_same_training(tmp_path, larcv_file):
    states = [
        train.run(
            tiny.make(
                tmp_path / where,
                data__synthetic=False,
                data__downsample=0,
                data__file=str(larcv_file),
                data__densify=where,
            )
        )
        for where in ("host", "device")
    ]
    assert leaves_equal(*states)


def test_checkpoint_of_another_network_is_refused_and_kept(unbroken):
    folder, _ = unbroken
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())
    config = tiny.make(folder, network__depth=3, network__residual=False)
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"network\.depth is 1, expected 3; network\.residual is True",
    ):
        train.run(config)
    assert before == sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(read_table(folder, "train_metrics.csv")) == 6


def test_checkpoint_of_another_optimizer_is_refused(unbroken):
    folder, _ = unbroken
    config = tiny.make(folder, mode__optimizer__name="lamb")
    with pytest.raises(checkpoint.CheckpointError, match=r"is adam, expected lamb"):
        train.run(config)


@pytest.mark.slow
def test_bfloat16_trains_float32_parameters_to_nearly_the_same(unbroken, tmp_path):
    folder, _ = unbroken
    learning_state = train.run(
        tiny.make(tmp_path, run__iterations=6, run__precision="bfloat16")
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(learning_state.params)} == {
        np.dtype("f4")
    }
    ours, theirs = (
        [float(row["loss"]) for row in read_table(path, "train_metrics.csv")]
        for path in (tmp_path, folder)
    )
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.slow
def test_accumulated_minibatches_read_each_event_once(
    one_device, tmp_path, larcv_file, monkeypatch
):
    # One epoch of three events in one step of three minibatches of one.
    config = tiny.make(
        tmp_path,
        run__iterations=1,
        run__minibatch_size=1,
        mode__optimizer__gradient_accumulation=3,
        data__synthetic=False,
        data__downsample=0,
        data__file=str(larcv_file),
    )
    seen = []
    original = EventSource.read

    def spy(self, entry, image, label):
        seen.append(entry)
        return original(self, entry, image, label)

    monkeypatch.setattr(EventSource, "read", spy)
    state = train.run(config)
    assert sorted(seen) == [0, 1, 2]
    assert int(state.step) == 1


def test_the_hook_is_called_after_every_step_is_reported(tmp_path):
    seen = []

    def look(step):
        seen.append((step, len(read_table(tmp_path, "train_metrics.csv"))))

    config = tiny.make(tmp_path, run__iterations=5, mode__checkpoint_iteration=2)
    train.run(config, on_step=look)
    assert seen == [(step, step + 1) for step in range(5)]


class Ended(Exception):
    """What ends a training from outside."""


@pytest.mark.parametrize("end", ["signal", "error"])
def test_a_run_that_ends_within_the_profiled_steps_leaves_its_trace(tmp_path, end):
    def on_step(step):
        # Step 1, the first one of the trace, is under way; a signal ends with step 3.
        if step == 0 and end == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif step == 0:
            raise Ended

    config = tiny.make(tmp_path, run__iterations=20, run__profile=True)
    with pytest.raises(Interrupted if end == "signal" else Ended):
        train.run(config, on_step=on_step)
    (trace,) = (tmp_path / "profiles").rglob("*.trace.json.gz")
    with gzip.open(trace) as file:
        assert json.load(file)["traceEvents"]
    # The profiler is off: it can be started again.
    with jax.profiler.trace(str(tmp_path / "again")):
        pass


@pytest.mark.parametrize("iterations", [3, 6])
def test_profile_writes_a_trace(tmp_path, iterations, caplog):
    with caplog.at_level("INFO", "ctjax"):
        train.run(tiny.make(tmp_path, run__iterations=iterations, run__profile=True))
    # For TensorBoard and for Perfetto.
    assert list((tmp_path / "profiles").rglob("*.xplane.pb"))
    (trace,) = (tmp_path / "profiles").rglob("*.trace.json.gz")
    with gzip.open(trace) as file:
        assert json.load(file)["traceEvents"]
    words = re.search(
        r"Compiled training step, each device: ([\d.e-]+) GFLOP, ([\d.e-]+) GB at most "
        r"\(arguments ([\d.e-]+), results ([\d.e-]+), in between ([\d.e-]+)\)",
        caplog.text,
    )
    assert words
    flop, most, *parts = map(float, words.groups())
    assert flop > 0 and most == pytest.approx(sum(parts), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("remat, count", [("none", 0), ("stage", 1)])
def test_what_saves_nothing_on_a_cpu_is_said(tmp_path, caplog, remat, count):
    train.run(tiny.make(tmp_path, run__iterations=1, run__remat=remat))
    words = "run.remat=stage saves no memory on a CPU"
    assert sum(words in message for message in caplog.messages) == count


def test_images_that_the_depth_cannot_halve_are_padded(tmp_path, caplog):
    caplog.set_level("INFO", "ctjax")
    config = tiny.make(tmp_path, network__depth=4, run__iterations=1)
    assert int(train.run(config).step) == 1
    words = "Planes of 40 x 64, 40 x 64, 40 x 64 pixels in images of 48 x 64"
    assert words in caplog.text


def test_inference_twice_gives_every_event_once_and_the_same(
    one_device, unbroken, tmp_path, larcv_file
):
    folder, _ = unbroken
    # Three events in minibatches of two: the last one is half empty.
    reports = [
        inference.run(
            tiny.make(
                tmp_path / str(size),
                mode__name="inference",
                mode__weights_location=str(folder),
                mode__allow_other_images=True,
                run__iterations=None,
                run__minibatch_size=size,
                data__synthetic=False,
                data__downsample=0,
                data__file=str(larcv_file),
            )
        )
        for size in (2, 3, 2)
    ]
    assert reports[0] == reports[2]
    assert reports[0] == pytest.approx(reports[1], rel=1e-5)
    rows = read_table(tmp_path / "2", "inference_metrics.csv")
    assert [int(row["entry"]) for row in rows] == [0, 1, 2]
    mean = np.mean([float(row["Average/mIoU"]) for row in rows])
    assert mean == pytest.approx(reports[0]["Average/mIoU"], rel=1e-5)


def test_inference_starts_at_the_index_and_stops_after_iterations(
    one_device, unbroken, tmp_path, larcv_file
):
    folder, _ = unbroken
    inference.run(
        tiny.make(
            tmp_path,
            mode__name="inference",
            mode__weights_location=str(folder / "checkpoints" / "6"),
            mode__allow_other_images=True,
            mode__start_index=1,
            run__iterations=1,
            run__minibatch_size=1,
            data__synthetic=False,
            data__downsample=0,
            data__file=str(larcv_file),
        )
    )
    rows = read_table(tmp_path, "inference_metrics.csv")
    assert [int(row["entry"]) for row in rows] == [1]


@pytest.mark.parametrize("location", [None, "nowhere"])
def test_inference_without_a_checkpoint_is_refused(tmp_path, larcv_file, location):
    with pytest.raises(checkpoint.CheckpointError):
        inference.run(
            tiny.make(
                tmp_path,
                mode__name="inference",
                mode__weights_location=location and str(tmp_path / location),
                data__synthetic=False,
                data__downsample=0,
                data__file=str(larcv_file),
            )
        )


def test_synthetic_inference_needs_no_checkpoint(tmp_path):
    report = inference.run(tiny.make(tmp_path, mode__name="inference"))
    scores = [
        float(r["Average/mIoU"]) for r in read_table(tmp_path, "inference_metrics.csv")
    ]
    assert len(set(scores)) == len(scores) == 16
    assert report["Average/mIoU"] == pytest.approx(np.mean(scores), rel=1e-6)


def test_predictions_are_a_larcv_file_of_scores_and_classes(
    unbroken, tmp_path, larcv_file
):
    folder, _ = unbroken
    for where in ("host", "device"):
        config = tiny.make(
            tmp_path / where,
            mode__name="inference",
            mode__weights_location=str(folder),
            mode__allow_other_images=True,
            mode__write_predictions=True,
            run__iterations=None,
            data__synthetic=False,
            data__downsample=0,
            data__file=str(larcv_file),
            data__densify=where,
        )
        inference.run(config)
        # Once more: the file of the first inference is replaced.
        inference.run(config)
        path = tmp_path / where / "predictions.h5"
        truth = larcv_fixtures.make_events(3, (40, 64), most=300)
        with LarcvFile(path) as file, h5py.File(path) as raw:
            assert file.num_events == 3 and file.plane_shapes == ((40, 64),) * 3
            assert file.event_ids.tolist() == [
                [7, 1, 100 + entry] for entry in range(3)
            ]
            for entry, planes in enumerate(truth):
                image, label = file.read_image(entry), file.read_label(entry)
                for plane, (ids, values, classes) in enumerate(planes):
                    at = image.planes[plane]
                    np.testing.assert_array_equal(image.ids[at], ids)
                    np.testing.assert_array_equal(image.values[at], values)
                    np.testing.assert_array_equal(
                        label.values[label.planes[plane]], classes
                    )
            voxels = {
                name: raw[f"Data/sparse2d_{name}_group/voxels"][...]
                for name in (
                    "sbndwire",
                    "cosmic_prediction",
                    "neutrino_prediction",
                    "cosmicseg_prediction",
                )
            }
        for table in voxels.values():
            np.testing.assert_array_equal(table["id"], voxels["sbndwire"]["id"])
        cosmic, neutrino = (
            voxels[f"{name}_prediction"]["value"] for name in ("cosmic", "neutrino")
        )
        background = 1 - cosmic - neutrino
        assert background.min() > -1e-6
        best = np.argmax([background, cosmic, neutrino], axis=0)
        np.testing.assert_array_equal(best, voxels["cosmicseg_prediction"]["value"])
        assert len(np.unique(best)) > 1
    assert not list(tmp_path.glob("*/*.unfinished"))


def test_a_failed_inference_leaves_no_predictions(
    one_device, unbroken, tmp_path, larcv_file, monkeypatch
):
    folder, _ = unbroken
    config = tiny.make(
        tmp_path,
        mode__name="inference",
        mode__weights_location=str(folder),
        mode__allow_other_images=True,
        mode__write_predictions=True,
        run__iterations=None,
        run__minibatch_size=1,
        data__synthetic=False,
        data__downsample=0,
        data__file=str(larcv_file),
    )
    written = []

    def append(writer, event_id, *products):
        if written:
            raise OSError("no space left on device")
        written.append(event_id)

    monkeypatch.setattr("ctjax.data.larcv.writer.LarcvWriter.append", append)
    with pytest.raises(OSError, match="no space"):
        inference.run(config)
    assert not list(tmp_path.glob("*predictions*"))


def test_restored_weights_are_those_saved(unbroken):
    folder, expected = unbroken
    config = tiny.make(folder)
    _, variables = runs_parts.make_network(config, (40, 64))
    restored, step = checkpoint.restore_weights(str(folder), variables, config)
    assert step == 6
    assert leaves_equal(restored["params"], expected.params)
    assert leaves_equal(restored["batch_stats"], expected.batch_stats)
    assert learning_state.count_parameters(
        restored["params"]
    ) == learning_state.count_parameters(variables["params"])


LIGHT = {
    "run__iterations": 200,
    "data__synthetic": False,
    "data__downsample": 3,
    "network__n_initial_filters": 8,
    "network__depth": 4,
    "network__blocks_deepest_layer": 2,
    "network__bottleneck_deepest": 32,
    "mode__optimizer__learning_rate": 3e-3,
    # As the original, whose values these are compared with.
    "mode__mask_empty_pixels": False,
}


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    "transform, scheme, original",
    [(False, "light", 0.59), (True, "light", 0.67), (True, "focal", 0.77)],
)
def test_accuracy_on_the_light_events(
    tmp_path, shared_folder, transform, scheme, original
):
    # The mIoU that CosmicTagger's own torch network reaches on the same five events.
    options = {
        **LIGHT,
        "data__file": str(shared_folder / "data" / "cosmic_tagging_light.h5"),
        "data__img_transform": transform,
        "mode__optimizer__loss_balance_scheme": scheme,
    }
    train.run(tiny.make(tmp_path, **options))
    options |= {"mode__name": "inference", "run__iterations": None}
    report = inference.run(tiny.make(tmp_path, **options))
    sys.stdout.write(f"Average/mIoU {report['Average/mIoU']:.3f}\n")  # for -rP
    assert report["Average/mIoU"] >= original - 0.05
