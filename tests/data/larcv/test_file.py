"""The reader: every situation of the table in docs/data-format.md, both read paths."""

import logging
import os
import shutil
import struct
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest

from ctjax.data.larcv import chunks
from ctjax.data.larcv.file import LarcvFile, LarcvFileError
from tests.support import larcv_fixtures
from tests.support.larcv_fixtures import FILTERS
from tests.support.larcv_reads import check_reads, read_all

WIRE, SEGMENT = larcv_fixtures.IMAGE_GROUP, larcv_fixtures.LABEL_GROUP
TABLES = ("extents", "voxel_extents", "image_meta", "voxels")

pytestmark = pytest.mark.usefixtures("loops")


@pytest.fixture
def events():
    return larcv_fixtures.make_events()


@pytest.fixture
def path(tmp_path, events):
    return str(larcv_fixtures.write_larcv(tmp_path / "good.h5", events))


def check_fails(path, *words, **options):
    """Both paths raise, one line that holds the path and all the words."""
    for raw_chunks in (True, False):
        with pytest.raises(LarcvFileError) as error:
            read_all(path, raw_chunks=raw_chunks, **options)
        message = str(error.value)
        assert "\n" not in message
        for word in (str(path), "found", "expected", *words):
            assert word in message


def test_good_file(path, events):
    check_reads(path, events, downsamples=(0, 1, 2, 3), strict=True)
    with LarcvFile(path) as file:
        assert (file.path, file.num_events) == (path, 5)
        assert file.plane_shapes == (larcv_fixtures.SHAPE,) * 3
        assert file.has_label
        assert file.event_ids.dtype == np.int64
        assert file.event_ids.tolist() == [[7, 1, 100 + e] for e in range(5)]
        with pytest.raises(IndexError):
            file.read_image(5)


def test_tiny_chunk_under_a_checksum_of_hdf5(tmp_path, events):
    # HDF5 2.0 itself does not survive reading one.
    filters = {"compression": "gzip", "fletcher32": True}
    for table in TABLES:
        path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, filters=filters)
        with h5py.File(path, "r+") as file:
            file[WIRE][table].id.write_direct_chunk((0,), b"x")
        check_fails(path, table, "chunk of 1 bytes")


def test_chunk_past_a_filter_next_to_an_absent_one(tmp_path, events):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, voxel_chunk=4)
    with h5py.File(path, "r+") as file:
        rows = file[WIRE]["voxels"][:]
        del file[WIRE]["voxels"]
        table = file[WIRE].create_dataset(
            "voxels", (len(rows),), rows.dtype, chunks=(4,), compression="gzip"
        )
        table.id.write_direct_chunk((0,), rows[:4].tobytes(), filter_mask=1)
        table[8:] = rows[8:]
    check_fails(path, "voxels", "a chunk at row 4", "entry 0")


def test_file_without_labels(tmp_path, events):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, with_label=False)
    image, label = read_all(path)
    np.testing.assert_array_equal(image, larcv_fixtures.dense_truth(events)[0])
    assert not label.any()
    with LarcvFile(path) as file:
        assert not file.has_label
        with pytest.raises(LarcvFileError, match="labels"):
            file.read_label(0)
    check_fails(path, "sbnd_cosmicseg", require_label=True)


@pytest.mark.parametrize("name", ["Events", "Data", "Events/event_id", WIRE])
def test_absent_group(path, name):
    with h5py.File(path, "r+") as file:
        del file[name]
    check_fails(path, name.rsplit("/", 1)[-1])


@pytest.mark.parametrize("product", [WIRE, SEGMENT])
@pytest.mark.parametrize("table", TABLES)
def test_absent_table(path, product, table):
    with h5py.File(path, "r+") as file:
        del file[product][table]
    check_fails(path, table, product.split("_", 1)[1].rsplit("_", 1)[0])


@pytest.mark.parametrize("change", [-1, 1])
def test_extents_of_other_length(path, change):
    with h5py.File(path, "r+") as file:
        file[WIRE]["extents"].resize((5 + change,))
    check_fails(path, "extents", f"{5 + change} rows", "sbndwire")


