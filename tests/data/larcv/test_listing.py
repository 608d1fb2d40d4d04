"""What files hold: whole ones to the voxel, wrong ones with what is wrong."""

import h5py
import numpy as np
import pytest

from ctjax.data.larcv import listing
from ctjax.data.larcv.errors import LarcvFileError
from tests.support import larcv_fixtures, larcv_writing
from tests.support.larcv_fixtures import IMAGE_GROUP, LABEL_GROUP, changing

NUM_EVENTS = 5


@pytest.fixture
def events():
    return larcv_fixtures.make_events(NUM_EVENTS)


@pytest.fixture
def path(tmp_path, events):
    return str(larcv_fixtures.write_larcv(tmp_path / "good.h5", events))


def products(path):
    return {f"{p.kind} {p.name}": p for p in listing.read(path).products}


def image_of(path):
    return products(path)["sparse2d sbndwire"]


def test_a_whole_file(path, events):
    found = listing.read(path)
    assert found.num_events == NUM_EVENTS and not found.problems
    spans = {"run": (7, 7), "subrun": (1, 1), "event": (100, 104)}
    assert found.event_ids == spans
    label, image = found.products
    assert not image.problems and not label.problems
    assert (image.kind, image.name) == ("sparse2d", "sbndwire")
    for number, (plane, label_plane) in enumerate(
        zip(image.images.planes, label.images.planes, strict=True)
    ):
        counts = [len(event[number][0]) for event in events]
        assert plane.projection == number
        assert plane.size == larcv_fixtures.SHAPE[::-1]
        assert (plane.num_images, plane.num_empty) == (NUM_EVENTS, counts.count(0))
        assert (plane.num_voxels, plane.most_voxels) == (sum(counts), max(counts))
        charges = np.concatenate([event[number][1] for event in events], dtype=float)
        values = plane.values
        assert (values.lowest, values.highest) == (charges.min(), charges.max())
        assert values.mean == pytest.approx(charges.mean())
        assert values.labels is None
        classes = np.concatenate([event[number][2] for event in events])
        counts = np.bincount(classes, minlength=3).tolist()
        assert label_plane.values.labels == dict(enumerate(counts))
    assert image.images.num_sampled_events == NUM_EVENTS
    assert image.images.num_sampled_voxels == image.images.num_voxels


def test_of_a_large_file_a_part_is_read(path, monkeypatch):
    whole = image_of(path).images
    monkeypatch.setattr(listing, "MAX_SAMPLE", whole.num_voxels)  # of two products
    part = image_of(path).images
    assert 0 < part.num_sampled_events < NUM_EVENTS
    assert part.num_sampled_voxels < part.num_voxels == whole.num_voxels


def test_products_of_every_kind(tmp_path):
    event = [larcv_writing.planes(3, 0, 2), larcv_writing.planes(1, 1, 1)]
    path = str(larcv_writing.write(tmp_path / "kinds.h5", [event, event]))
    with h5py.File(path, "r+") as file:
        voxels = np.zeros(4, larcv_fixtures.VOXEL)
        file["Data/cluster3d_seen_group/voxels"] = voxels
        file["Data/notes"] = [1, 2]
        file["Data/notes_group/x"] = [1]
    found = products(path)
    assert found["particle nu"].rows == {"extents": 2, "particles": 1}
    assert found["bbox2d box"].rows["bboxes"] == 6
    cluster = found["cluster3d seen"]
    assert cluster.rows == {"voxels": 4} and cluster.num_events is None
    assert list(found)[-2:] == [" notes", " notes_group"]
    first = found["sparse2d wire"].images.planes[0]
    assert first.geometry == ((2.4, 1.6), (-0.5, 0.0))


def test_ids_that_were_never_set(path):
    for unset in (-1, 2**63 - 1):
        with changing(path, "Events/event_id") as table:
            table["run"], table["subrun"] = unset, [0, unset, unset, 3, unset]
        found = listing.read(path).event_ids
        assert found == {"run": None, "subrun": (0, 3), "event": (100, 104)}


