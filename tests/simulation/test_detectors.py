"""Detectors other than SBND: planes of other number and size, one or two volumes."""

import dataclasses

import h5py
import numpy as np
import pytest

from ctjax.base.constants import COSMIC, IMAGE_PRODUCT, LABEL_PRODUCT, NEUTRINO
from ctjax.data.larcv.truth import read_neutrinos
from ctjax.simulation.content_checksum import content_checksum
from ctjax.simulation.detectors import DETECTORS
from ctjax.simulation.events import Simulator
from ctjax.simulation.geometry import make_geometry
from ctjax.simulation.production import write_events
from ctjax.simulation.readout import Readout, read_out
from ctjax.simulation.segments import Segments
from ctjax.simulation.truth import box_tables, plane_metas
from tests.support import ROOT
from tests.support.larcv_plain import read_plainly

SHAPES = {
    "sbnd": [(1280, 2048)] * 3,
    "microboone": [(1008, 2400), (1008, 2400), (1008, 3456)],
    "two_tpcs": [(832, 1984), (832, 1984), (832, 1664)] * 2,
}
SMALL = {"sbnd": (64, 64), "microboone": (48, 144), "two_tpcs": (64, 128)}
SMALL_WIDTHS = {
    "sbnd": [64] * 3,
    "microboone": [96, 96, 144],
    "two_tpcs": [128, 128, 96] * 2,
}
OTHERS = ("microboone", "two_tpcs")


def small(name):
    return dataclasses.replace(DETECTORS[name], image_shape=SMALL[name])


def still(parameters):
    """The same detector without diffusion and noise."""
    return dataclasses.replace(
        parameters,
        longitudinal_cm2_us=0.0,
        transverse_cm2_us=0.0,
        noise_counts=0.0,
        noise_pixels=tuple((0.0,) * len(v) for v in parameters.plane_volumes),
    )


def points_at(positions, energy=5.0, time=0.0):
    """Point deposits at x, y, z from the middle of the front face."""
    at = np.array(positions, float).T
    number = at.shape[1]
    return Segments(
        at, at, np.full(number, energy), np.full(number, 2.1), np.full(number, time),
        np.full(number, float(COSMIC)),
    )  # fmt: skip


def read(parameters, segments, seed=0):
    """Column, row and charge of each plane."""
    geometry = make_geometry(parameters)
    rng = np.random.default_rng(seed)
    images = read_out(Readout(parameters, geometry), rng, segments)
    pairs = zip(images, geometry.planes, strict=True)
    return [(*divmod(p.ids.astype(int), grid.shape[0]), p.charge) for p, grid in pairs]


@pytest.mark.parametrize("name", DETECTORS)
def test_every_wire_has_a_column_at_full_size(name):
    geometry = make_geometry(DETECTORS[name])
    assert [grid.shape for grid in geometry.planes] == SHAPES[name]
    if name != "sbnd":
        for grid, (_, width) in zip(geometry.planes, SHAPES[name], strict=True):
            assert grid.wired_columns == (0, width) and grid.pitch_cm == 0.3


@pytest.mark.parametrize("name", DETECTORS)
def test_small_images_show_the_whole_detector(name):
    full, geometry = make_geometry(DETECTORS[name]), make_geometry(small(name))
    shapes = [(SMALL[name][0], width) for width in SMALL_WIDTHS[name]]
    assert [grid.shape for grid in geometry.planes] == shapes
    assert geometry.window_us == pytest.approx(full.window_us)
    assert geometry.start_us == full.start_us
    metas = zip(plane_metas(geometry), plane_metas(full), strict=True)
    for meta, whole in metas:
        np.testing.assert_allclose(meta.image_sizes, whole.image_sizes)
        np.testing.assert_allclose(meta.origin, whole.origin)
    for grid, whole in zip(geometry.planes, full.planes, strict=True):
        ends = [
            np.subtract(g.wired_columns, g.shape[1] / 2) * g.pitch_cm
            for g in (grid, whole)
        ]
        np.testing.assert_allclose(*ends, atol=grid.pitch_cm)


@pytest.mark.parametrize("name", OTHERS)
def test_every_column_has_wires_at_any_size(name):
    parameters = DETECTORS[name]
    divisor, widest = parameters.shape_divisor, parameters.image_shape[1]
    for width in range(divisor, widest + 1, divisor):
        scaled = dataclasses.replace(parameters, image_shape=(32, width))
        for grid in make_geometry(scaled).planes:
            assert grid.wired_columns == (0, grid.shape[1])


@pytest.mark.parametrize("shape", [(1000, 3456), (1008, 3450), (0, 16)])
def test_shapes_that_do_not_halve_are_refused(shape):
    parameters = dataclasses.replace(DETECTORS["microboone"], image_shape=shape)
    with pytest.raises(ValueError, match="positive multiples of 16"):
        make_geometry(parameters)