def test_image_meta_of_other_length(path):
    with h5py.File(path, "r+") as file:
        file[WIRE]["image_meta"].resize((14,))
    check_fails(path, "image_meta", "14 rows")


@pytest.mark.parametrize("table", ["extents", "voxel_extents"])
@pytest.mark.parametrize("member, value", [("first", 10**6), ("N", 10**6)])
def test_range_beyond_table(path, table, member, value):
    with larcv_fixtures.changing(path, f"{SEGMENT}/{table}") as rows:
        rows[member][3] = value
    entry = 3 if table == "extents" else 1
    check_fails(path, table, f"entry {entry}", "sbnd_cosmicseg")


def test_range_of_another_event(path):
    with larcv_fixtures.changing(path, f"{WIRE}/voxel_extents") as rows:
        rows["N"][2] += 1
    check_fails(path, "voxel_extents", "entry")


def test_first_marked_as_unset(path):
    with larcv_fixtures.changing(path, f"{WIRE}/extents") as rows:
        rows["first"][2] = 2**64 - 1
    check_fails(path, "extents", "18446744073709551615")


def test_event_of_no_projection(tmp_path, events):
    events[1] = events[0] = []
    check_reads(
        larcv_fixtures.write_larcv(tmp_path / "f.h5", events), events, strict=True
    )


def test_event_of_no_projection_in_place(path, events, caplog):
    with larcv_fixtures.changing(
        path, f"{WIRE}/extents", f"{SEGMENT}/extents"
    ) as tables:
        for rows in tables:
            rows["N"][2] = 0
    events[2] = []
    check_reads(path, events)
    assert "used by no event" in caplog.text
    check_fails(path, "row 6", strict=True)


def test_projection_of_no_voxels(tmp_path, events):
    assert len(events[1][2][0]) == 0
    events[3] = [(plane[0][:0], plane[1][:0], plane[2][:0]) for plane in events[3]]
    check_reads(
        larcv_fixtures.write_larcv(tmp_path / "f.h5", events), events, strict=True
    )


def test_missing_projection(tmp_path, events):
    events[2] = events[2][:2]
    check_reads(larcv_fixtures.write_larcv(tmp_path / "f.h5", events), events)


def test_planes_by_projection_id(path, events):
    names = [f"{p}/{t}" for p in (WIRE, SEGMENT) for t in ("image_meta",)]
    with larcv_fixtures.changing(path, *names) as tables:
        for rows in tables:
            rows["projection_id"][3:6] = [2, 0, 1]
    first, second, third = events[1]
    events[1] = [second, third, first]
    check_reads(path, events)
    check_fails(path, "ID", "entry 1", strict=True)


def test_one_plane_twice(path):
    with larcv_fixtures.changing(path, f"{WIRE}/image_meta") as rows:
        rows["projection_id"][7] = 0
    check_fails(path, "image_meta", "entry 2", "projection_id = 0 twice")


def test_unknown_plane(path):
    with larcv_fixtures.changing(path, f"{WIRE}/image_meta") as rows:
        rows["projection_id"][7] = 3
    check_fails(path, "image_meta", "entry 2", "projection_id = 3")


@pytest.mark.parametrize("member", ["first", "ID"])
def test_inconsistent_rows_follow_the_running_sum(path, events, member, caplog):
    with larcv_fixtures.changing(path, f"{WIRE}/voxel_extents") as rows:
        rows[member][4] = 1
        rows[member][5] = 99
    check_reads(path, events)
    assert f"found {member} = " in caplog.text
    check_fails(path, "voxel_extents", "entry 1", member, strict=True)


def test_events_with_the_same_voxels(path, events, caplog):
    with larcv_fixtures.changing(
        path, f"{WIRE}/extents", f"{SEGMENT}/extents"
    ) as tables:
        for rows in tables:
            rows["first"][4] = 0
    events[4] = events[0]
    check_reads(path, events)
    assert "same rows" in caplog.text
    check_fails(path, "extents", strict=True)


def test_events_out_of_order(path, events):
    with larcv_fixtures.changing(path, f"{WIRE}/extents") as rows:
        rows["first"][1:3] = [6, 3]
    check_fails(path, "extents", "entry 2", "order", strict=True)


