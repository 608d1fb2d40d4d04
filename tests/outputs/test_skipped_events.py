"""Events that are skipped: rows, averages, log and table."""

import csv
import dataclasses
import types

import numpy as np
import pytest

from ctjax.base.detector import Detector
from ctjax.config.choices import OnBadEvent
from ctjax.data.minibatch import HostMinibatch
from ctjax.outputs import skipped_events
from ctjax.outputs.inference_reports import InferenceReports
from ctjax.processes.join import SINGLE_PROCESS
from ctjax.views import skipped
from tests.support import tiny

ONE = Detector(1, ("background", "muon"), ("#000000", "#0072B2"))


def source_of(bad_events, file="a.h5", num_events=6):
    return types.SimpleNamespace(
        detector=ONE,
        has_label=True,
        num_events=num_events,
        bad_events=bad_events,
        event_id=lambda entry: np.array([7, 1, 100 + entry]),
        file_of=lambda entry: file,
    )


def config_of(folder, **changes):
    config = tiny.make(folder, mode__name="inference", run__iterations=None, **changes)
    data = dataclasses.replace(config.data, on_bad_event=OnBadEvent.SKIP)
    return dataclasses.replace(config, data=data)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def said(caplog):
    caplog.set_level("INFO", "ctjax")
    return caplog


def infer(folder, source, counted):
    """Reports an inference of two minibatches of two events; returns its averages."""
    names = ONE.metric_names
    with InferenceReports(
        config_of(folder), source, 2, SINGLE_PROCESS, None
    ) as reports:
        with reports.timings.start_up():
            pass
        for number, mask in enumerate(counted):
            entries = 2 * number + np.arange(2)
            values = entries[:, None] + np.arange(len(names)) / 100
            results = {
                "metrics": values.astype(np.float32),
                "confusion": np.full((2, 1, 2, 2), 5, np.int32),
                "counted": np.array(mask, np.float32),
            }
            ids = np.zeros((2, 3), np.int64)
            minibatch = HostMinibatch(entries, ids, results["counted"])
            reports.timings.add_wait(0.0)
            reports.report_minibatch(minibatch, entries, results)
    return reports.report_averages()


def test_a_skipped_event_has_a_row_and_counts_nowhere(tmp_path, said):
    source = source_of({1: "a.h5: entry 1: found nothing, expected planes"})
    averages = infer(tmp_path, source, [[1, 0], [1, 1]])
    assert averages["Average/Total_Accuracy"] == pytest.approx((0 + 2 + 3) / 3)
    rows = rows_of(tmp_path / "inference_metrics.csv")
    assert [row["entry"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["event"] for row in rows] == ["100", "101", "102", "103"]
    unknown = [row["Average/mIoU"] == "nan" for row in rows]
    assert unknown == [False, True, False, False]
    counts = rows_of(tmp_path / "inference_confusion.csv")
    assert [row["plane0/muon_as_muon"] for row in counts] == ["5", "0", "5", "5"]
    (line,) = [m for m in said.messages if m.startswith("Skipped")]
    assert line.startswith("Skipped 1 event (data.on_bad_event=skip)")
    assert "entry 1: a.h5: entry 1: found nothing, expected planes" in line
    table = skipped.read_table(str(tmp_path / "inference_skipped.csv"))
    assert [(row["entry"], row["event"]) for row in table] == [("1", "101")]


def test_an_inference_of_skipped_events_alone_has_no_averages(tmp_path, said):
    source = source_of({0: "bad", 1: "bad"})
    assert infer(tmp_path, source, [[0, 0]]) == {}
    assert any("no metrics" in message for message in said.messages)


def test_the_first_few_are_named_and_those_of_other_processes(tmp_path, said):
    source = source_of({entry: f"reason {entry}" for entry in range(4)})
    skipped_events.report(config_of(tmp_path), source, [5, 3, 2, 1, 0])
    (line,) = said.messages
    assert "Skipped 5 events" in line and "entry 3: reason 3; and 1 more" in line
    rows = skipped.read_table(str(tmp_path / "inference_skipped.csv"))
    assert [row["entry"] for row in rows] == ["0", "1", "2", "3", "5"]
    assert rows[-1]["reason"] == skipped_events.ELSEWHERE


def test_a_training_that_goes_on_adds_to_its_table(tmp_path, said):
    config = config_of(tmp_path)
    mode = dataclasses.replace(config.mode, name=type(config.mode.name).TRAIN)
    config = dataclasses.replace(config, mode=mode)

    def report(bad_events, goes_on):
        source = source_of(bad_events)
        skipped_events.report_training(config, source, SINGLE_PROCESS, goes_on)
        table = skipped.read_table(str(tmp_path / "train_skipped.csv"))
        return [row["entry"] for row in table]

    assert report({4: "bad"}, False) == ["4"]
    assert report({2: "bad"}, True) == ["2", "4"]
    assert "Skipped 2 events" in said.messages[-1]
    assert report({2: "bad"}, False) == ["2"]
    assert report({}, False) == []
    assert not (tmp_path / "train_skipped.csv").exists()


def test_a_training_that_goes_on_with_other_files_forgets_what_it_has_skipped(
    tmp_path, said
):
    config = config_of(tmp_path)
    skipped_events.report(config, source_of({0: "bad", 1: "bad"}), [0, 1])
    other = source_of({}, "b.h5", num_events=1)
    skipped_events.report(config, other, [], goes_on=True)
    assert [message for message in said.messages if "Skipped" in message][1:] == []
    assert not (tmp_path / "inference_skipped.csv").exists()


@pytest.mark.parametrize(
    "content",
    ["", "entry,reason\n1,x\n", "\x00", ",".join(skipped.COLUMNS) + "\n1,2\n"],
)
def test_what_is_no_table_of_skipped_events_has_none(tmp_path, content):
    (tmp_path / "t.csv").write_text(content)
    assert skipped.read_table(str(tmp_path / "t.csv")) == []
