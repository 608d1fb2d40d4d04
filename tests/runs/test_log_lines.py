"""Whole lines of the log, put together from the tables and the timings of the run."""

import re

import numpy as np
import pytest

from ctjax import main
from ctjax.base.constants import METRIC_NAMES

pytestmark = pytest.mark.xdist_group("runs_of_log_lines")

SHOWN = ("Average/Non_Bkg_Accuracy", "Average/mIoU")


def values(names, row):
    return ", ".join(f"{name}: {row[name]:.4g}" for name in names)


def speed(images, timing):
    """What follows the metrics: images a second, seconds of waiting, seconds."""
    wait_s, step_s = timing["wait_s"], timing["step_s"]
    return f"({images / step_s:.3g} Img/s / {wait_s:.2g} IO s / {step_s:.2g} step s)"


def lines(run, start):
    return [message for message in run.messages if message.startswith(start)]


def totals(timings, images):
    """The four closing lines of the competition's guide."""
    step_s = timings["step_s"]
    result = [f"Total time to batch_process: {step_s.sum():.4f}"]
    for words, rest in (
        ("except first iteration", step_s[1:]),
        ("except first two iterations", step_s[2:]),
        ("last 40 iterations", step_s[-40:] if len(step_s) > 40 else []),
    ):
        if len(rest):
            throughput = len(rest) * images / sum(rest)
            result.append(
                f"Total time to batch process {words}: {sum(rest):.4f}, "
                f"throughput: {throughput:.4f}"
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
    expected = totals(trained.timings("train"), 8)
    assert len(expected) == 4
    assert lines(trained, "Total time to batch") == expected
    assert trained.messages[-4:] == expected


def test_steps_of_inference(inferred):
    table = inferred.table("inference_metrics")
    timings = inferred.timings("inference")
    expected = []
    for step, rows in enumerate((table[:4], table[4:])):
        means = {name: np.mean([row[name] for row in rows]) for name in SHOWN}
        expected.append(
            f"ana Step {step} metrics: {values(SHOWN, means)} {speed(4, timings[step])}"
        )
    assert lines(inferred, "ana Step") == expected


def test_report_of_inference(inferred):
    table = inferred.table("inference_metrics")
    assert [row["entry"] for row in table] == [3, 4, 5, 6, 7]
    means = {name: np.mean([row[name] for row in table]) for name in METRIC_NAMES}
    at = inferred.messages.index("Inference report: 2 batches processed for 5 entries.")
    assert inferred.messages[at + 1 :] == [
        "  Pixels without charge: predicted background (mode.mask_empty_pixels=True), "
        "in the loss (mode.optimizer.loss_charged_pixels_only=False)",
        *(f"  {name}: {value:.4f}" for name, value in means.items()),
        *totals(inferred.timings("inference"), 4),
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
    assert run.messages[-7:] == [
        "Reading 8 events of 16 x 24 pixels: 1 process of 2 threads",
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
    step_s = float(np.load(tmp_path / "profiles/io_timings.npy")["step_s"][0])
    expected = f"0: time to fetch a minibatch: {step_s:.4f}s"
    assert [bool(re.fullmatch(stamp + expected, line)) for line in text].count(
        True
    ) == 1