def test_duplicate_ids(tmp_path, events, caplog):
    ids, values, classes = events[0][0]
    again = [0, 0, len(ids) - 1]
    events[0][0] = (
        np.append(ids, ids[again]),
        np.append(values, np.float32([1, 2, 3])),
        np.append(classes, [2, 1, 0]),
    )
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events)
    with caplog.at_level(logging.WARNING):
        check_reads(path, events, downsamples=(0, 1, 2))
    assert "found 3 duplicate ids" in caplog.text
    check_fails(path, "ascending", "entry 0", strict=True)


def test_unsorted_ids(tmp_path, events):
    random = np.random.default_rng(1)
    for planes in events:
        for plane, columns in enumerate(planes):
            order = random.permutation(len(columns[0]))
            planes[plane] = tuple(column[order] for column in columns)
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events)
    check_reads(path, events, downsamples=(0, 1, 2))
    check_fails(path, "ascending", strict=True)


@pytest.mark.parametrize("voxel", [16 * 24, 2**31, 2**32 + 5, 2**63, 2**64 - 1])
@pytest.mark.parametrize("product", [WIRE, SEGMENT])
def test_id_outside_image(path, product, voxel):
    with larcv_fixtures.changing(path, f"{product}/voxels") as rows:
        rows["id"][0] = voxel
    check_fails(path, "voxels", "entry 0", str(voxel), "0 to 383")


def test_invalid_meta(path):
    with larcv_fixtures.changing(path, f"{WIRE}/image_meta") as rows:
        rows["valid"][13] = 0
    check_fails(path, "image_meta", "entry 4", "valid = 0")


def test_shape_differs_between_events(path):
    with larcv_fixtures.changing(path, f"{WIRE}/image_meta") as rows:
        rows["number_of_voxels"][9] = [24, 32]
    check_fails(path, "image_meta", "entry 3", "[24, 32]", "[24, 16]")


def test_shape_differs_between_products(path):
    with larcv_fixtures.changing(path, f"{SEGMENT}/image_meta") as rows:
        rows["number_of_voxels"] = [48, 16]
    check_fails(path, "image_meta", "sbnd_cosmicseg", "16 x 48", "16 x 24")


@pytest.mark.parametrize("shape", [[0, 16], [2**40, 2**40], [2**64 - 1, 16]])
def test_impossible_shape(path, shape):
    with larcv_fixtures.changing(
        path, f"{WIRE}/image_meta", f"{SEGMENT}/image_meta"
    ) as tables:
        for rows in tables:
            rows["number_of_voxels"] = shape
    check_fails(path, "image_meta", "number_of_voxels")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7])
def test_value_not_finite(path, value):
    with larcv_fixtures.changing(path, f"{WIRE}/voxels") as rows:
        rows["value"][-1] = value
    check_fails(path, "voxels", "entry 4", str(value), "finite")


@pytest.mark.parametrize("value", [-999.0, 0.0, -3.5, 1e-40])
def test_no_value_is_a_mark(path, events, value):
    with larcv_fixtures.changing(path, f"{WIRE}/voxels") as rows:
        rows["value"][2] = value
    events[0][0][1][2] = value
    check_reads(path, events)


@pytest.mark.parametrize("value", [3.0, 0.5, -1.0, 256.0, np.nan])
def test_label_that_is_no_class(path, value):
    with larcv_fixtures.changing(path, f"{SEGMENT}/voxels") as rows:
        rows["value"][0] = value
    check_fails(path, "voxels", "entry 0", "sbnd_cosmicseg", "classes 0 to 2")


def test_no_events(tmp_path):
    check_fails(
        larcv_fixtures.write_larcv(tmp_path / "f.h5", []), "event_id", "no events"
    )


def test_other_groups_are_ignored(path, events):
    with h5py.File(path, "r+") as file:
        for name in (
            "junk",
            "two_parts",
            "a_b_set",
            "sparse9d_x_group",
            "image2d__group",
        ):
            file["Data"].create_group(name)
        file["Data"].attrs["note"] = "anything"
        file.create_dataset("more", data=[1, 2, 3])
    check_reads(path, events, strict=True)


