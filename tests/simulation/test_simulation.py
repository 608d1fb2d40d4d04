"""The simulation: geometry, drift and readout, truth, reproducibility."""

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.base.constants import BACKGROUND, COSMIC, NEUTRINO
from ctjax.simulation import (
    interactions,
    native,
    noise,
    readout,
    tracks,
)
from ctjax.simulation.content_checksum import content_checksum
from ctjax.simulation.drift import drift, recombination
from ctjax.simulation.events import Simulator
from ctjax.simulation.geometry import make_geometry, wire_coordinate
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.production import write_events
from ctjax.simulation.readout import Readout, pulse_kernel
from ctjax.simulation.segments import Segments
from ctjax.simulation.truth import box_tables, particle_table, plane_metas

FULL = SimulationParameters()
SMALL = dataclasses.replace(FULL, image_shape=(320, 512))
SHARED = os.environ.get("CTJAX_SHARED")


@pytest.fixture(scope="module")
def simulator():
    return Simulator(SMALL)


@pytest.fixture(scope="module")
def full_simulator():
    return Simulator()


def points_at(*positions, energy=5.0, time=0.0, origin=COSMIC):
    """Point deposits at the given x, y, z."""
    at = np.array(positions, float).T
    number = at.shape[1]
    return Segments(
        at, at, np.full(number, energy), np.full(number, 2.1), np.full(number, time),
        np.full(number, float(origin)),
    )  # fmt: skip


def still(parameters):
    """The same detector without diffusion and noise."""
    return dataclasses.replace(
        parameters,
        longitudinal_cm2_us=0.0,
        transverse_cm2_us=0.0,
        noise_counts=0.0,
        noise_pixels=((0.0, 0.0),) * 3,
    )


