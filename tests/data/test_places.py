"""Odd places of data files: FIFOs, brackets, very many, and sizes that are claimed."""

import os

import h5py
import numpy as np
import pytest

from ctjax.base import descriptors
from ctjax.data import native, sources
from ctjax.data.larcv import index, tables
from ctjax.data.larcv.file import LarcvFile, LarcvFileError
from tests.support import larcv_fixtures
from tests.support.larcv_fixtures import IMAGE_GROUP


@pytest.fixture
def path(tmp_path):
    return larcv_fixtures.write_larcv(
        tmp_path / "good.h5", larcv_fixtures.make_events(2)
    )


@pytest.mark.parametrize(
    "make, kind",
    [(os.mkfifo, "a FIFO"), (os.mkdir, "a folder"), (None, "a device")],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, make, kind):
    path = "/dev/zero" if make is None else str(tmp_path / "odd.h5")
    if make is not None:
        make(path)
    with pytest.raises(LarcvFileError, match=f"{path}: found {kind}, expected a reg"):
        LarcvFile(path)


def test_folders_with_brackets_stand_for_themselves(tmp_path, path):
    folder = tmp_path / "run[1]" / "a b~"
    folder.mkdir(parents=True)
    for name in ("x1.h5", "x2.h5", "x[3].h5"):
        os.link(path, folder / name)
    found = sources.find_files([f"{folder}/*.h5"])
    assert [os.path.basename(name) for name in found] == ["x1.h5", "x2.h5", "x[3].h5"]
    assert sources.find_files([f"{folder}/x[12].h5"]) == [
        f"{folder}/x1.h5",
        f"{folder}/x2.h5",
    ]
    assert sources.find_files([f"{folder}/x[3].h5"]) == [f"{folder}/x[3].h5"]
    # Where no folder has that very name, it is a pattern.
    (tmp_path / "other1").mkdir()
    os.link(path, tmp_path / "other1/x.h5")
    assert sources.find_files([f"{tmp_path}/other[12]/*.h5"]) == [
        f"{tmp_path}/other1/x.h5"
    ]


def test_more_files_than_descriptors_are_one_line(path, monkeypatch):
    asked = []

    def find_shortage(count):
        asked.append(count)
        return "found a limit"

    monkeypatch.setattr(descriptors, "find_shortage", find_shortage)
    with pytest.raises(LarcvFileError, match=r"^1 data files: found a limit$"):
        sources.open_source(file=path)
    assert asked == [2]


def test_a_size_that_no_detector_has_is_refused(path):
    group = f"{IMAGE_GROUP}/image_meta"
    with larcv_fixtures.changing(path, group) as rows:
        rows["number_of_voxels"] = [2**13, 2**14]
    with pytest.raises(LarcvFileError, match=rf"1 to {2**26} pixels"):
        LarcvFile(path)
    assert index.MAX_PIXELS == 2**26 and tables.MAX_ROWS == 2**26


def test_tables_that_claim_very_many_rows_are_refused(path):
    with h5py.File(path, "r+") as file:
        file["Events/event_id"].resize((2**26 + 1,))
    expected = f"event_id: found {2**26 + 1} rows, expected at most {2**26}"
    with pytest.raises(LarcvFileError, match=expected):
        LarcvFile(path)


@pytest.mark.skipif(
    native.routines is None,
    reason="native.c is not built: pip install -e . with a C compiler",
)
@pytest.mark.parametrize(
    "shape, downsample", [((5, 8), 1), ((8, 5), 1), ((8, 8), 4), ((8, 8), -1)]
)
def test_shapes_that_cells_do_not_divide_are_not_pooled_in_c(shape, downsample):
    ids = np.arange(shape[0] * shape[1], dtype=np.int32)
    planes = (slice(0, len(ids)),)
    values = np.ones(len(ids), np.float32), np.ones(len(ids), np.uint8)
    assert native.pool(ids, planes, *values, shape, downsample) is None


@pytest.mark.slow
def test_six_hundred_files_are_read(tmp_path, path):
    for number in range(600):
        os.link(path, tmp_path / f"e{number:03}.h5")
    with sources.open_source(file=f"{tmp_path}/e*.h5") as source:
        assert source.num_events == 1200
        assert len(source.read_sparse(1199)) == 3
