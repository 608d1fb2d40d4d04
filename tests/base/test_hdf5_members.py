"""What leads out of an HDF5 file is refused before the library can wait for it."""

import os
import signal
import struct

import h5py
import numpy as np
import pytest

from ctjax.base import hdf5_headers, hdf5_members
from ctjax.base.errors import UserError
from ctjax.commands import list_files, tensorflow_files
from ctjax.data.larcv import listing, repack, truth
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.larcv.file import LarcvFile
from ctjax.models.torch_weights import WeightsError
from ctjax.simulation.content_checksum import content_checksum
from ctjax.views import predicted
from tests.support import larcv_fixtures

ROWS = np.arange(6, dtype="u8").view([("first", "u8"), ("N", "u8")])


@pytest.fixture(autouse=True)
def alarm():
    """Whatever waits in the library cannot be interrupted: the signal ends all."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


def make_virtual(file, name, source, table="x"):
    """A table of any length, which the library knows from its source alone."""
    layout = h5py.VirtualLayout((3,), ROWS.dtype, maxshape=(None,))
    whole = slice(0, h5py.h5s.UNLIMITED)
    of = h5py.VirtualSource(source, table, (3,), ROWS.dtype, maxshape=(None,))
    layout[whole] = of[whole]
    file.create_virtual_dataset(name, layout)


def elsewhere(file, name, kind, fifo):
    """Puts something there that makes the library wait for a FIFO, or itself."""
    if kind == "external":
        file[name] = h5py.ExternalLink(fifo, "/x")
    elif kind == "chain":
        if not file.id.links.exists(b"away"):
            file["away"] = h5py.ExternalLink(fifo, "/")
        file[name] = h5py.SoftLink("/away/x")
    elif kind == "virtual":
        make_virtual(file, name, fifo)
    elif kind == "itself":
        make_virtual(file, name, ".", name)
    else:
        file.create_dataset(name, (3,), ROWS.dtype, external=[(fifo, 0, ROWS.nbytes)])


KINDS = ["external", "chain", "virtual", "itself", "rows"]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_elsewhere_is_refused(tmp_path, fifo, kind, libver):
    with h5py.File(tmp_path / "f.h5", "w", libver=libver) as file:
        elsewhere(file, "table", kind, fifo)
    found = f"a link to {fifo}"
    if kind in KINDS[2:]:
        found = "rows outside this file"
    with h5py.File(tmp_path / "f.h5") as file:
        with pytest.raises(hdf5_members.OutsideError, match=f"^{found}$"):
            hdf5_members.find(file, "table")
        with pytest.raises(hdf5_members.OutsideError, match=f"^{found} at "):
            list(hdf5_members.walk(file))


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_what_lies_in_the_file_is_found(tmp_path, libver):
    options = {"libver": libver, "track_order": True, "userblock_size": 512}
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", **options) as file:
        group = file.create_group("a/b")
        group["plain"] = ROWS
        group.create_dataset("chunks", data=ROWS, chunks=(2,), compression="gzip")
        for number in range(60):  # a header of several parts
            group["plain"].attrs[f"attribute{number}"] = "some words " * 9
        group["soft"] = h5py.SoftLink("/links/away/plain")
        file["links/away"] = h5py.SoftLink("/a/b")
        group["own"] = h5py.ExternalLink("f.h5", "/a/b/soft")
        group["nowhere"] = h5py.SoftLink("other/table")
        group["round"] = h5py.SoftLink("round")
        group["above"] = file["a"]
    with h5py.File(path) as file:
        group = file["a/b"]
        for name in ("plain", "chunks", "soft", "own"):
            np.testing.assert_array_equal(hdf5_members.find(group, name)[:], ROWS)
        assert hdf5_members.find(group, "absent") is None
        for name, found in {"nowhere": "a link to nowhere", "round": "than 16"}.items():
            with pytest.raises(hdf5_members.OutsideError, match=found):
                hdf5_members.find(group, name)
        names = [name for name, _ in hdf5_members.walk(file["a"])]
    assert names == ["b/chunks", "b/plain"]


def test_each_object_is_visited_once(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w", userblock_size=512) as file:
        group = file
        for _ in range(40):  # 2^40 paths
            group = group.create_group("one")
            group.parent["two"] = group
        group["table"] = ROWS
        group["twice"] = group["table"]
        group["root"] = file["/"]
    with h5py.File(tmp_path / "f.h5") as file:
        ((path, _),) = hdf5_members.walk(file)
    assert path == 40 * "one/" + "table"


def test_names_may_be_any_bytes(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file[b"caf\xe9/table"] = ROWS
        file["other"] = ROWS
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        names = [name for name, _ in hdf5_members.walk(file)]
        assert names == ["caf\\xe9/table", "other"]
        assert "table" in hdf5_members.find(file, b"caf\xe9")
        file[b"\xe9"] = h5py.ExternalLink(b"\xe9.h5", "/x")
        found = r"^a link to \\xe9.h5 at \\xe9$"
        with pytest.raises(hdf5_members.OutsideError, match=found):
            list(hdf5_members.walk(file))


def test_links_of_keras_files_are_passed_over(tmp_path, fifo):
    path = tmp_path / "f.weights.h5"
    with h5py.File(path, "w") as file:
        variables = file.create_group("layers/dense/vars")
        variables["0"] = np.ones(3, "f4")
        variables["1"] = variables["0"]
        variables["2"] = h5py.SoftLink("0")
        variables["3"] = h5py.ExternalLink(fifo, "/x")
        variables["nowhere"] = h5py.SoftLink("/nowhere")
        variables["above"] = h5py.SoftLink("/layers")
        file["layers/root"] = file["/"]
        file[b"caf\xe9"] = ROWS
    (array,) = tensorflow_files.read_keras(str(path)).values()
    assert array.tolist() == [1, 1, 1]


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_damaged_virtual_table_is_never_opened(tmp_path, libver, monkeypatch):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", libver=libver) as file:
        make_virtual(file, "table", ".", "table")
    content = path.read_bytes()
    assert b"GCOL" in content
    # Names and selections of the sources: the library reads them when it opens a table.
    begin, random = content.index(b"GCOL"), np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(random.integers(1, 5)):
            damaged[begin + random.integers(160)] = random.integers(256)
        path.write_bytes(damaged)
        with h5py.File(path) as file:
            with pytest.raises(hdf5_members.OutsideError, match="rows outside"):
                hdf5_members.find(file, "table")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_damaged_header_is_an_error(tmp_path, libver):
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("table", data=ROWS, chunks=(2,))
        address = file.id.links.get_info(b"table").u
    content, random = path.read_bytes(), np.random.default_rng(2)
    with open(path, "r+b") as raw, h5py.File(path) as file:
        for _ in range(2000):
            place = address + int(random.integers(300))
            raw.seek(place)
            raw.write(random.bytes(1))
            raw.flush()
            try:
                hdf5_headers.has_rows_elsewhere(file, address)
            except ValueError as error:
                assert "header" in str(error)
            raw.seek(place)
            raw.write(content[place : place + 1])
            raw.flush()
        assert not hdf5_headers.has_rows_elsewhere(file, address)
        with pytest.raises(ValueError, match="beyond the end"):
            hdf5_headers.has_rows_elsewhere(file, len(content) - 3)


def test_parts_of_a_header_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "f.h5"
    h5py.File(path, "w").close()
    end = path.stat().st_size

    def append(*places):
        """Writes a header of version 1 that goes on at these places behind the file."""
        header = struct.pack("<BBHII4x", 1, 0, len(places), 1, 24 * len(places))
        for place in places:
            header += struct.pack("<HHB3xQQ", 16, 16, 0, end + place, 24)
        path.write_bytes(path.read_bytes()[:end] + header + bytes(400))

    append(16)  # to itself
    with h5py.File(path) as file, pytest.raises(ValueError, match=r"header.* twice"):
        hdf5_headers.has_rows_elsewhere(file, end)
    append(200, 224, 248, 272)
    with h5py.File(path) as file:
        assert not hdf5_headers.has_rows_elsewhere(file, end)
        monkeypatch.setattr(hdf5_headers, "MAX_CHUNK_BYTES", 24 * 7)
        with pytest.raises(ValueError, match="header of 5 parts and 192 bytes"):
            hdf5_headers.has_rows_elsewhere(file, end)


@pytest.fixture
def larcv_path(tmp_path):
    path = str(tmp_path / "larcv.h5")
    return str(larcv_fixtures.write_larcv(path, larcv_fixtures.make_events()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["extents", "voxels"])
def test_no_reader_of_larcv_files_waits(larcv_path, tmp_path, fifo, kind, name):
    group = larcv_fixtures.IMAGE_GROUP
    with h5py.File(larcv_path, "r+") as file:
        del file[f"{group}/{name}"]
        elsewhere(file, f"{group}/{name}", kind, fifo)
    with pytest.raises(LarcvFileError, match=f"dataset {name}: found (rows|a link)"):
        LarcvFile(larcv_path)
    with pytest.raises(LarcvFileError, match=f"(file|fifo) at {group}/{name}|at away"):
        repack.repack(larcv_path, str(tmp_path / "new.h5"))
    lines = list_files.describe(listing.read(larcv_path), 80)
    assert f"dataset {name}: found" in " ".join(lines)
    with pytest.raises(UserError, match=r"outside|a link to"):
        content_checksum(larcv_path)


@pytest.mark.parametrize("kind", KINDS)
def test_other_tables_are_not_waited_for(larcv_path, tmp_path, fifo, kind):
    names = [
        f"Data/{truth.PARTICLE_GROUP}/extents",
        f"Data/sparse2d_{predicted.CLASS_PRODUCT}_group/voxels",
        "layers/dense/vars/0",
    ]
    with h5py.File(larcv_path, "r+") as file:
        for name in names:
            elsewhere(file, name, kind, fifo)
        for name in ("extents", "voxel_extents", "image_meta"):
            group = names[1].rpartition("/")[0]
            file[f"{group}/{name}"] = file[f"{larcv_fixtures.IMAGE_GROUP}/{name}"]
    with pytest.raises(LarcvFileError, match=r"found (rows outside|a link to)"):
        truth.read_neutrinos([larcv_path])
    with pytest.raises(predicted.EventViewError, match=r"outside|a link to"):
        predicted.read_planes(larcv_path, 0)
    with pytest.raises(WeightsError, match=r"outside|no variables"):
        tensorflow_files.read_keras(larcv_path)
