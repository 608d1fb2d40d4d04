"""What lies in another file, and index tables of signed numbers: refused, or right."""

import os
import shutil

import h5py
import numpy as np
import pytest

from ctjax.commands import repack as repack_command
from ctjax.data import sources
from ctjax.data.larcv import truth
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.larcv.file import LarcvFile
from tests.support import fuzz_io, larcv_fixtures
from tests.support.larcv_reads import check_reads, read_all

WIRE, SEGMENT = larcv_fixtures.IMAGE_GROUP, larcv_fixtures.LABEL_GROUP


@pytest.fixture
def events():
    return larcv_fixtures.make_events()


@pytest.fixture
def path(tmp_path, events):
    """Tables in one piece, whose bytes could be read wherever they lie."""
    path = tmp_path / "good.h5"
    options = {"voxel_chunk": None, "index_chunk": None, "filters": {}}
    return str(larcv_fixtures.write_larcv(path, events, **options))


def refusal(path, **options):
    """The one line with which both ways of reading refuse a file."""
    messages = set()
    for raw_chunks in (True, False):
        with pytest.raises(LarcvFileError) as caught:
            read_all(path, raw_chunks=raw_chunks, **options)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message and str(path) in message
    return message


NAMES = ["Events", "Data", "Events/event_id", WIRE, SEGMENT, f"{WIRE}/voxels"]
NAMES += [f"{SEGMENT}/{name}" for name in fuzz_io.TABLES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_chain", [False, True])
def test_a_link_to_another_file_is_refused(path, name, is_chain):
    other = fuzz_io.copy_with_other_content(path)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.ExternalLink(other, name)
        if is_chain:
            file.move(name, "moved")
            file[name] = h5py.SoftLink("/moved")
    message = refusal(path)
    last = name.rpartition("/")[2]
    assert message.endswith(f"found a link to {other}, expected {last} in this file")


@pytest.mark.parametrize("name", [WIRE, SEGMENT, f"{WIRE}/voxels", "Events"])
@pytest.mark.parametrize(
    "link", [h5py.ExternalLink("none.h5", "/x"), h5py.SoftLink("/nowhere")]
)
def test_a_link_to_nowhere_is_refused_and_not_taken_for_nothing(path, name, link):
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = link
    assert f"expected {name.rpartition('/')[2]} in this file" in refusal(path)


@pytest.mark.parametrize("name", NAMES)
def test_links_within_a_file_are_followed(path, events, name):
    with h5py.File(path, "r+") as file:
        file.move(name, "moved")
        file[name] = h5py.SoftLink("/moved")
        # Also by the file's own name.
        del file[name]
        file[name] = h5py.ExternalLink(os.path.basename(path), "/moved")
    check_reads(path, events)


@pytest.mark.parametrize("table", fuzz_io.TABLES)
@pytest.mark.parametrize("where", ["other", "same", "none"])
def test_virtual_tables_are_refused(path, table, where):
    other = fuzz_io.copy_with_other_content(path)
    with h5py.File(path, "r+") as file:
        name = f"{WIRE}/{table}"
        file.move(name, "kept")
        kept = file["kept"]
        source = {"other": (other, name), "same": (".", "kept"), "none": ("no.h5", "x")}
        layout = h5py.VirtualLayout(kept.shape, kept.dtype)
        layout[:] = h5py.VirtualSource(*source[where], kept.shape, kept.dtype)
        file.create_virtual_dataset(name, layout)
    assert "found rows outside this file" in refusal(path)


def test_rows_in_an_external_file_are_refused(path, tmp_path):
    with h5py.File(path, "r+") as file:
        rows = file[f"{WIRE}/voxels"][:]
        del file[f"{WIRE}/voxels"]
        rows.tofile(tmp_path / "rows.bin")
        file[WIRE].create_dataset(
            "voxels",
            rows.shape,
            rows.dtype,
            external=[(str(tmp_path / "rows.bin"), 0, rows.nbytes)],
        )
    assert "found rows outside this file" in refusal(path)


def test_repack_refuses_what_lies_elsewhere(path, tmp_path, capsys):
    other = fuzz_io.copy_with_other_content(path)
    with h5py.File(path, "r+") as file:
        del file[SEGMENT]
        file[SEGMENT] = h5py.ExternalLink(other, SEGMENT)
    assert repack_command.main([path, str(tmp_path / "new.h5")]) == 1
    assert f"found a link to {other}" in capsys.readouterr().err
    assert not (tmp_path / "new.h5").exists()


def signed(path, table, change):
    """Rewrites an index table of the charges with signed numbers, changed."""
    with h5py.File(path, "r+") as file:
        rows = file[WIRE][table][:]
        members = [
            (name, rows.dtype[name].base.str.replace("u", "i"), rows.dtype[name].shape)
            for name in rows.dtype.names
        ]
        other = np.zeros(len(rows), np.dtype(members, align=True))
        for name in rows.dtype.names:
            other[name] = rows[name]
        change(other)
        larcv_fixtures.replace_table(file, f"{WIRE}/{table}", other)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("table", ["extents", "voxel_extents", "image_meta"])
def test_signed_tables_are_read(path, events, table):
    signed(path, table, lambda rows: None)
    check_reads(path, events, strict=True)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("table", ["extents", "voxel_extents"])
@pytest.mark.parametrize("member", ["first", "N"])
def test_a_negative_number_is_refused(path, table, member):
    def change(rows):
        # The sum stays as it was.
        rows[member][1] += rows[member][0] + 3
        rows[member][0] = -3

    signed(path, table, change)
    message = refusal(path)
    assert f"dataset {table}: found {member} = -3 in row 0" in message


@pytest.mark.parametrize("number", [2**31, 2**61, 2**62])
def test_counts_whose_sum_begins_again_at_zero_are_refused(path, number):
    with h5py.File(path, "r+") as file:
        rows = file[WIRE]["voxel_extents"][:]
        wide = rows.astype([("first", "u8"), ("N", "u8"), ("ID", "u4")])
        wide["N"][:2] = 2**63 - number, number
        if number == 2**62:
            wide["N"][:4] = number
        larcv_fixtures.replace_table(file, f"{WIRE}/voxel_extents", wide)
    message = refusal(path)
    assert "voxel_extents" in message and "found N = " in message


def test_a_negative_row_is_no_particle(tmp_path, events):
    path = str(larcv_fixtures.write_larcv(tmp_path / "f.h5", events))
    particle = np.zeros(
        1, [("pdg", "i4"), ("energy_init", "f8"), ("current_type", "i2")]
    )
    particle["pdg"], particle["energy_init"] = 14, 2.0
    extents = np.zeros(5, [("first", "i8"), ("N", "i4")])
    extents["first"], extents["N"] = [0, -1, 1, 0, 0], [1, 1, 1, -1, 0]
    with h5py.File(path, "r+") as file:
        group = file.create_group(f"Data/{truth.PARTICLE_GROUP}")
        group["extents"], group["particles"] = extents, particle
    assert truth.read_neutrinos([path])["pdg"].tolist() == [14, 0, 0, 0, 0]
    with h5py.File(path, "r+") as file:
        del file[f"Data/{truth.PARTICLE_GROUP}/extents"]
    with pytest.raises(LarcvFileError, match="a readable Data/particle"):
        truth.read_neutrinos([path])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("limit", [1e6, 2e6, float("inf")])
def test_the_limit_of_charges(path, limit):
    with larcv_fixtures.changing(path, f"{WIRE}/voxels") as rows:
        rows["value"][-1] = -1.5e6
    if limit > 1.5e6:
        image, _ = read_all(path, charge_limit=limit)
        assert image.min() == -1.5e6
    else:
        message = refusal(path, charge_limit=limit)
        words = "found value -1500000.0 in plane 2, expected finite charges up to 1e+06"
        assert f"entry 4, product sbndwire, dataset voxels: {words}" in message
        assert "(data.charge_limit)" in message
    for value in (np.inf, np.nan):
        with larcv_fixtures.changing(path, f"{WIRE}/voxels") as rows:
            rows["value"][-1] = value
        assert f"found value {value} in plane 2" in refusal(path, charge_limit=limit)


def test_what_tells_files_of_one_name_apart(path, tmp_path, events):
    with sources.open_source(file=path) as source:
        ours = source.describe()
    shutil.copy(path, tmp_path / "copy.h5")
    os.utime(path, (1, 1))
    with sources.open_source(file=path) as source:
        assert source.describe() == ours
    expected = {
        f"{path}: bytes": os.path.getsize(path),
        f"{path}: events": 5,
        f"{path}: planes": [[0, 1, 2]],
        f"{path}: images": [[16, 24]] * 3,
        f"{path}: labels": True,
        "order of the files": [path],
    }
    assert expected.items() <= ours.items()

    def differences():
        with sources.open_source(file=path) as source:
            theirs = source.describe()
        shutil.copy(tmp_path / "copy.h5", path)
        return {n.removeprefix(f"{path}: ") for n in ours if ours[n] != theirs[n]}

    with larcv_fixtures.changing(path, "Events/event_id") as rows:
        rows["event"][2] = 7
    assert differences() == {"event ids", "content"}
    with larcv_fixtures.changing(path, f"{SEGMENT}/voxels") as rows:
        rows["value"][5] = (rows["value"][5] + 1) % 3
    assert differences() == {"content"}
    larcv_fixtures.write_larcv(path, events[:3], filters={})
    assert {"bytes", "events", "event ids", "voxels"} <= differences()


def test_a_large_file_is_sampled_from_end_to_end(tmp_path, monkeypatch):
    from ctjax.data.larcv import fingerprint

    monkeypatch.setattr(fingerprint, "STRETCH_BYTES", 4)
    (tmp_path / "f").write_bytes(bytes(range(100)))
    with open(tmp_path / "f", "rb") as file:
        read = fingerprint.sample(file.fileno(), 100, 13)
        assert read == bytes([0, 1, 2, 3, 48, 49, 50, 51, 96, 97, 98, 99])
        assert fingerprint.sample(file.fileno(), 100, 100) == bytes(range(100))
        assert fingerprint.sample(file.fileno(), 100, 0) == bytes(range(4))


def test_geometry_of_the_file(path, events):
    with larcv_fixtures.changing(path, f"{WIRE}/image_meta") as rows:
        rows["image_sizes"] = (12.0, 4.0)
        rows["origin"][:, 0] = np.arange(15) - 2.5
    with LarcvFile(path) as file:
        meta = file.plane_metas(2)[1]
        assert meta.number_of_voxels == (24, 16)
        assert (meta.image_sizes, meta.origin) == ((12.0, 4.0), (4.5, 0.0))
    with sources.open_source(file=path, downsample=2) as source:
        pooled = source.plane_metas(2)[1]
        assert pooled.number_of_voxels == (6, 4)
        assert (pooled.image_sizes, pooled.origin) == (meta.image_sizes, meta.origin)
    # Without geometry a pixel is the unit.
    with h5py.File(path, "r+") as file:
        rows = file[WIRE]["image_meta"][:]
        names = ["valid", "projection_id", "number_of_voxels"]
        kept = np.zeros(15, [(n, rows.dtype[n]) for n in names])
        for name in names:
            kept[name] = rows[name]
        larcv_fixtures.replace_table(file, f"{WIRE}/image_meta", kept)
    with LarcvFile(path) as file:
        (meta,) = set(file.plane_metas(0))
        assert (meta.image_sizes, meta.origin) == ((24.0, 16.0), (0.0, 0.0))


def test_geometry_of_a_plane_that_an_event_lacks(tmp_path, events):
    events[1] = events[1][:2]
    path = str(larcv_fixtures.write_larcv(tmp_path / "f.h5", events))
    with larcv_fixtures.changing(path, f"{WIRE}/image_meta") as rows:
        rows["origin"][:, 0] = rows["projection_id"]
    with LarcvFile(path) as file:
        assert [m.origin for m in file.plane_metas(1)] == [(0, 0), (1, 0), (2, 0)]