@pytest.mark.parametrize(
    "voxel_type",
    [
        np.dtype([("id", "u8"), ("value", "f4")]),
        np.dtype([("value", "f8"), ("id", "u4")], align=True),
        np.dtype([("id", "i8"), ("value", "f4"), ("more", "f8")], align=True),
        np.dtype([("id", "u2"), ("value", "f8")], align=True),
        np.dtype([("id", ">u8"), ("value", ">f4")]),
    ],
    ids=["packed", "reordered", "more", "narrow", "big-endian"],
)
def test_voxels_of_other_layout(tmp_path, events, voxel_type):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, voxel_type=voxel_type)
    check_reads(path, events, strict=True)


def test_index_tables_of_other_types(path, events):
    with h5py.File(path, "r+") as file:
        for product in (WIRE, SEGMENT):
            meta = file[product]["image_meta"][:]
            other = np.zeros(
                len(meta),
                [
                    ("number_of_voxels", "i4", 2),
                    ("projection_id", "i2"),
                    ("valid", "?"),
                ],
            )
            for name in other.dtype.names:
                other[name] = meta[name]
            larcv_fixtures.replace_table(file, f"{product}/image_meta", other)
            rows = file[product]["voxel_extents"][:]
            old = np.zeros(len(rows), [("first", "u4"), ("ID", "u4"), ("N", "u4")])
            for name in old.dtype.names:
                old[name] = rows[name]
            larcv_fixtures.replace_table(
                file, f"{product}/voxel_extents", old, chunk=None
            )
    check_reads(path, events, strict=True)


@pytest.mark.parametrize("table, member", [("voxels", "value"), ("extents", "N")])
def test_member_of_another_name(path, table, member):
    with h5py.File(path, "r+") as file:
        rows = file[WIRE][table][:]
        names = [n if n != member else "other" for n in rows.dtype.names]
        kinds = [rows.dtype[n] for n in rows.dtype.names]
        other = np.zeros(len(rows), list(zip(names, kinds, strict=True)))
        larcv_fixtures.replace_table(file, f"{WIRE}/{table}", other)
    check_fails(path, table, f"a member {member}")


@pytest.mark.parametrize(
    "voxel_type",
    [
        [("id", "f8"), ("value", "f4")],
        [("id", "u8"), ("value", "i4")],
        [("id", "u8"), ("value", "S4")],
        [("id", "u8", 2), ("value", "f4")],
    ],
)
def test_member_of_wrong_kind(path, voxel_type):
    with h5py.File(path, "r+") as file:
        rows = np.zeros(len(file[WIRE]["voxels"]), voxel_type)
        larcv_fixtures.replace_table(file, f"{WIRE}/voxels", rows)
    check_fails(path, "voxels", "of type")


def test_member_at_odd_offset(path):
    # Reading what lies between members would give zeros.
    odd = np.dtype(
        {"names": ["id", "value"], "formats": ["u8", "f4"], "offsets": [0, 12]}
    )
    with h5py.File(path, "r+") as file:
        larcv_fixtures.replace_table(
            file, f"{WIRE}/voxels", file[WIRE]["voxels"][:].astype(odd)
        )
    check_fails(path, "voxels", "byte 12")


@pytest.mark.parametrize("data", [np.zeros(5), np.zeros((5, 2), larcv_fixtures.VOXEL)])
def test_table_of_wrong_form(path, data):
    with h5py.File(path, "r+") as file:
        del file[WIRE]["voxels"]
        file[WIRE]["voxels"] = data
    check_fails(path, "voxels", "one dimension")


@pytest.mark.parametrize("name", FILTERS)
def test_filters(tmp_path, events, name):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, filters=FILTERS[name])
    check_reads(path, events, strict=True)
    with LarcvFile(path) as file:
        raw = file._readers["sbndwire"].is_raw
    assert raw == (name not in ("lzf", "fletcher32"))