def set_row(table, member, row, value):
    def change(path):
        with changing(path, f"{IMAGE_GROUP}/{table}") as rows:
            rows[member][row] = value

    return change


@pytest.mark.parametrize(
    "change, entry, words",
    [
        (set_row("image_meta", "valid", 4, 0), 1, "valid = 0"),
        (set_row("image_meta", "projection_id", 4, 0), 1, "one plane (0)"),
        (set_row("image_meta", "projection_id", 4, 99), 1, "projection_id = 99"),
        (set_row("image_meta", "number_of_voxels", 7, 99), 2, "size, 99 x 99"),
        (set_row("extents", "first", 3, 13), 3, "beyond voxel_extents"),
        (set_row("extents", "N", 3, 2**31), 3, "beyond voxel_extents"),
        (set_row("voxel_extents", "first", 6, 2**40), 2, "beyond the"),
        (set_row("voxel_extents", "N", 7, 2**31), 2, "more than 67108864 voxels"),
        (set_row("voxels", "value", 0, np.nan), 0, "not finite"),
        (set_row("voxels", "id", 0, 16 * 24), 0, "ids beyond"),
    ],
)
def test_what_is_wrong_with_an_event(path, change, entry, words):
    change(path)
    product = image_of(path)
    assert not product.problems
    (problem,) = product.images.problems
    assert problem.startswith(f"entry {entry}") and words in problem
    assert product.images.bad_entries == {entry}
    assert len(product.images.planes) == 3


def remove(file, table):
    del file[f"{IMAGE_GROUP}/{table}"]


def shorten(file, table):
    file[f"{IMAGE_GROUP}/{table}"].resize((4,))


def share(file, table):
    rows = file[f"{IMAGE_GROUP}/{table}"][:]
    rows["first"], rows["N"] = 0, 15
    file[f"{IMAGE_GROUP}/{table}"][:] = rows


def lead_elsewhere(file, table):
    del file[IMAGE_GROUP]
    file[IMAGE_GROUP] = h5py.ExternalLink("other.h5", table)


@pytest.mark.parametrize(
    "change, table, words, has_images",
    [
        (remove, "extents", "dataset extents: found nothing", False),
        (remove, "voxel_extents", "voxel_extents: found nothing", False),
        (remove, "image_meta", "dataset image_meta: found nothing", True),
        (remove, "voxels", "dataset voxels: found nothing", True),
        (shorten, "extents", "found 4 rows, expected 5", True),
        (shorten, "image_meta", "found 4 rows, expected 15", True),
        (share, "extents", "rows that several events have", True),
        (lead_elsewhere, "voxels", "_group in this file", False),
    ],
)
def test_what_is_wrong_with_a_product(path, change, table, words, has_images):
    with h5py.File(path, "r+") as file:
        change(file, table)
    found = products(path)
    product = found["sparse2d sbndwire"]
    assert any(words in problem for problem in product.problems), product.problems
    assert (product.images is not None) == has_images
    assert not found["sparse2d sbnd_cosmicseg"].problems


def test_an_unreadable_chunk_spoils_its_events_only(path):
    with h5py.File(path, "r+") as file:
        file[f"{LABEL_GROUP}/voxels"].id.write_direct_chunk((0,), b"no gzip at all")
    label = products(path)["sparse2d sbnd_cosmicseg"].images
    assert label.bad_entries == {0} and "voxels" in label.problems[0]
    assert label.num_sampled_voxels > 0


def test_a_file_without_events(tmp_path):
    path = str(larcv_fixtures.write_larcv(tmp_path / "none.h5", []))
    found = listing.read(path)
    assert found.num_events == 0 and "no events" in found.problems[0]
    assert image_of(path).images.planes == ()


@pytest.mark.parametrize("content", [b"no HDF5", None])
def test_no_larcv3_file(tmp_path, content):
    path = tmp_path / "other.h5"
    if content is None:
        h5py.File(path, "w").close()
    else:
        path.write_bytes(content)
    for other in (path, tmp_path, tmp_path / "absent.h5"):
        with pytest.raises(LarcvFileError, match=f"{other}: found"):
            listing.read(str(other))
