"""The labels of a network's heads, by hand and against CosmicTagger v2.1's."""

import pathlib

import h5py
import numpy as np
import pytest

from ctjax.base.head_labels import NO_CELL, UNKNOWN_CELL
from ctjax.config.heads import ActiveHeads, Classification, Vertex
from ctjax.data import head_labels, pipeline, sources
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.larcv.records import PlaneMeta
from tests.support.head_labels import INSIDE, boxes_at, golden_files, write

BOTH = ActiveHeads(Classification(active=True), Vertex(active=True), 2)

PARTICLES, BOXES = "particle_sbndneutrino_group", "bbox2d_bbox_neutrino_group"


def read(path, heads=BOTH, require_label=True, **options):
    with sources.open_source(
        file=path, heads=heads, require_label=require_label, **options
    ) as source:
        entries = np.append(np.arange(source.num_events), -1)
        with pipeline.minibatches(source, [entries], io_threads=1) as reader:
            return next(reader).heads


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    outside = boxes_at((-9.1, 7.0), (192.0, 7.0), (1.0, 34.1))
    return write(
        tmp_path_factory.mktemp("labels") / "events.h5",
        [
            (14, 0, 40, INSIDE),
            (12, 0, 10, INSIDE),
            (-14, 0, 40, outside),
            (12, 1, 40, boxes_at(None, None, None)),
            (14, 1, 9, INSIDE),
        ],
    )


def test_classes_and_vertices(path):
    labels = read(path)
    # The last place is without an event.
    assert labels.event.tolist() == [1, 0, 0, 2, 3, -1]
    # Cells of 8 x 12 cm: column (0 + 9) / 12, row (7 - 5) / 8.
    first = labels.vertex.cell[0].tolist(), labels.vertex.offset[0].tolist()
    assert first[0] == [[0, 0], [7, 15], [0, 0]]
    np.testing.assert_allclose(first[1], [[0.25, 0.75], [0.875, 0.75], [0, 0]])
    np.testing.assert_allclose(labels.vertex.position[0][1], [68, 189])
    np.testing.assert_allclose(labels.vertex.origin[0], [[5, -9], [5, 0], [2, 1]])
    np.testing.assert_allclose(labels.vertex.cell_size[0], [[8, 12]] * 3)
    # Outside, without a box, and of an event that shows too little of its neutrino.
    for event in (2, 3, 4):
        assert (labels.vertex.cell[event] == NO_CELL).all()
    assert (labels.vertex.cell[5] == UNKNOWN_CELL).all()
    assert np.isnan(labels.vertex.position[2:]).all()


def test_pooling_changes_no_position(path):
    plain, pooled = read(path), read(path, downsample=1)
    np.testing.assert_allclose(pooled.vertex.cell_size, plain.vertex.cell_size * 2)
    np.testing.assert_array_equal(pooled.vertex.position[0], plain.vertex.position[0])


def test_only_what_a_head_needs_is_read(path, tmp_path):
    without = tmp_path / "without.h5"
    without.write_bytes(pathlib.Path(path).read_bytes())
    with h5py.File(without, "r+") as file:
        del file["Data"][PARTICLES]
    with pytest.raises(LarcvFileError, match="sbndneutrino: found nothing, exp"):
        read(without)
    vertex_alone = ActiveHeads(None, Vertex(active=True), 2)
    found = read(without, vertex_alone)
    assert found.event is None and found.vertex.cell[0, 1].tolist() == [7, 15]
    # An inference goes without labels.
    assert read(without, require_label=False).event.tolist() == [-1] * 6
    with h5py.File(without, "r+") as file:
        del file["Data"][BOXES]
    found = read(without, require_label=False)
    assert (found.vertex.cell == UNKNOWN_CELL).all()
    assert read(without, ActiveHeads()) is None


def lose_member(file):
    table = file["Data"][PARTICLES]["particles"][:]
    del file["Data"][PARTICLES]["particles"]
    file["Data"][PARTICLES]["particles"] = table[["energy_init"]].copy()


def lose_plane(file):
    file["Data"][BOXES]["image_meta"][1] = file["Data"][BOXES]["image_meta"][0]


def set_value(group, table, row, member, value):
    def change(file):
        rows = file["Data"][group][table][:]
        rows[member][row] = value
        file["Data"][group][table][:] = rows

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lose_member,
            "sbndneutrino, dataset particles: found members energy_init, ",
        ),
        (lose_plane, "entry 0, product bbox_neutrino, dataset image_meta: found proj"),
        (
            set_value(BOXES, "bboxes", 4, "centroid", np.nan),
            "entry 1, product bbox_neutrino, dataset bboxes: found centroid = .*"
            "expected finite numbers",
        ),
        (
            set_value(BOXES, "extents", 2, "N", 2),
            "entry 2, product bbox_neutrino, dataset image_meta: found no boxes of "
            "plane 2, expected those of each plane",
        ),
        (
            set_value(PARTICLES, "extents", 3, "N", 0),
            "entry 3, product sbndneutrino, dataset extents: found no particle",
        ),
        (
            set_value(BOXES, "bbox_extents", 0, "first", 99),
            "entry 0, product bbox_neutrino, dataset bbox_extents: found first = 99",
        ),
    ],
    ids=["members", "planes", "finite", "boxes", "particles", "range"],
)
def test_damage_is_told_in_one_line(path, tmp_path, change, message):
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(pathlib.Path(path).read_bytes())
    with h5py.File(damaged, "r+") as file:
        change(file)
    with pytest.raises(LarcvFileError, match=message) as error:
        read(damaged)
    assert "\n" not in str(error.value) and str(damaged) in str(error.value)