@pytest.mark.parametrize("chunk", [5, 32, 100_000])
def test_gzip_before_shuffle(tmp_path, events, chunk):
    path = str(larcv_fixtures.write_larcv(tmp_path / "f.h5", events))
    with h5py.File(path, "r+") as file:
        voxels = file[WIRE]["voxels"]
        rows, type_of_file = voxels[:], voxels.id.get_type()
        del file[WIRE]["voxels"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((chunk,))
        properties.set_deflate(1)
        properties.set_shuffle()
        space = h5py.h5s.create_simple(rows.shape, (h5py.h5s.UNLIMITED,))
        table = h5py.Dataset(
            h5py.h5d.create(
                file[WIRE].id, b"voxels", type_of_file, space, dcpl=properties
            )
        )
        table[:] = rows
    check_reads(path, events, strict=True)
    with h5py.File(path, "r+") as file:
        table = file[WIRE]["voxels"]
        stored = zlib.compress(bytes(16 * (chunk - 1)))
        table.id.write_direct_chunk((0,), stored, filter_mask=0b10)
    check_fails(path, "voxels", "entry 0", f"chunk of {16 * (chunk - 1)} bytes")


@pytest.mark.parametrize("chunk", [None, 1, 7, 100_000])
def test_chunks(tmp_path, events, chunk):
    filters = {} if chunk is None else None
    path = larcv_fixtures.write_larcv(
        tmp_path / "f.h5", events, voxel_chunk=chunk, filters=filters, index_chunk=chunk
    )
    check_reads(path, events, strict=True)


def test_new_format_user_block_and_pages(tmp_path, events):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, libver="latest")
    check_reads(path, events, strict=True)
    for number, layout in enumerate(
        ({"userblock_size": 512}, {"fs_strategy": "page", "fs_page_size": 4096})
    ):
        other = tmp_path / f"{number}.h5"
        with h5py.File(other, "w", **layout) as target, h5py.File(path) as source:
            for name in ("Events", "Data"):
                source.copy(name, target)
        check_reads(other, events, strict=True)


@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("num_rows", [20, 31, 33, 40])
@pytest.mark.parametrize("name", ["gzip9", "shuffle", "shuffle only"])
def test_chunk_of_other_size(tmp_path, events, name, num_rows, mask):
    # HDF5 itself makes up what is missing from whatever is in its memory.
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, filters=FILTERS[name])
    with h5py.File(path, "r+") as file:
        voxels = file[WIRE]["voxels"]
        stored = (2 * voxels[:32].tobytes())[: 16 * num_rows]
        is_plain = name == "shuffle only" or (name == "gzip9" and mask)
        if not is_plain:
            stored = zlib.compress(stored)
        voxels.id.write_direct_chunk((0,), stored, filter_mask=mask)
    check_fails(path, "voxels", "entry 0", f"{16 * num_rows} bytes" if is_plain else "")


@pytest.mark.parametrize("num_rows", [20, 31, 33, 40])
@pytest.mark.parametrize("most", [0, 50_000])
def test_chunk_of_other_size_without_filters(path, events, monkeypatch, num_rows, most):
    monkeypatch.setattr(chunks, "MAX_INDEXED_CHUNKS", most)
    larcv_fixtures.write_larcv(path, events, filters={})
    change_first_chunk(path, size=16 * num_rows)
    check_fails(path, "voxels", "entry 0", f"a chunk of {16 * num_rows} bytes")


def test_chunk_of_other_size_under_a_checksum(tmp_path, events):
    filters = {"compression": "gzip", "fletcher32": True}
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, filters=filters)
    other = larcv_fixtures.write_larcv(
        tmp_path / "g.h5", events, filters=filters, voxel_chunk=20
    )
    with h5py.File(path, "r+") as file, h5py.File(other) as source:
        stored = source[WIRE]["voxels"].id.read_direct_chunk((0,))[1]
        file[WIRE]["voxels"].id.write_direct_chunk((0,), stored)
    check_fails(path, "voxels", "entry 0", "chunk of 320 bytes", "expected 512")


def test_chunk_written_past_its_filter(tmp_path, events):
    # HDF5 stores a chunk that gzip does not shrink as it is, and marks it.
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events)
    with h5py.File(path, "r+") as file:
        voxels = file[WIRE]["voxels"]
        rows = np.ascontiguousarray(voxels[:32])
        voxels.id.write_direct_chunk((0,), rows.tobytes(), filter_mask=1)
    check_reads(path, events, strict=True)


