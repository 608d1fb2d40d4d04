"""Repacked files hold the same events, in one chunk each."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from ctjax.base.constants import IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.commands import repack as repack_command
from ctjax.data.larcv import disk_file, repack
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.larcv.file import LarcvFile
from ctjax.data.larcv.records import PARTICLE, PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter
from ctjax.simulation.content_checksum import content_checksum
from tests.support import larcv_fixtures
from tests.support.larcv_plain import read_plainly
from tests.support.larcv_reads import check_reads


@pytest.fixture
def events():
    events = larcv_fixtures.make_events(6)
    events[3] = []
    return events


@pytest.fixture
def path(tmp_path, events):
    path = str(larcv_fixtures.write_larcv(tmp_path / "good.h5", events))
    with h5py.File(path, "r+") as file:
        file["Data/particle_x_group/particles"] = np.arange(5)
    return path


@pytest.mark.parametrize("filter_name", repack.FILTERS)
def test_same_events(path, events, tmp_path, filter_name):
    target = str(tmp_path / "new.h5")
    assert repack_command.main([path, target, "--filter", filter_name]) == 0
    check_reads(target, events, strict=True)
    with h5py.File(target) as file:
        voxels = file[larcv_fixtures.IMAGE_GROUP]["voxels"]
        most = max(sum(len(p[0]) for p in planes) for planes in events)
        assert voxels.chunks == (most,)
        first = file[larcv_fixtures.IMAGE_GROUP]["voxel_extents"]["first"][::3]
        assert (first % most == 0).all()
        assert file["Data/particle_x_group/particles"][:].tolist() == [0, 1, 2, 3, 4]
        assert voxels.shuffle == (filter_name == "shuffle")
        assert (voxels.compression is None) == (filter_name == "none")
    with LarcvFile(target) as one, LarcvFile(path) as other:
        np.testing.assert_array_equal(one.event_ids, other.event_ids)
    assert sorted(os.listdir(tmp_path)) == ["good.h5", "new.h5"]


def test_links_and_names_of_any_kind_are_copied(path, events, tmp_path):
    with h5py.File(path, "r+") as file:
        group = file["Data/particle_x_group"]
        group["above"] = h5py.SoftLink("/Data")
        group["nowhere"] = h5py.SoftLink("/nowhere")
        group["root"] = file["/"]
        group[b"caf\xe9"] = np.arange(2)
        file["Data/again"] = h5py.SoftLink("particle_x_group")
        for name in (b"caf\xe9", b"Data/caf\xe9"):
            file[name] = np.arange(3)
    target = str(tmp_path / "new.h5")
    repack.repack(path, target)
    check_reads(target, events, strict=True)
    with h5py.File(target) as file:
        group = file["Data/particle_x_group"]
        assert group["above"] == file["Data"] and file["Data/again"] == group
        assert group.get("nowhere", getlink=True).path == "/nowhere"
        assert "Events" in group["root"] and group[b"caf\xe9"].shape == (2,)
        assert file[b"caf\xe9"].shape == file[b"Data/caf\xe9"].shape == (3,)
    assert len(content_checksum(path)) == 64


def test_twice_and_without_labels(tmp_path, events):
    path = larcv_fixtures.write_larcv(tmp_path / "f.h5", events, with_label=False)
    repack.repack(str(path), str(tmp_path / "one.h5"), level=9)
    repack.repack(str(tmp_path / "one.h5"), str(tmp_path / "two.h5"))
    with LarcvFile(path) as old, LarcvFile(tmp_path / "two.h5", strict=True) as new:
        assert not new.has_label
        for entry in range(6):
            a, b = old.read_image(entry), new.read_image(entry)
            assert a.planes == b.planes
            np.testing.assert_array_equal(a.ids, b.ids)


SIZES = [(24, 16), (24, 16), (34, 16), (5, 7), (1, 1), (40, 3)]
"""Wires and ticks of planes of all kinds."""

DEFAULTS = IMAGE_PRODUCT, LABEL_PRODUCT


def write_planes(path, sizes, number=4):
    """Products of other names, one of them with all labels up to 65535."""
    metas = [PlaneMeta(size, (1.0, 1.0), (2.0, 3.0)) for size in sizes]
    random = np.random.default_rng(len(sizes))
    with LarcvWriter(path, metas, ("wire", "seg_mentation")) as out:
        for event in range(number):
            planes = []
            for width, height in sizes:
                count = random.integers(0, width * height + 1)
                ids = random.choice(width * height, count, replace=False)
                planes.append((np.sort(ids), random.integers(0, 65536, count)))
            charges = [(ids, values * -0.5) for ids, values in planes]
            out.append((1, 2, event), {"wire": charges, "seg_mentation": planes})
    return [read_plainly(path, product) for product in ("wire", "seg_mentation")]


def assert_repacked(path, target, wanted):
    repack.repack(str(path), str(target))
    for product, (events, sizes) in zip(("wire", "seg_mentation"), wanted, strict=True):
        found, found_sizes = read_plainly(target, product)
        assert found_sizes == sizes
        for planes, others in zip(found, events, strict=True):
            for one, other in zip(planes, others, strict=True):
                np.testing.assert_array_equal(one, other)
        totals = [sum(len(ids) for ids, _ in planes) for planes in events]
        with h5py.File(target) as file:
            chunks = file[f"Data/sparse2d_{product}_group/voxels"].chunks
        assert chunks == (max(totals),)


@pytest.mark.parametrize("number", range(1, 7))
def test_planes_and_products_of_any_kind(tmp_path, number):
    wanted = write_planes(tmp_path / "old.h5", SIZES[:number])
    assert_repacked(tmp_path / "old.h5", tmp_path / "new.h5", wanted)


@pytest.mark.parametrize(
    "sizes, ids",
    [
        (SIZES[:2] * 3, [0, 1, 0, 1, 0, 1]),
        (SIZES[:3], [0, 2, 5]),
        (SIZES[:3], [1, 2, 3]),
    ],
)
def test_planes_of_other_numbers(tmp_path, sizes, ids):
    path = tmp_path / "old.h5"
    wanted = write_planes(path, sizes)
    for product in ("wire", "seg_mentation"):
        group = f"Data/sparse2d_{product}_group"
        for table, name in (("image_meta", "projection_id"), ("voxel_extents", "ID")):
            with larcv_fixtures.changing(path, f"{group}/{table}") as rows:
                rows[name] = np.array(ids)[rows[name]]
    assert_repacked(path, tmp_path / "new.h5", wanted)


def test_labels_need_not_match_the_images(path, tmp_path):
    """A copy is no training: classes of a larger image, those of no pixel too."""
    meta = f"{larcv_fixtures.LABEL_GROUP}/image_meta"
    with larcv_fixtures.changing(path, meta) as rows:
        rows["number_of_voxels"][:, 0] += 7
    wanted = [read_plainly(path, name) for name in DEFAULTS]
    repack.repack(path, str(tmp_path / "new.h5"))
    for name, (events, sizes) in zip(DEFAULTS, wanted, strict=True):
        found, found_sizes = read_plainly(tmp_path / "new.h5", name)
        assert found_sizes == sizes
        np.testing.assert_equal(found, events)


def test_a_file_without_images_is_refused(tmp_path, capsys):
    path = tmp_path / "old.h5"
    with LarcvWriter(path, [PlaneMeta((4, 3), (1.0, 1.0))], particles=("nu",)) as out:
        out.append((1, 2, 3), {}, {"nu": np.zeros(1, PARTICLE)})
    assert repack_command.main([str(path), str(tmp_path / "new.h5")]) == 1
    assert "old.h5: found no sparse2d product" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["old.h5"]


def test_refuses_an_existing_file(path, tmp_path, capsys):
    target = tmp_path / "new.h5"
    target.write_text("mine")
    assert repack_command.main([path, str(target)]) == 1
    assert "new.h5: found a file" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_one_of_two_to_the_same_target_is_refused(path, tmp_path, capsys, monkeypatch):
    target = str(tmp_path / "new.h5")
    original, statuses = repack._compare, []

    def compare(*arguments):
        # The other one starts while this one reads what it has written.
        monkeypatch.setattr(repack, "_compare", original)
        statuses.append(repack_command.main([path, target]))
        original(*arguments)

    monkeypatch.setattr(repack, "_compare", compare)
    assert repack_command.main([path, target]) == 0
    assert statuses == [1]
    assert "new.h5.part: another process writes it now" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["good.h5", "new.h5"]
    with LarcvFile(target, strict=True) as file:
        assert file.num_events == 6


def test_what_a_killed_one_has_left_is_used_anew(path, events, tmp_path):
    (tmp_path / ".new.h5.part").write_bytes(b"x" * 10**6)
    assert repack_command.main([path, str(tmp_path / "new.h5")]) == 0
    check_reads(str(tmp_path / "new.h5"), events, strict=True)
    assert sorted(os.listdir(tmp_path)) == ["good.h5", "new.h5"]


def test_a_target_made_in_between_is_not_written_over(path, tmp_path, monkeypatch):
    target = tmp_path / "new.h5"
    original = repack._compare

    def compare(*arguments):
        original(*arguments)
        target.write_text("mine")

    monkeypatch.setattr(repack, "_compare", compare)
    assert repack_command.main([path, str(target)]) == 1
    assert target.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["good.h5", "new.h5"]


def test_a_part_is_no_way_to_another_file(path, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".new.h5.part").symlink_to(tmp_path / "mine")
    assert repack_command.main([path, str(tmp_path / "new.h5")]) == 1
    assert (tmp_path / "mine").read_text() == "mine"


def test_without_locks_what_is_left_is_refused(path, tmp_path, monkeypatch, capsys):
    def no_locks(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk_file.fcntl, "flock", no_locks)
    assert repack_command.main([path, str(tmp_path / "new.h5")]) == 0
    (tmp_path / ".other.h5.part").write_text("")
    assert repack_command.main([path, str(tmp_path / "other.h5")]) == 1
    assert "this file system has no locks" in capsys.readouterr().err


def test_source_that_cannot_be_read(path, tmp_path, capsys):
    with larcv_fixtures.changing(path, f"{larcv_fixtures.IMAGE_GROUP}/voxels") as rows:
        rows["value"][-1] = np.nan
    assert repack_command.main([path, str(tmp_path / "new.h5")]) == 1
    assert "entry 5" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["good.h5"]


def test_copy_is_verified(path, tmp_path, monkeypatch):
    original = repack._write_product

    def damage(events, product, old, new, filters):
        original(events, product, old, new, filters)
        new[f"Data/sparse2d_{product}_group/voxels"][0] = (0, 1.0)

    monkeypatch.setattr(repack, "_write_product", damage)
    with pytest.raises(LarcvFileError, match="found other voxels"):
        repack.repack(path, str(tmp_path / "new.h5"))
    assert os.listdir(tmp_path) == ["good.h5"]


def test_the_check_does_not_trust_the_reader(path, tmp_path, monkeypatch):
    """A mistake that the reader makes in both files is noticed."""
    read = LarcvFile.read_image

    def mistaken(self, entry):
        image = read(self, entry)
        return image._replace(values=np.minimum(image.values, 20))

    monkeypatch.setattr(LarcvFile, "read_image", mistaken)
    with pytest.raises(LarcvFileError, match="entry 0, product sbndwire: found other"):
        repack.repack(path, str(tmp_path / "new.h5"))
    assert os.listdir(tmp_path) == ["good.h5"]


def test_any_finite_charge_is_copied(path, tmp_path):
    with larcv_fixtures.changing(path, f"{larcv_fixtures.IMAGE_GROUP}/voxels") as rows:
        rows["value"][-1] = -3e38
    repack.repack(path, str(tmp_path / "new.h5"))
    with LarcvFile(tmp_path / "new.h5", charge_limit=np.inf) as file:
        assert file.read_image(5).values.min() == np.float32(-3e38)


@larcv_fixtures.needs_shared
def test_light_file(tmp_path):
    path, target = (
        larcv_fixtures.shared("data/cosmic_tagging_light.h5"),
        str(tmp_path / "new.h5"),
    )
    repack.repack(path, target)
    with h5py.File(path) as old, h5py.File(target) as new:
        assert set(old["Data"]) == set(new["Data"])


# The limit acts like a disk that is full: writes past it fail.
FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from ctjax.commands import repack
sys.exit(repack.main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(path, tmp_path):
    target = tmp_path / "new.h5"
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, str(target), "--filter", "none"],
        capture_output=True,
        text=True,
    )
    # Status 1, not that of the crash HDF5 ends in after a failed close.
    assert result.returncode == 1, result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "File too large" in result.stderr and "new.h5" in result.stderr
    assert os.listdir(tmp_path) == ["good.h5"]
