import contextlib
import csv
import logging
import os

import numpy as np
import pytest

from ctjax.config import fields
from ctjax.outputs import log, metrics_table


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_table_keeps_the_rows_before_a_step_and_goes_on(tmp_path):
    path = str(tmp_path / "train_metrics.csv")
    table = metrics_table.MetricsTable(path, ("step", "loss"))
    for step in range(5):
        table.write([step, step / 3])
    table.close()
    table = metrics_table.MetricsTable(path, ("step", "loss"), before=3)
    table.write([3, 9.0])
    table.close()
    assert [row[0] for row in rows(path)] == ["step", "0", "1", "2", "3"]
    assert rows(path)[2][1] == "0.3333333"
    assert rows(path)[4][1] == "9"


def reopened(path, *columns):
    metrics_table.MetricsTable(str(path), columns, before=9).close()
    return rows(path)


def test_table_of_other_columns_or_cut_rows_is_not_mixed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("step,loss\n0,1\n1")
    assert reopened(path, "step", "loss") == [["step", "loss"], ["0", "1"]]
    assert os.listdir(tmp_path) == ["t.csv"]
    assert reopened(path, "step", "other") == [["step", "other"]]
    assert rows(f"{path}.damaged") == [["step", "loss"], ["0", "1"]]


def test_rows_of_a_table_without_the_last_columns_are_kept(tmp_path, caplog):
    path = tmp_path / "t.csv"
    path.write_text("step,loss\n0,1.5\n1,2\n2,3")
    for _ in range(2):  # with the columns the second time
        columns = ("step", "loss", "time_s", "grad_norm")
        table = metrics_table.MetricsTable(str(path), columns, before=9, may_lack=2)
        table.close()
        assert rows(path)[1:] == [["0", "1.5", "nan", "nan"], ["1", "2", "nan", "nan"]]
    assert rows(path)[0] == ["step", "loss", "time_s", "grad_norm"]
    assert not caplog.records and os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize(
    "content, kept",
    [
        (b"step,loss\n0,1\n\xff\xfe\n2,3\n", ["0", "2"]),
        (b"step,loss\n0,1\n1,2,3\n2,x\n3,nan\n", ["0", "3"]),
        (b"step,loss\n0,1\n" + bytes(50) + b"\n2,3\n", ["0", "2"]),
        (bytes(300), []),
        (b"step,loss\n" + b'"' + b"x" * 200_000 + b'",1\n', []),
        (b"of another program", []),
    ],
)
def test_a_damaged_table_is_moved_aside_and_its_good_rows_kept(
    tmp_path, caplog, content, kept
):
    path = tmp_path / "train_metrics.csv"
    path.write_bytes(content)
    (tmp_path / "train_metrics.csv.damaged").write_text("of an earlier time")
    assert [row[0] for row in reopened(path, "step", "loss")] == ["step", *kept]
    (line,) = caplog.messages
    assert line.startswith(f"{path}: found ")
    assert f"moved to {path}.damaged-1, and {len(kept)} rows kept" in line
    assert (tmp_path / "train_metrics.csv.damaged-1").read_bytes() == content


def test_what_is_no_file_is_moved_aside(tmp_path, caplog):
    os.mkfifo(tmp_path / "t.csv")
    assert reopened(tmp_path / "t.csv", "step", "loss") == [["step", "loss"]]
    assert "found no regular file" in caplog.text


def test_names_that_are_no_text_are_logged(tmp_path):
    log.start_logging(str(tmp_path))
    log.logger.info("%s: \u2026", os.fsdecode(b"caf\xe9"))
    log.stop_logging()
    line = (tmp_path / "process.log").read_text(encoding="utf-8")
    assert line.endswith("caf\\udce9: \u2026\n")


def test_totals_in_the_guides_words(caplog):
    log.logger.propagate = True
    with caplog.at_level(logging.INFO, "ctjax"):
        log.log_totals(np.array([10.0, 4.0, *[2.0] * 48]), 8)
    assert caplog.messages == [
        "Total time to batch_process: 110.0000",
        "Total time to batch process except first iteration: 100.0000, "
        "throughput: 3.9200",
        "Total time to batch process except first two iterations: 96.0000, "
        "throughput: 4.0000",
        "Total time to batch process last 40 iterations: 80.0000, throughput: 4.0000",
    ]


def test_totals_count_the_images_that_exist_and_the_start_up_once(caplog):
    log.logger.propagate = True
    with caplog.at_level(logging.INFO, "ctjax"):
        log.log_totals(np.array([2.0, 4.0, 4.0]), np.array([4, 4, 1]), 30.0)
    assert caplog.messages == [
        "Start-up (compilation): 30.0000, in the total time and in no step's rate",
        "Total time to batch_process: 40.0000",
        "Total time to batch process except first iteration: 8.0000, "
        "throughput: 0.6250",
        "Total time to batch process except first two iterations: 4.0000, "
        "throughput: 0.2500",
    ]


@pytest.mark.parametrize("steps, lines", [(1, 1), (2, 2), (3, 3), (40, 3), (41, 4)])
def test_totals_of_short_runs(caplog, steps, lines):
    log.logger.propagate = True
    with caplog.at_level(logging.INFO, "ctjax"):
        log.log_totals(np.ones(steps), 2)
    assert len(caplog.messages) == lines


def test_log_goes_to_the_file_time_and_level_first(tmp_path):
    log.start_logging(str(tmp_path))
    log.logger.info("first")
    log.stop_logging()
    log.start_logging(str(tmp_path))
    log.logger.warning("second")
    log.stop_logging()
    lines = (tmp_path / "process.log").read_text().splitlines()
    assert [line.split(" - ")[1:] for line in lines] == [
        ["INFO", "first"],
        ["WARNING", "second"],
    ]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_not_told_for_every_line(tmp_path, capfd):
    os.symlink("/dev/full", tmp_path / "process.log")
    log.start_logging(str(tmp_path))
    try:
        log.logger.info("first")
    finally:
        with contextlib.suppress(OSError):
            log.stop_logging()
    out, err = capfd.readouterr()
    assert "first" in out and err == ""
    assert logging.raiseExceptions  # of all other logs, which are not ours


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("only", [True, False])
def test_pixel_rules_name_what_is_done(masked, only):
    mode = fields.Mode(
        mask_empty_pixels=masked,
        optimizer=fields.Optimizer(loss_charged_pixels_only=only),
    )
    words = log.pixel_rules(mode)
    assert ("predicted background" in words) == masked
    assert f"mode.mask_empty_pixels={masked}" in words
    assert ("not in the loss" in words) == only
    assert f"loss_charged_pixels_only={only}" in words
