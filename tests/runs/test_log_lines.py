"""Whole lines of the log, put together from the tables and the timings of the run."""

import datetime
import logging
import re
import shlex
import sys
import time

import numpy as np
import pytest

from ctjax import main
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.data import pipeline
from ctjax.learning import class_scores
from ctjax.outputs import log
from tests.support import small_runs

pytestmark = pytest.mark.xdist_group("runs_of_log_lines")

SHOWN = ("Average/Non_Bkg_Accuracy", "Average/mIoU")


def values(names, row):
    return ", ".join(f"{name}: {row[name]:.4g}" for name in names)


def speed(images, timing):
    """What follows the metrics: images a second, seconds of waiting, seconds."""
    wait_s, step_s = timing["wait_s"], timing["step_s"]
    rate = images / step_s
    return f"({rate:.3g} Img/s / {wait_s:.2g} IOs / {step_s:.2g} (Step)(s))"


def lines(run, start):
    return [message for message in run.messages if message.startswith(start)]


def totals(timings, images):
    """The start-up and the four closing lines of the competition's guide."""
    step_s, start_up_s = timings["step_s"], timings["start_up_s"].sum()
    assert timings["start_up_s"][0] > 0
    result = [
        f"Start-up (compilation): {start_up_s:.4f}, in the total time and in no step's "
        "rate",
        f"Total time to batch_process: {start_up_s + step_s.sum():.4f}",
    ]
    for words, first in (
        ("except first iteration", 1),
        ("except first two iterations", 2),
        ("last 40 iterations", len(step_s) - 40),
    ):
        if 0 < first < len(step_s):
            rest = step_s[first:].sum()
            result.append(
                f"Total time to batch process {words}: {rest:.4f}, "
                f"throughput: {sum(images[first:]) / rest:.4f}"
            )
    return result


@pytest.fixture(scope="module")
def trained(runs):
    """42 steps of two minibatches of four: enough for all of the closing lines."""
    return runs.train(
        run__iterations=42,
        run__aux_iterations=20,
        data__aux_file=runs.file,
        mode__optimizer__gradient_accumulation=2,
        mode__checkpoint_iteration=100,
    )


@pytest.fixture(scope="module")
def inferred(runs):
    """Five of the eight events in minibatches of four: three places are empty."""
    return runs.infer(mode__start_index=3)


def test_waiting_is_a_part_of_the_step(trained, inferred, runs):
    for run, name in ((trained, "train"), (inferred, "inference"), (runs.read(), "io")):
        timings = run.timings(name)
        assert timings["iteration"].tolist() == list(range(len(timings)))
        assert np.all(timings["wait_s"] >= 0)
        assert np.all(timings["wait_s"] < timings["step_s"])


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_waiting_for_a_slow_disk_is_a_part_of_the_step(
    runs, tmp_path, monkeypatch, mode
):
    """The minibatch of the next step is fetched before a step ends."""
    original = pipeline.MinibatchReader.__next__

    def take_long(reader):
        minibatch = original(reader)
        time.sleep(0.1)
        reader.wait_s += 0.1
        return minibatch

    monkeypatch.setattr(pipeline.MinibatchReader, "__next__", take_long)
    fields = {"mode__weights_location": str(runs.train().folder)}
    config = runs.config(mode, tmp_path, **fields if mode == "inference" else {})
    timings = small_runs.run_and_listen(config).timings(mode)
    assert np.all(timings["wait_s"] <= timings["step_s"])
    assert timings["wait_s"].sum() >= 0.1 * len(timings) > 0.1


def test_steps_of_training(trained):
    table = trained.table("train_metrics")
    expected = [
        f"train Step {step} metrics: {values(('loss', *SHOWN), row)} {speed(8, timing)}"
        for step, (row, timing) in enumerate(
            zip(table, trained.timings("train"), strict=True)
        )
    ]
    assert lines(trained, "train Step") == expected


def test_validations(trained):
    table = trained.table("val_metrics")
    assert lines(trained, "test Step") == [
        f"test Step {step} metrics: {values(('loss', *SHOWN), row)}"
        for step, row in zip((20, 40), table, strict=True)
    ]


def test_totals_of_training(trained):
    expected = totals(trained.timings("train"), [8] * 42)
    assert len(expected) == 5
    assert trained.messages[-5:] == expected
    words = "A step takes 8 events, 2 minibatches of 4, and all of them count in the "
    assert f"{words}throughput; CosmicTagger counts 4" in trained.messages


def test_start_up_is_that_of_the_first_step_and_of_the_first_validation(
    trained, inferred
):
    """The first validation comes before step 20."""
    for run, name, steps in (
        (trained, "train", [0, 20]), (inferred, "inference", [0]),
    ):  # fmt: skip
        assert np.flatnonzero(run.timings(name)["start_up_s"]).tolist() == steps
    rows = trained.timings("train")
    # Compilation takes far longer than these steps do.
    assert rows["step_s"][0] < 0.5 * rows["start_up_s"][0]