def read(parameters, segments, seed=0):
    """Column, row, charge and label of each plane."""
    geometry = make_geometry(parameters)
    rng = np.random.default_rng(seed)
    images = readout.read_out(Readout(parameters, geometry), rng, segments)
    height = geometry.planes[0].shape[0]
    return [
        (p.ids.astype(int) // height, p.ids.astype(int) % height, p.charge, p.label)
        for p in images
    ]


# Vertex (cm) and pixel (column of each plane, row) of the five light events, from their
# particle and cluster products.
LIGHT_VERTICES = [
    ((0.880, -43.832, 472.893), (1522, 1269, 1766), 640),
    ((-59.371, 132.301, 250.181), (642, 1406, 1024), 449),
    ((-45.809, -157.752, 252.353), (1483, 573, 1031), 492),
    ((155.263, 84.985, 77.656), (491, 982, 449), 1134),
    ((123.273, 171.499, 397.792), (775, 1765, 1516), 1032),
]


@pytest.mark.parametrize("vertex, columns, row", LIGHT_VERTICES)
def test_vertices_fall_on_the_pixels_of_the_light_file(vertex, columns, row):
    images = read(still(FULL), points_at(vertex))
    for (column, rows, charge, label), wanted in zip(images, columns, strict=True):
        brightest = np.argmax(charge)
        assert abs(column[brightest] - wanted) <= 1
        # The true times within the spill, up to 10 us or 5 rows, differ.
        assert abs(rows[brightest] - row) <= 5
        assert label[brightest] == COSMIC


def test_one_point_is_at_one_time_on_consistent_wires():
    rng = np.random.default_rng(8)
    for x, y, z in rng.uniform(-1, 1, (20, 3)) * (190, 190, 240) + (0, 0, 250):
        (u, v, w) = read(still(FULL), points_at((x, y, z)))
        peak = [plane[2].argmax() for plane in (u, v, w)]
        assert len({plane[1][i] for plane, i in zip((u, v, w), peak, strict=True)}) == 1
        column = [plane[0][i] for plane, i in zip((u, v, w), peak, strict=True)]
        assert abs(column[0] + column[1] - 1024 - column[2]) <= 1


def test_volumes_mirror_at_the_cathode_and_shift_with_time():
    for time, distance in ((0.0, 0), (-400.0, 200)):
        low, high = (
            read(still(FULL), points_at((x, 10.0, 99.0), time=time))[2]
            for x in (-1.0, 1.0)
        )
        rows = [plane[1][plane[2].argmax()] for plane in (low, high)]
        assert rows[0] + rows[1] == 1279
        # In time 1 cm is 3 rows from the middle; early ones lie 2 us per row before.
        assert rows[0] == pytest.approx(640 - 3 - distance, abs=2)


def test_charge_outside_volume_or_window_is_not_read():
    outside = points_at((201, 0, 9), (9, 201, 9), (9, 9, -1), (9, 9, 501), (0.5, 0, 9))
    outside.time[4] = 400.0
    assert all(charge.size == 0 for _, _, charge, _ in read(still(FULL), outside))


def test_neutrino_labels_lie_on_top_of_cosmic_ones():
    place = (-80.0, 20.0, 300.0)
    both = tracks.join_segments(
        [points_at(place, origin=NEUTRINO, energy=0.5), points_at(place, energy=50.0)]
    )
    for _, _, charge, label in read(still(FULL), both):
        assert label[charge.argmax()] == NEUTRINO
    for _, _, charge, label in read(still(FULL), points_at(place)):
        assert label[charge.argmax()] == COSMIC


def test_pulse_tails_are_stored_as_background():
    _, _, charge, label = read(still(FULL), points_at((-80.0, 20.0, 300.0)))[0]
    assert (label == BACKGROUND).any() and (charge > FULL.threshold).all()
    assert charge[label == COSMIC].min() > charge[label == BACKGROUND].max()


def test_flat_tracks_read_more_charge_than_steep_ones():
    # A row stores its largest sample, so a short pulse counts more than a long one.
    line = np.linspace(0, 30, 600)
    flat = points_at(*[(-100.0, 0.0, 200 + d) for d in line], energy=0.1)
    steep = points_at(*[(-100.0 + d, 0.0, 200.0) for d in line], energy=0.1)
    totals = [read(still(FULL), track)[2][2].sum() for track in (flat, steep)]
    assert 1.3 < totals[0] / totals[1] < 2.0


def test_kernel_keeps_a_steady_current():
    for plane in range(3):
        assert pulse_kernel(FULL, plane).sum() == pytest.approx(FULL.ticks_per_row)


def test_recombination_is_that_of_the_modified_box_model():
    share = recombination(FULL, np.array([2.1, 20.0]))
    # With 0.212 / (1.396 * 0.5): ln(1.568) / 0.638 and ln(7.004) / 6.074.
    np.testing.assert_allclose(share, [0.7050, 0.3205], atol=2e-4)


def test_farther_drift_is_wider():
    geometry = make_geometry(FULL)
    spreads = []
    for x in (-199.0, -1.0):
        points = drift(
            FULL, geometry, np.random.default_rng(9),
            points_at(*[(x, 0.0, 250.0)] * 4000, energy=1.0),
        )  # fmt: skip
        spreads.append((points.z.std(), points.tick.std(), points.charge.sum()))
    assert spreads[1][0] > 5 * spreads[0][0] and spreads[1][1] > spreads[0][1]
    # sqrt(2 D t) at 2 m: 0.20 cm across.
    assert spreads[1][0] == pytest.approx(np.sqrt(2 * 16.3e-6 * 1275), rel=0.05)
    assert spreads[1][2] / spreads[0][2] == pytest.approx(np.exp(-0.127), rel=0.01)


@given(st.sets(st.integers(0, 63), max_size=40))
@settings(max_examples=200, deadline=None)
def test_neighbours_are_those_of_brute_force(touched):
    rows = 8
    wanted = set(touched)
    for pixel in touched:
        wanted |= {
            near for near in (pixel - 1, pixel + 1) if near // rows == pixel // rows
        }
    found = readout.with_neighbours(np.array(sorted(touched), np.int64), rows)
    assert found.tolist() == sorted(wanted)


def test_noise_halves_are_noisy_where_the_light_file_is():
    rng = np.random.default_rng(10)
    for plane, noisy in ((0, 1), (1, 0)):
        ids, counts = noise.noise_pixels(
            FULL, rng, plane, make_geometry(FULL).planes[plane]
        )
        volume = ids % 1280 // 640
        counted = np.bincount(volume)
        assert counted[noisy] > 8 * counted[1 - noisy]
        assert (counts >= FULL.threshold).all()
        # Bursts: pixels of noisy halves have neighbours in time, quiet ones do not.
        near = [
            np.isin(ids[volume == v] + 1, ids[volume == v]).mean()
            for v in (noisy, 1 - noisy)
        ]
        assert near[0] > 0.2 and near[1] < 0.02


def test_events_are_valid_images(full_simulator):
    for number in range(3):
        event = full_simulator.event(11, number)
        for plane, image in enumerate(event.planes):
            assert image.ids.dtype == np.uint64
            assert (np.diff(image.ids.astype(np.int64)) > 0).all()
            assert (image.charge > FULL.threshold).all()
            assert np.isin(image.label, (0, 1, 2)).all()
            column = image.ids.astype(int) // 1280
            # As in the light file.
            first, last = (31, 2016) if plane < 2 else (191, 1856)
            assert first <= column.min() and column.max() <= last
            grid = image.charge / FULL.counts_grid
            assert (grid == np.round(grid)).all()
        if event.interaction is None:
            assert all((image.label < NEUTRINO).all() for image in event.planes)


def same(first, second):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first.planes, second.planes, strict=True)
        for name in ("ids", "charge", "label")
    )