def test_an_inference_takes_what_events_have(path, tmp_path):
    """One without a particle, one without the boxes of a plane; damage stays damage."""
    lacking = tmp_path / "lacking.h5"
    lacking.write_bytes(pathlib.Path(path).read_bytes())
    with h5py.File(lacking, "r+") as file:
        set_value(PARTICLES, "extents", 1, "N", 0)(file)
        set_value(BOXES, "extents", 0, "N", 2)(file)
    labels = read(lacking, require_label=False)
    assert labels.event.tolist() == [1, -1, 0, 2, 3, -1]
    assert (labels.vertex.cell[0] == UNKNOWN_CELL).all()
    np.testing.assert_array_equal(labels.vertex.cell[1], read(path).vertex.cell[1])
    with h5py.File(lacking, "r+") as file:
        set_value(PARTICLES, "extents", 2, "first", 99)(file)
    with pytest.raises(LarcvFileError, match="entry 2, product sbndneutrino"):
        read(lacking, require_label=False)


def test_boxes_of_other_geometry_are_moved(path, tmp_path):
    moved = tmp_path / "moved.h5"
    moved.write_bytes(pathlib.Path(path).read_bytes())
    with h5py.File(moved, "r+") as file:
        group = file["Data"][BOXES]
        meta, boxes = group["image_meta"][:], group["bboxes"][:]
        meta["origin"] += 100
        boxes["centroid"] += 100
        group["image_meta"][:], group["bboxes"][:] = meta, boxes
    np.testing.assert_array_equal(read(moved).vertex.cell, read(path).vertex.cell)


@pytest.mark.parametrize("golden", golden_files())
def test_classes_and_cells_are_the_original_s(golden):
    file = golden.parents[2] / "data" / "larcv_written_v2.h5"
    with np.load(golden) as arrays:
        arrays = dict(arrays)
    cases = {name.split("/")[0] for name in arrays if name.startswith("ds")}
    assert cases
    for case in sorted(cases):
        theirs = {n.removeprefix(f"{case}/"): a for n, a in arrays.items()}
        downsample, halvings = (int(part.strip("dsepth")) for part in case.split("_"))
        heads = ActiveHeads(Classification(active=True), Vertex(active=True), halvings)
        ours = read(str(file), heads, downsample=downsample)
        number = len(theirs["event_label"])
        counts = theirs["n_neutrino"], theirs["n_neutrino_by_value"]
        # The original counts places, too; where that matters ours is another class.
        same = (counts[0] < 10) == (counts[1] < 10)
        event = ours.event[:number]
        np.testing.assert_array_equal(event[same], theirs["event_label"][same])
        assert (event[~same] == 3).all()
        compare_cells(ours.vertex, event, theirs)


@pytest.mark.parametrize("golden", golden_files())
def test_the_edges_are_the_original_s_but_for_its_faults(golden):
    with np.load(golden) as arrays:
        arrays = dict(arrays)
    given = {n.removeprefix("edge/input/"): a for n, a in arrays.items()}
    cases = {n.split("/")[1] for n in arrays if n.startswith("edge/ds")}
    assert cases
    for case in cases:
        theirs = {n.removeprefix(f"edge/{case}/"): a for n, a in arrays.items()}
        downsample, halvings = (int(part.strip("dsepth")) for part in case.split("_"))
        inputs = zip(
            *(given["pdg"], given["current_type"], given["n_neutrino"]), strict=True
        )
        event = np.array([head_labels.classify(*map(int, row)) for row in inputs])
        np.testing.assert_array_equal(event, theirs["event_label"])
        sizes = zip(
            *(arrays[f"meta/{name}"] for name in ("full_pixels", "size", "origin")),
            strict=True,
        )
        metas = [
            PlaneMeta(
                tuple((full >> downsample)[::-1]), tuple(size[::-1]), tuple(o[::-1])
            )
            for full, size, o in sizes
        ]
        positions = given["bbox"][..., 1::-1].astype(np.float32)
        labels = [head_labels.label_vertex(p, metas, halvings) for p in positions]
        vertex = type(labels[0])(*map(np.stack, zip(*labels, strict=True)))
        compare_cells(vertex, event, theirs)


def compare_cells(vertex, event, theirs):
    """Compares cells and offsets; those that the original has outside are none here."""
    cells = {tuple(row[:2]): row[2:] for row in theirs["detection_cells"].tolist()}
    for place in np.ndindex(vertex.cell.shape[:2]):
        if place[0] >= len(event):
            continue
        offset = theirs["regression"][place]
        if event[place[0]] == 3 or offset.min() < -1e-6:
            assert event[place[0]] == 3 or (vertex.cell[place] == -1).all()
            continue
        assert vertex.cell[place].tolist() == cells[place]
        np.testing.assert_allclose(vertex.offset[place], offset, atol=1e-5)
