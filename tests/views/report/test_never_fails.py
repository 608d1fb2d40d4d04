"""A run that has ended well ends well, whatever its page meets."""

import os
import pathlib

import numpy as np
import pytest

from ctjax import main
from ctjax.views import report
from ctjax.views.report import records
from tests.support import tiny


def make_fifo(path):
    os.mkfifo(path)


FOREIGN = {
    "train_metrics.csv": [b"", b"\xff\xfe", b"step,loss\n0,1\n", bytes(99), make_fifo],
    "inference_metrics.csv": [b"entry\n0\n", b"\x80,1\n2,3\n", os.mkdir],
    "inference_confusion.csv": [b"a,b\n1,2\n", b"entry\nx\n"],
    "train_config.json": [b"", b"[1]", b'{"config": 3}', b"\xff", b"[" * 9999],
    "inference_config.json": [b'{"config": {"data": 7}}', b"null"],
    "profiles/train_timings.npy": [b"", b"\x93NUMPY", b"no array", make_fifo],
}


@pytest.mark.parametrize(
    "name, content", [(n, c) for n, contents in FOREIGN.items() for c in contents]
)
def test_foreign_files_are_a_line_at_most(tmp_path, caplog, name, content):
    caplog.set_level("INFO", "ctjax")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    report.write_after_run(str(tmp_path))
    (line,) = caplog.messages
    assert line.startswith(("No report page: ", "Report page: "))
    assert "\n" not in line


def test_arrays_of_another_kind_are_named(tmp_path):
    (tmp_path / "profiles").mkdir()
    path = tmp_path / "profiles/io_timings.npy"
    for array in (np.zeros(3), np.float64(1), np.zeros(2, [("step_s", "f8")])):
        np.save(path, array)
        with pytest.raises(records.ReportError, match=f"{path}: expected timings"):
            records.read_record(str(tmp_path))


@pytest.mark.parametrize(
    "error", [RuntimeError("Could not determine\nhome directory."), MemoryError()]
)
def test_any_error_leaves_the_status_and_one_line(tmp_path, monkeypatch, capsys, error):
    """Such as Bokeh's, which wants a home directory."""

    def read_record(folder):
        raise error

    page = pytest.importorskip("ctjax.views.report.page")
    monkeypatch.setattr(page, "read_record", read_record)
    flags = tiny.flags(tmp_path, mode__name="iotest", run__iterations=1)
    assert main.main(flags) == 0
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if "No report page: " in line]
    assert len(lines) == 1 and err == ""
    assert lines[0].endswith(("home directory.", "MemoryError"))
    log = pathlib.Path(tmp_path / "process.log").read_text(encoding="utf-8")
    assert log.count("No report page") == 1


def test_a_name_that_is_no_text_has_a_page(tmp_path):
    page = pytest.importorskip("ctjax.views.report.page")
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "train_config.json").write_text('{"config": {"x": 1}}')
    page.write([str(folder)], str(tmp_path / "page.html"))
    assert "caf\\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")