def test_numbers_stand_where_cosmictaggers_own_parser_takes_them(trained):
    """bin/analyze_profiles.py splits lines of process.log at single blanks."""
    formatter = logging.Formatter(log.LOG_FORMAT)
    written = [
        formatter.format(logging.LogRecord("", logging.INFO, "", 0, text, (), None))
        for text in trained.messages
    ]
    found = [line.split(" ") for line in written if "train Step" in line]
    timings = trained.timings("train")
    assert len(found) == len(timings)
    for words, timing in zip(found, timings, strict=True):
        datetime.datetime.strptime(words[1], "%H:%M:%S,%f")
        assert int(words[7]) == timing["iteration"]
        step_s, wait_s = float(words[-2]), float(words[-5].replace("(", ""))
        assert step_s == pytest.approx(timing["step_s"], rel=0.05)
        assert wait_s == pytest.approx(timing["wait_s"], rel=0.05)
        rate = float(words[-8].replace("(", ""))
        assert rate == pytest.approx(8 / timing["step_s"], rel=0.01)
    (closing,) = (w for w in written if "except first two iterations" in w)
    throughput = 40 * 8 / timings["step_s"][2:].sum()
    assert float(closing.split(" ")[-1]) == pytest.approx(throughput, rel=1e-4)


def test_each_process_leaves_its_timings_in_cosmictaggers_form(trained, inferred, runs):
    """performance-measurement/create_dataframe_from_run.py reads these columns."""
    read = runs.read()
    for run, name in ((trained, "train"), (inferred, "inference"), (read, "io")):
        rows = np.load(run.folder / "profiles/profiling_info_rank_0.npy")
        timings = run.timings(name)
        assert rows["i"].tolist() == timings["iteration"].tolist()
        for theirs, ours in (("iteration", "step_s"), ("io", "wait_s")):
            seconds = 1e-6 * rows[theirs].astype(float)
            np.testing.assert_allclose(seconds, timings[ours], atol=1e-6)
        whole = timings["step_s"] + timings["start_up_s"]
        between = np.diff(rows["start"]) / np.timedelta64(1, "s")
        np.testing.assert_allclose(between, whole[:-1], atol=1e-5)


def test_steps_of_inference(inferred):
    table = inferred.table("inference_metrics")
    timings = inferred.timings("inference")
    expected = []
    for step, rows in enumerate((table[:4], table[4:])):
        means = {name: np.mean([row[name] for row in rows]) for name in SHOWN}
        expected.append(
            f"ana Step {step} metrics: {values(SHOWN, means)} "
            f"{speed(len(rows), timings[step])}"
        )
    assert lines(inferred, "ana Step") == expected


def test_report_of_inference(inferred):
    table = inferred.table("inference_metrics")
    assert [row["entry"] for row in table] == [3, 4, 5, 6, 7]
    means = {
        name: np.mean([row[name] for row in table])
        for name in COSMIC_TAGGER.metric_names
    }
    confusion = inferred.table("inference_confusion")
    counts = [
        [row[name] for name in COSMIC_TAGGER.confusion_names] for row in confusion
    ]
    scores = class_scores.score_classes(
        np.reshape(counts, (5, 3, 3, 3)), COSMIC_TAGGER.classes
    )
    at = inferred.messages.index("Inference report: 2 batches processed for 5 entries.")
    assert inferred.messages[at + 1 :] == [
        "  Pixels without charge: predicted background (mode.mask_empty_pixels=True), "
        "in the loss (mode.optimizer.loss_charged_pixels_only=False)",
        *(f"  {line}" for line in class_scores.describe(scores)),
        *(f"  {name}: {value:.4f}" for name, value in means.items()),
        *totals(inferred.timings("inference"), [4, 1]),
    ]
    assert inferred.result == pytest.approx(means, rel=1e-6)


def test_confusion_of_inference(inferred):
    """Each plane's counts are all of its pixels, and give the table of metrics."""
    metrics = inferred.table("inference_metrics")
    for row, event in zip(inferred.table("inference_confusion"), metrics, strict=True):
        for plane in range(3):
            classes = ("background", "cosmic", "neutrino")
            counts = np.array(
                [[row[f"plane{plane}/{t}_as_{f}"] for f in classes] for t in classes]
            )
            assert counts.sum() == 16 * 24
            right = np.trace(counts) / counts.sum()
            assert event[f"plane{plane}/Total_Accuracy"] == pytest.approx(right)
            found, true = counts[:, 2].sum(), counts[2].sum()
            union = found + true - counts[2, 2]
            iou = counts[2, 2] / union if union else 1.0
            assert event[f"plane{plane}/Neutrino_IoU"] == pytest.approx(iou)


def test_io_test(runs):
    run = runs.read(run__iterations=3, run__minibatch_size=3, data__io_threads=2)
    step_s = run.timings("io")["step_s"]
    opened, started = run.messages[-8:-6]
    assert opened == "Reading 8 events of 16 x 24 pixels: 1 process of 2 threads"
    start_up = r"Start-up: [\d.]+s for the first 3 minibatches, which are in no rate"
    assert re.fullmatch(start_up, started)
    assert run.messages[-6:] == [
        *(f"{n}: time to fetch a minibatch: {s:.4f}s" for n, s in enumerate(step_s)),
        f"Total IO Time: {step_s.sum():.4f}s",
        "Total images read per batch: 3",
        f"Average Image IO Throughput: {9 / step_s.sum():.3f} images/s",
    ]


def test_the_file_of_the_log_has_the_lines_with_time_and_level(
    runs, tmp_path, monkeypatch
):
    monkeypatch.setattr(main.report, "write_after_run", lambda folder: None)
    main.run(runs.config("iotest", tmp_path, run__iterations=1))
    text = (tmp_path / "process.log").read_text().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - INFO - "
    assert sum(line.endswith(f"Launch arguments: {shlex.join(sys.argv)}") for line in (
        text
    )) == 1  # fmt: skip
    step_s = float(np.load(tmp_path / "profiles/io_timings.npy")["step_s"][0])
    expected = f"0: time to fetch a minibatch: {step_s:.4f}s"
    assert [bool(re.fullmatch(stamp + expected, line)) for line in text].count(
        True
    ) == 1