def change_first_chunk(path, size=None, mask=0):
    """Writes another size or mask of skipped filters into HDF5's own index."""
    with h5py.File(path) as file:
        info = file[WIRE]["voxels"].id.get_chunk_info(0)
    # The chunk's key in the B-tree: size, skipped filters, coordinates, address.
    key = struct.pack("<IIQQQ", info.size, 0, 0, 0, info.byte_offset)
    with open(path, "r+b") as file:
        content = file.read()
        assert content.count(key) == 1
        file.seek(content.index(key))
        file.write(struct.pack("<II", size or info.size, mask))


def test_chunk_past_a_filter_that_does_not_exist(path):
    change_first_chunk(path, mask=0b100)
    check_fails(path, "voxels", "entry 0", "filters that exist")


def test_absent_chunk(tmp_path, events):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events)
    with h5py.File(path, "r+") as file:
        rows = file[WIRE]["voxels"][:]
        del file[WIRE]["voxels"]
        table = file[WIRE].create_dataset(
            "voxels", (len(rows),), rows.dtype, chunks=(32,), compression="gzip"
        )
        table[64:] = rows[64:]
    check_fails(path, "voxels", "a chunk at row", "entry 0")


def test_absent_chunk_of_an_index(tmp_path):
    events = larcv_fixtures.make_events(20)
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events)
    with h5py.File(path, "r+") as file:
        rows = file[WIRE]["extents"][:]
        del file[WIRE]["extents"]
        table = file[WIRE].create_dataset("extents", (20,), rows.dtype, chunks=(8,))
        table[8:] = rows[8:]
    check_fails(path, "extents", "a chunk at row 0")


def large_file(tmp_path):
    """A file with several chunks of larcv3's size a plane."""
    events = larcv_fixtures.make_events(2, (160, 256), most=9000)
    path = tmp_path / "f.h5"
    larcv_fixtures.write_larcv(path, events, (160, 256), voxel_chunk=1000)
    return str(path), events


def test_chunks_out_of_place(tmp_path):
    path, events = large_file(tmp_path)
    check_reads(path, events, (160, 256), strict=True)
    with h5py.File(path, "r+") as file:
        voxels = file[WIRE]["voxels"].id
        (mask, one), (_, two) = (voxels.read_direct_chunk((r,)) for r in (0, 2000))
        voxels.write_direct_chunk((0,), two, filter_mask=mask)
        voxels.write_direct_chunk((2000,), one, filter_mask=mask)
    check_fails(path, "voxels", "entry 0", "chunks in their places")
    check_fails(path, "voxels", "entry 0", "ascending", strict=True)