def test_a_microboone_point_is_where_its_wires_and_drift_say():
    rng = np.random.default_rng(1)
    for x, y, z in rng.uniform(-1, 1, (20, 3)) * (120, 110, 500) + (0, 0, 518.4):
        planes = read(still(DETECTORS["microboone"]), points_at([(x, y, z)]))
        # 400 us before the trigger, then the way to the anode at x = -128 cm.
        row = (400 + (x + 128) / 0.1098) / 3
        along, up = (z - 518.4) / 0.3, y / 0.3
        across = (along / 2 - np.sqrt(0.75) * up, along / 2 + np.sqrt(0.75) * up, along)
        for (columns, rows, charge), place, middle in zip(
            planes, across, (1200, 1200, 1728), strict=True
        ):
            peak = charge.argmax()
            assert abs(rows[peak] - row) <= 1
            assert abs(columns[peak] + 0.5 - (middle + place)) <= 0.51


def test_the_ends_of_a_single_volume_are_anode_and_cathode():
    parameters = still(DETECTORS["microboone"])
    # 0.1098 cm/us and 3 us a row: 2331 us of drift after the 400 us.
    for x, row in ((-127.99, 133), (127.99, 910)):
        for _, rows, charge in read(parameters, points_at([(x, 0.0, 500.0)])):
            assert abs(rows[charge.argmax()] - row) <= 1
    outside = [(-128.1, 0, 9), (128.1, 0, 9), (0, 117, 9), (0, 0, -1), (0, 0, 1037)]
    assert all(c.size == 0 for _, _, c in read(parameters, points_at(outside)))


@pytest.mark.parametrize("name", OTHERS)
def test_planes_share_one_charge(name):
    """A point leaves the same charge in each plane of its volume."""
    parameters = still(DETECTORS[name])
    number = len(parameters.gain)
    alike = dataclasses.replace(
        parameters, gain=(120.0,) * number, pulse_ticks=(1.0,) * number
    )
    depth = parameters.depth_cm
    at = [(-100 + 3.1 * k, 12.3 * k - 60, depth * (k + 1) / 12) for k in range(10)]
    sums = [charge.sum() for _, _, charge in read(alike, points_at(at))[:3]]
    assert sums[0] > 1000
    np.testing.assert_allclose(sums, sums[0], rtol=1e-6)


def test_two_tpcs_are_the_halves_of_sbnd():
    """The same pixels: each TPC's own images, and one of both with a mirrored half."""
    rng = np.random.default_rng(2)
    start = rng.uniform(-1, 1, (3, 300)) * [[80.0], [150.0], [150.0]]
    # Nothing near the cathode, where only the longer readout sees it all.
    start[0] += np.where(start[0] < 0, -100, 100)
    start[2] += 250
    end = start + rng.normal(0, 1, start.shape) * 3
    number = start.shape[1]
    segments = Segments(
        start, end, np.full(number, 6.0), np.full(number, 2.1), np.zeros(number),
        np.full(number, float(COSMIC)),
    )  # fmt: skip
    both, own = (
        dataclasses.replace(
            parameters,
            noise_counts=0.0,
            noise_pixels=tuple((0.0,) * len(v) for v in parameters.plane_volumes),
        )
        for parameters in (DETECTORS["sbnd"], DETECTORS["two_tpcs"])
    )
    six = read(own, segments)
    for plane, (columns, rows, charge) in enumerate(read(both, segments)):
        # The same wires of the other TPC are its other layer.
        for volume, other in ((0, plane), (1, (4, 3, 5)[plane])):
            chosen = (rows >= 640) == volume
            drifted = np.where(volume, 1279 - rows[chosen], rows[chosen])
            first_wire = 32 if plane < 2 else 192
            found = zip(
                columns[chosen] - first_wire, drifted + 96, charge[chosen], strict=True
            )
            assert chosen.sum() > 100
            assert sorted(found) == sorted(zip(*six[other], strict=True))


def test_a_track_across_the_cathode_is_in_both_tpcs():
    parameters = still(DETECTORS["two_tpcs"])
    line = np.linspace(-60, 60, 4001)
    track = [(x, 40.0 + x / 2, 200.0 + x) for x in line]
    planes = read(parameters, points_at(track, energy=0.05))
    middle = (992, 992, 832)
    for plane, other in ((0, 4), (1, 3), (2, 5)):
        ends = []
        for columns, rows, _ in (planes[plane], planes[other]):
            # 96 rows before the trigger, 640.8 of drift; 60 cm are 192 rows.
            assert rows.max() == pytest.approx(96 + 640, abs=2)
            assert rows.min() == pytest.approx(96 + 640 - 192, abs=2)
            ends.append(columns[rows >= rows.max() - 1].mean())
        assert abs(ends[0] - ends[1]) <= 3
        cosine, sine = ((0.5, 0.866), (0.5, -0.866), (1, 0))[plane]
        across = cosine * (200 - 250) - sine * 40
        assert ends[0] == pytest.approx(middle[plane] + across / 0.3, abs=3)
        sums = [planes[p][2].sum() for p in (plane, other)]
        assert 0.85 < sums[0] / sums[1] < 1.15