def test_an_event_depends_on_seed_and_number_alone(simulator):
    forward = [simulator.event(5, number) for number in range(4)]
    other = Simulator(SMALL)
    for number in reversed(range(4)):
        assert same(other.event(5, number), forward[number])
    assert not same(forward[0], forward[1])
    assert not same(simulator.event(6, 0), forward[0])


def test_the_first_event_has_not_changed(simulator):
    """Pinned: another number means a new GENERATOR_VERSION (and new checksums)."""
    images = simulator.event(1, 0).planes
    stored = [np.bincount(image.label.astype(int)).tolist() for image in images]
    assert stored == PINNED_CLASSES


PINNED_CLASSES = [[1160, 1502, 189], [1257, 1565, 131], [332, 1443, 210]]
"""Stored pixels of background, cosmics and neutrino of each plane."""


@pytest.mark.parametrize("loops", ["C", "numpy"])
def test_the_content_of_files_has_not_changed(tmp_path, monkeypatch, loops):
    """Pinned as above: every column of every table, charges, labels and truth."""
    if loops == "numpy":
        monkeypatch.setattr(native, "routines", None)
    elif native.routines is None:
        pytest.skip("native.c is not built: pip install -e . with a C compiler")
    path = tmp_path / "events.h5"
    write_events(path, SMALL, seed=1, events=4)
    assert content_checksum(path) == PINNED_CHECKSUM


PINNED_CHECKSUM = "f9c51c6bd81438004661a424d268c5861a7ef97b01e895cf3b3065e82f93097f"


@pytest.mark.parametrize("shape", [(1280, 2048), (1408, 2048), (320, 512), (32, 32)])
def test_shapes_scale_the_same_detector(shape):
    parameters = dataclasses.replace(FULL, image_shape=shape)
    geometry = make_geometry(parameters)
    # All wires fit, and all of the drift.
    reach = wire_coordinate(parameters, 0, np.array([-200.0]), np.array([500.0]))[0]
    assert reach <= shape[1] / 2 * geometry.planes[0].pitch_cm
    drift_us = FULL.half_width_cm / FULL.drift_cm_per_us
    assert geometry.start_us + geometry.window_us >= drift_us - geometry.row_us
    images = Simulator(parameters).event(2, 0).planes
    assert all(0 < image.ids.size for image in images)
    assert all(int(image.ids.max()) < shape[0] * shape[1] for image in images)


