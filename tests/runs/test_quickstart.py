"""The quickstart: simulated once, resumed, and its baselines worked by hand."""

import csv
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

import ctjax
from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.errors import ConfigError
from ctjax.config import resolve
from ctjax.data.larcv.file import LarcvFile, LarcvFileError
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter
from ctjax.runs import quickstart
from ctjax.simulation.benchmark_sets import BENCHMARK_SETS, BenchmarkFile
from ctjax.views.report import events as report_events
from ctjax.views.report import records
from tests.support import ROOT, detector_files, tiny

FILES = (BenchmarkFile("train", 5, 7), BenchmarkFile("validation", 3, 8))


@pytest.fixture
def few_events(tmp_path, monkeypatch):
    """Eight simulated events instead of 1,100, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(BENCHMARK_SETS, "quickstart", FILES)
    return tmp_path / "cache" / "ctjax" / "simulated"


def make(folder, **changes):
    options = {
        "mode__name": "quickstart",
        "data__synthetic": False,
        "data__file": None,
        "run__iterations": 3,
    }
    return tiny.make(folder, **(options | changes))


def test_simulates_trains_and_reports_then_goes_on(few_events, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ctjax")
    report = quickstart.run(make(tmp_path / "out", run__iterations=2))
    assert next(iter(report)) == "network after 2 steps" and len(report) == 3
    assert all(
        tuple(values) == COSMIC_TAGGER.metric_names for values in report.values()
    )
    trained, cosmic, _ = report.values()
    with open(tmp_path / "out" / "inference_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FILES[1].events
    for name in COSMIC_TAGGER.metric_names:
        mean = np.mean([float(row[name]) for row in rows])
        assert trained[name] == pytest.approx(mean, rel=1e-5)
    # No pixel is called neutrino: that is right, 1, in a plane without one, and else 0.
    with open(tmp_path / "out" / "inference_confusion.csv", newline="") as file:
        counts = list(csv.DictReader(file))
    for plane in range(3):
        names = [f"plane{plane}/neutrino_as_{name}" for name in COSMIC_TAGGER.classes]
        rights = [not any(float(row[name]) for name in names) for row in counts]
        assert cosmic[f"plane{plane}/Neutrino_IoU"] == pytest.approx(np.mean(rights))
    both = cosmic["Average/Cosmic_IoU"] + cosmic["Average/Neutrino_IoU"]
    assert cosmic["Average/mIoU"] == pytest.approx(both / 2)
    assert "means over the events of" in caplog.text
    for name in report:
        assert caplog.text.count(f"{name}  ") == 1
    assert "mode.mask_empty_pixels=" in caplog.text
    # Of each of the three predictions, and of the inference's own report.
    assert caplog.text.count(" neutrino: efficiency ") == 4
    said = [record.message for record in caplog.records]
    assert "min on two cores" in said[0] and said[1].startswith("Simulating 5 events")
    assert "Images per second, train: " in caplog.text
    record = records.read_record(str(tmp_path / "out"))
    assert record.option("inference", "data", "file") == record.option(
        "train", "data", "aux_file"
    )
    assert len(report_events.pack_events([record], 1)) == FILES[1].events

    paths = sorted(few_events.iterdir())
    assert [path.name for path in paths] == [
        "v1_seed7_5events.h5", "v1_seed8_3events.h5",
    ]  # fmt: skip
    for path, file in zip(paths, FILES, strict=True):
        with LarcvFile(path) as events:
            assert events.num_events == file.events
    made = [path.stat().st_mtime_ns for path in paths]

    caplog.clear()
    quickstart.run(make(tmp_path / "out"))
    assert "Restored step 2" in caplog.text and "train Step 2 " in caplog.text
    assert "train Step 1 " not in caplog.text
    caplog.clear()
    again = quickstart.run(make(tmp_path / "out"))
    assert "Step 3 of 3: done before" in caplog.text
    assert [*again][1:] == [*report][1:]
    assert [path.stat().st_mtime_ns for path in paths] == made

    def record(name):
        return json.loads((tmp_path / "out" / name).read_text("utf-8"))

    # Each inference keeps its own; a start that does nothing leaves those before it.
    for name in ("inference_config.json", "older_inferences/1/inference_config.json"):
        assert record(name)["ended"]["how"] == "finished"
    starts = record("train_config.json")["former_starts"]
    assert [s["steps"] for s in starts] == [
        {"first": 0, "end": 2}, {"first": 2, "end": 3},
    ]  # fmt: skip


def test_another_generator_makes_files_of_its_own(few_events, monkeypatch):
    first = quickstart.find_or_simulate(FILES[1])
    monkeypatch.setattr(quickstart, "GENERATOR_VERSION", 2)
    assert quickstart.find_or_simulate(FILES[1]) != first
    assert len(list(few_events.iterdir())) == 2


@pytest.mark.slow
def test_two_that_start_at_once_end_with_one_whole_file(few_events):
    code = (
        "from ctjax.runs import quickstart; "
        "from ctjax.simulation.benchmark_sets import BenchmarkFile; "
        "print(quickstart.find_or_simulate(BenchmarkFile('train', 9, 7)))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    (path,) = few_events.iterdir()
    assert [out.strip() for out, _ in answers] == [str(path)] * 2
    with LarcvFile(path, strict=True) as events:
        assert events.num_events == 9


def test_a_taken_name_without_a_file_is_an_error(few_events, monkeypatch):
    def fail(path, *arguments, **options):
        raise FileExistsError(f"output exists already: {path}")

    # The name is taken but no file is there: not the other run that was faster.
    monkeypatch.setattr(quickstart, "write_events", fail)
    with pytest.raises(FileExistsError, match="seed7"):
        quickstart.find_or_simulate(FILES[0])
    assert not list(few_events.iterdir())


@pytest.fixture
def known_file(tmp_path):
    """One event of 32 x 32 pixels, the same in all planes: 4 stored, charges 1 to 4.

    Background, cosmic, cosmic, neutrino.
    """
    return write_known(tmp_path / "known.h5")


def write_known(path, with_labels=True):
    ids = np.arange(0, 128, 32, dtype=np.uint64)
    charge = np.array([1, 2, 3, 4], np.float32)
    label = np.array([0, 1, 1, 2], np.float32)
    meta = PlaneMeta((32, 32), (32.0, 32.0), (0.0, 0.0))
    products = {"sbndwire": [(ids, charge)] * 3}
    if with_labels:
        products["sbnd_cosmicseg"] = [(ids, label)] * 3
    with LarcvWriter(path, [meta] * 3, tuple(products)) as writer:
        for number in range(3):
            writer.append((1, 1, number), products)
    return str(path)


def test_baselines_by_hand(known_file, tmp_path):
    config = make(
        tmp_path, data__file=known_file, data__aux_file=known_file,
        data__downsample=0, run__minibatch_size=2,
    )  # fmt: skip
    counted = quickstart.threshold_counts(config, known_file, [0.0, 1.0, 3.0, 9.0])
    assert counted.shape == (4, 3, 3, 3, 3)
    named = [quickstart.average(counts, COSMIC_TAGGER) for counts in counted]
    # Of 4, 3, 1 and 0 pixels called cosmic 2, 2, 0 and 0 are; there are 2.
    for values, iou in zip(named, (2 / 4, 2 / 3, 0, 0), strict=True):
        assert values["plane1/Cosmic_IoU"] == pytest.approx(iou)
        assert values["Average/Neutrino_IoU"] == 0
        assert values["Average/mIoU"] == pytest.approx(iou / 2)
    assert named[0]["Average/Non_Bkg_Accuracy"] == pytest.approx(2 / 3)
    assert named[0]["Average/Total_Accuracy"] == pytest.approx(1022 / 1024)

    threshold = quickstart.choose_threshold(config)
    everything, chosen = quickstart.baselines(config, threshold).items()
    assert everything[0] == "every pixel with charge cosmic"
    np.testing.assert_array_equal(everything[1], counted[0])
    assert 1 <= threshold < 2 and f"{threshold:.2g}" == chosen[0].split()[2]
    np.testing.assert_array_equal(chosen[1], counted[1])


def test_baselines_of_another_detector_are_its_metrics(tmp_path):
    shapes = ((16, 24), (8, 32))
    random = np.random.default_rng(0)
    events = [detector_files.make_event(random, shapes, (0, 1, 2, 3)) for _ in range(3)]
    path = detector_files.write(tmp_path / "others.h5", events, shapes)
    classes = "background,track,shower,michel"
    config = make(
        tmp_path / "out", data__file=path, data__aux_file=path,
        data__classes=classes, data__downsample=0, run__minibatch_size=2,
    )  # fmt: skip
    (counted,) = quickstart.threshold_counts(config, path, [50.0])
    detector = Detector(2, tuple(classes.split(",")), ("#000000",) * 4)
    found = quickstart.average(counted, detector)
    opened = ctjax.open(path, classes=classes)
    each = [ctjax.metrics(1 * (e.charge > 50), e.label, opened.classes) for e in opened]
    for name, value in found.items():
        mean = np.mean([values[name.removeprefix("Average/")] for values in each])
        assert value == pytest.approx(mean)
    assert "plane1/Michel_IoU" in found
    name, _ = quickstart.baselines(config, quickstart.choose_threshold(config))
    assert name == "every pixel with charge track"


@pytest.mark.slow
def test_own_files_are_used_and_nothing_is_simulated(known_file, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "write_events", None)
    config = make(
        tmp_path / "out", data__file=known_file, data__aux_file=known_file,
        data__downsample=0, run__iterations=1,
    )  # fmt: skip
    assert len(quickstart.run(config)) == 3


@pytest.mark.slow
def test_a_file_of_real_events_is_gone_over_with_the_same_weights(
    known_file, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "ctjax")
    fields = {"data__file": known_file, "data__aux_file": known_file}
    fields |= {"data__downsample": 0, "run__iterations": 1}
    out = tmp_path / "out"
    quickstart.run(make(out, data__test_file=known_file, **fields))
    # The same events, weights and so results, under a heading and in a folder of their
    # own.
    kept = json.loads((out / "test_file" / "inference_config.json").read_text())
    assert kept["weights"]["from"].startswith(f"{out}, step 1")
    name = "inference_confusion.csv"
    assert (out / "test_file" / name).read_bytes() == (out / name).read_bytes()
    heading = f"Quickstart report: means over the events of {known_file}"
    assert caplog.text.count(heading) == 2
    assert caplog.text.count("every pixel with charge cosmic\n") == 2
    assert "Quickstart report" in caplog.text.partition("data.test_file=")[2]
    assert "<h2>Events" in (out / "test_file" / "report.html").read_text()
    # Without true classes there are pictures and predictions.
    caplog.clear()
    other = write_known(tmp_path / "other.h5", with_labels=False)
    report = quickstart.run(make(out, data__test_file=other, **fields))
    assert len(report) == 3
    assert "No labels in the data: no metrics" in caplog.text
    assert caplog.text.count("every pixel with charge cosmic\n") == 1
    assert (out / "test_file" / "predictions.h5").exists()
    assert "<h2>Events" in (out / "test_file" / "report.html").read_text()
    assert (out / "test_file" / "older_inferences" / "1" / name).exists()


def test_a_file_of_real_events_is_missed_before_the_training(known_file, tmp_path):
    config = make(
        tmp_path / "out", data__file=known_file, data__aux_file=known_file,
        data__test_file=str(tmp_path / "real.h5"), data__downsample=0,
    )  # fmt: skip
    with pytest.raises(LarcvFileError, match=r"real\.h5"):
        quickstart.run(config)
    shapes = [(32, 32)] * 4
    event = detector_files.make_event(np.random.default_rng(1), shapes)
    detector_files.write(tmp_path / "real.h5", [event], shapes)
    with pytest.raises(ConfigError, match=r"test_file=.*found events of 4 planes, exp"):
        quickstart.run(config)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_configuration_asks_for_both_files_or_none(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.file, data\.aux_file"):
        make(tmp_path, data__file="a.h5")
    with pytest.raises(ConfigError, match=r"data\.file, data\.aux_file"):
        make(tmp_path, data__aux_file="a.h5")
    with pytest.raises(ConfigError, match=r"data\.synthetic"):
        make(tmp_path, data__synthetic=True)
    with pytest.raises(ConfigError, match=r"data\.file"):
        resolve.resolve({"data": {"file": None}})


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from ctjax import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to set")
def test_a_full_disk_is_one_line_and_leaves_no_file_in_the_cache(tmp_path):
    result = subprocess.run(
        [
            sys.executable, "-c", LIMITED, "--config", "configs/quickstart.py",
            f"--config.output_dir={tmp_path / 'out'}",
        ],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ctjax: error: ") and "_seed30001_" in last
    assert "Traceback" not in result.stdout + result.stderr
    assert not list((tmp_path / "cache" / "ctjax" / "simulated").iterdir())