def test_a_single_tpc_has_nothing_of_the_other():
    planes = read(still(DETECTORS["two_tpcs"]), points_at([(-50.0, 10.0, 300.0)]))
    assert [charge.size > 0 for _, _, charge in planes] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("name", OTHERS)
def test_events_are_valid_images_with_boxes_where_the_vertex_is_seen(name):
    parameters = small(name)
    simulator, seen = Simulator(parameters), set()
    for number in range(12):
        event = simulator.event(11, number)
        boxes = box_tables(parameters, simulator.geometry, event)
        assert len(event.planes) == len(boxes) == len(SHAPES[name])
        for image, (height, width) in zip(
            event.planes,
            [grid.shape for grid in simulator.geometry.planes],
            strict=True,
        ):
            assert (np.diff(image.ids.astype(np.int64)) > 0).all()
            assert image.ids.size and image.ids.max() < height * width
            assert (image.charge > parameters.threshold).all()
            assert np.isin(image.label, (0, 1, 2)).all()
        seen.add(tuple(len(table) for table in boxes))
        check_boxes(simulator.geometry, event, boxes)
    wanted = {
        "microboone": {(0,) * 3, (1,) * 3},
        "two_tpcs": {(0,) * 6, (1, 1, 1, 0, 0, 0), (0, 0, 0, 1, 1, 1)},
    }
    assert seen == wanted[name]


def check_boxes(geometry, event, boxes):
    """Neutrino pixels of charged currents lie at the vertex box of each plane."""
    interaction = event.interaction
    if interaction is None or interaction.current_type == 1:
        return
    for image, table, meta in zip(
        event.planes, boxes, plane_metas(geometry), strict=True
    ):
        if not table.size:
            continue
        height = meta.number_of_voxels[1]
        chosen = image.ids[image.label == NEUTRINO].astype(int)
        step = np.array(meta.image_sizes) / meta.number_of_voxels
        column, row = (table["centroid"][0] - meta.origin) / step
        away = np.hypot(chosen // height + 0.5 - column, chosen % height + 0.5 - row)
        assert away.min() < 2
        np.testing.assert_allclose(table["half_length"][0], 1.5 * step)


@pytest.mark.parametrize("name", OTHERS)
def test_files_hold_the_events(tmp_path, name):
    parameters, path = small(name), tmp_path / "events.h5"
    write_events(path, parameters, seed=4, events=3)
    simulator = Simulator(parameters)
    made = [simulator.event(4, number) for number in range(3)]
    for product, attribute in ((IMAGE_PRODUCT, "charge"), (LABEL_PRODUCT, "label")):
        events, sizes = read_plainly(path, product)
        assert sizes == [[width, SMALL[name][0]] for width in SMALL_WIDTHS[name]] * 3
        for planes, event in zip(events, made, strict=True):
            for (ids, values), image in zip(planes, event.planes, strict=True):
                np.testing.assert_array_equal(ids, image.ids)
                np.testing.assert_array_equal(values, getattr(image, attribute))
    with h5py.File(path) as file:
        meta = file[f"Data/sparse2d_{IMAGE_PRODUCT}_group/image_meta"]
        planes = list(range(len(SHAPES[name])))
        assert meta["projection_id"].tolist() == planes * 3
    neutrinos = read_neutrinos([str(path)])
    for neutrino, event in zip(neutrinos, made, strict=True):
        truth = event.interaction
        assert neutrino["pdg"] == (0 if truth is None else truth.pdg)
        if truth is not None:
            assert neutrino["energy_gev"] == truth.energy / 1000


@pytest.mark.parametrize("name", OTHERS)
def test_the_content_of_files_has_not_changed(tmp_path, name):
    """Pinned: another number means a new GENERATOR_VERSION."""
    path = tmp_path / "events.h5"
    write_events(path, small(name), seed=1, events=4)
    assert content_checksum(path) == PINNED_CHECKSUMS[name]
    shape = ",".join(map(str, SMALL[name]))
    row = f"| `{name}` | {shape} | 4 | `{PINNED_CHECKSUMS[name]}` |"
    assert row in (ROOT / "docs/simulation.md").read_text()


PINNED_CHECKSUMS = {
    "microboone": "82bed6381e6094e9f1d9c482b82b8c11bc30e44d1a9e4f290f833e1bbb824355",
    "two_tpcs": "e8a3fee21d9862264cd593d76f37925858f7adb91759c23ce9daf9eba7b4fd2b",
}