def test_the_second_version_begins_before_the_trigger():
    parameters = dataclasses.replace(FULL, image_shape=(1408, 2048))
    meta = plane_metas(make_geometry(parameters))[2]
    # CosmicTagger's constants of dataset version 2; its origin is at -18.1 cm.
    assert meta.number_of_voxels == (2048, 1408)
    np.testing.assert_allclose(meta.image_sizes, (614.4, 439.466), rtol=1e-3)
    np.testing.assert_allclose(meta.origin, (-57.6, -18.1), atol=2.0)


@pytest.mark.parametrize("shape", [(1280, 2000), (100, 512), (0, 512), (-320, 512)])
def test_shapes_that_do_not_divide_are_refused(shape):
    parameters = dataclasses.replace(FULL, image_shape=shape)
    with pytest.raises(ValueError, match="multiples of 32"):
        Simulator(parameters)


def test_parameters_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.threshold = 1.0  # type: ignore[misc]


def test_truth_says_what_happened(full_simulator):
    seen = set()
    for number in range(40):
        rng_event = full_simulator.event(12, number)
        interaction, rows = rng_event.interaction, particle_table(rng_event)
        boxes = box_tables(FULL, full_simulator.geometry, rng_event)
        if interaction is None:
            seen.add("none")
            assert rows["pdg"].tolist() == [0] and not any(len(b) for b in boxes)
            continue
        seen.add((abs(interaction.pdg), interaction.current_type))
        assert rows["pdg"][0] == interaction.pdg
        assert rows["current_type"][0] == interaction.current_type
        assert rows["energy_init"][0] == pytest.approx(interaction.energy / 1000)
        assert rows["vtx"]["x"][0] == interaction.vertex[0]
        # Energy and momentum of every row belong to one mass.
        mass = rows["energy_init"] ** 2 - sum(rows[k] ** 2 for k in ("px", "py", "pz"))
        wanted = [interactions.MASSES.get(abs(int(p)), 0) / 1000 for p in rows["pdg"]]
        np.testing.assert_allclose(mass, np.square(wanted), atol=1e-9)
        if interaction.current_type == 0:
            check_box(full_simulator, rng_event, boxes)
        if len(seen) == 4:
            break
    assert {"none", (12, 0), (14, 0), (14, 1)} <= seen


def check_box(simulator, event, boxes):
    """Neutrino pixels begin at the vertex box of each plane."""
    height = simulator.geometry.planes[0].shape[0]
    for image, table, meta in zip(
        event.planes, boxes, plane_metas(simulator.geometry), strict=True
    ):
        chosen = image.ids[image.label == NEUTRINO].astype(int)
        step = np.array(meta.image_sizes) / meta.number_of_voxels
        pixel = (table["centroid"][0] - meta.origin) / step
        away = np.hypot(chosen // height + 0.5 - pixel[0], chosen % height - pixel[1])
        assert away.min() < 4
        np.testing.assert_allclose(table["half_length"][0], 1.5 * step)
        assert table["rotation"][0].tolist() == [1, 0, 0, 1]


@pytest.mark.skipif(not SHARED, reason="CTJAX_SHARED is not set")
def test_ten_events_hold_as_many_pixels_as_the_light_file(full_simulator):
    import h5py

    path = os.path.join(SHARED or "", "data", "cosmic_tagging_light.h5")
    with h5py.File(path) as file:
        sizes = file["Data/sparse2d_sbndwire_group/voxel_extents"]["N"]
    light = np.reshape(sizes, (-1, 3)).mean(0)
    made = [
        [image.ids.size for image in full_simulator.event(13, number).planes]
        for number in range(10)
    ]
    ratio = np.mean(made, 0) / light
    assert (ratio > 1 / 1.5).all() and (ratio < 1.5).all()