def test_very_many_chunks(path, events, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_INDEXED_CHUNKS", 2)
    check_reads(path, events, strict=True)
    with LarcvFile(path) as file:
        assert file._readers["sbndwire"]._index is None


def test_chunk_that_does_not_inflate(path):
    with open(path, "r+b") as file:
        with LarcvFile(path) as reader:
            offset = int(reader._readers["sbndwire"]._index[0][0])
        file.seek(offset + 40)
        file.write(bytes(8))
    check_fails(path, "voxels", "entry 0")


OPEN_LARGE = r"""
import re, sys, time
from ctjax.data.sources import open_source
before = time.perf_counter()
source = open_source(file=sys.argv[1])
took = time.perf_counter() - before
assert source.num_events == 43_075
status = open("/proc/self/status").read()
print(took, int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024)
"""


def test_opens_the_size_of_the_real_training_set(tmp_path):
    events = larcv_fixtures.make_events(5) * (43_075 // 5)
    path = tmp_path / "f.h5"
    larcv_fixtures.write_larcv(path, events, voxel_chunk=1000, index_chunk=100)
    found = subprocess.run(
        [sys.executable, "-c", OPEN_LARGE, path],
        check=True,
        capture_output=True,
        text=True,
    )
    took_s, memory_mb = map(float, found.stdout.split())
    assert took_s < 1
    assert memory_mb < 200


def test_labels_without_charge(path):
    with larcv_fixtures.changing(path, f"{SEGMENT}/voxels", f"{WIRE}/voxels") as (
        label,
        image,
    ):
        assert label["id"][0] == image["id"][0]
        label["id"][0] = 1 if image["id"][0] == 0 else 0
        assert label["id"][0] not in image["id"][:40]
    read_all(path)
    check_fails(path, "sbnd_cosmicseg", "charge", strict=True)


def test_disorder_across_chunks_alone_is_no_damage(tmp_path):
    # Descents everywhere: some of them lie where chunks meet.
    events = larcv_fixtures.make_events(2, (160, 256), most=9000)
    for planes in events:
        for plane, columns in enumerate(planes):
            planes[plane] = tuple(column[::-1] for column in columns)
    path = tmp_path / "f.h5"
    larcv_fixtures.write_larcv(path, events, (160, 256), voxel_chunk=1000)
    check_reads(path, events, (160, 256))


def test_ids_of_labels_differ_by_a_chunk(tmp_path):
    # In the first chunk of a plane, and ascending: only the other product tells.
    path, events = large_file(tmp_path)
    with larcv_fixtures.changing(path, f"{SEGMENT}/voxels") as rows:
        rows["id"][:1000] = np.arange(2000, 3000)
    check_fails(path, "sbnd_cosmicseg", "entry 0", "in whole chunks")
    with larcv_fixtures.changing(path, f"{SEGMENT}/voxels") as rows:
        rows["id"][1000] -= 1
    image, _ = read_all(path)
    np.testing.assert_array_equal(
        image, larcv_fixtures.dense_truth(events, (160, 256))[0]
    )


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all" * 100])
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / "f.h5"
    path.write_bytes(content)
    check_fails(path, "HDF5")


def test_no_file(tmp_path):
    check_fails(tmp_path / "absent.h5", "no such file or directory")
    check_fails(tmp_path, "found a folder, expected a regular file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(path, share):
    with open(path, "r+b") as file:
        file.truncate(int(os.path.getsize(path) * share))
    check_fails(path)


def damage_in_place(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1000)


def replace_file(path):
    shutil.copy(path, path + ".new")
    os.replace(path + ".new", path)


@pytest.mark.parametrize("raw_chunks", [True, False])
@pytest.mark.parametrize("change", [damage_in_place, replace_file, os.unlink])
def test_file_changed_while_open(path, change, raw_chunks):
    with LarcvFile(path, raw_chunks=raw_chunks) as file:
        file.read_image(0)
        change(path)
        with pytest.raises(LarcvFileError, match="entry 1"):
            file.read_image(1)


def test_close_twice(path):
    file = LarcvFile(path)
    descriptors = len(os.listdir("/proc/self/fd"))
    file.close()
    file.close()
    assert len(os.listdir("/proc/self/fd")) < descriptors


def test_failed_opening_leaves_nothing_open(path):
    with h5py.File(path, "r+") as file:
        del file[SEGMENT]["voxels"]
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LarcvFileError):
        LarcvFile(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@larcv_fixtures.needs_shared
@pytest.mark.parametrize("version", [1, 2])
def test_files_written_by_larcv3(version):
    path = larcv_fixtures.shared("data", f"larcv_written_v{version}.h5")
    truth = np.load(
        larcv_fixtures.shared("data", f"larcv_written_v{version}_truth.npz")
    )
    for raw_chunks in (True, False):
        with LarcvFile(path, strict=True, raw_chunks=raw_chunks) as file:
            for entry in range(file.num_events):
                image, label = file.read_image(entry), file.read_label(entry)
                for plane in range(3):
                    name = f"event{entry}/plane{plane}"
                    at, labelled = image.planes[plane], label.planes[plane]
                    np.testing.assert_array_equal(image.ids[at], truth[f"{name}/id"])
                    np.testing.assert_array_equal(
                        image.values[at], truth[f"{name}/value"]
                    )
                    np.testing.assert_array_equal(
                        label.values[labelled], truth[f"{name}/label"]
                    )
