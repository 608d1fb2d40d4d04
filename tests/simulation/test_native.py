"""The simulation's loops in C: the bits of those in numpy."""

import dataclasses

import numpy as np
import pytest

from ctjax.base.constants import COSMIC, NEUTRINO
from ctjax.simulation import native, noise, showers
from ctjax.simulation.detectors import DETECTORS
from ctjax.simulation.drift import Points, drift
from ctjax.simulation.events import Simulator
from ctjax.simulation.geometry import make_geometry
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.readout import Readout
from ctjax.simulation.segments import Particles, Segments, isotropic

needs_library = pytest.mark.skipif(
    native.routines is None,
    reason="native.c is not built: pip install -e . with a C compiler",
)
FULL = SimulationParameters()
CHANGES = {
    "full": {},
    "small": {"image_shape": (160, 256)},
    # Heights that are no multiple of 64, and a window before the trigger.
    "smallest": {"image_shape": (32, 32)},
    "tall": {"image_shape": (1440, 96)},
    "other readout": {
        "image_shape": (96, 160),
        "ticks_per_row": 6,
        "counts_grid": 0.1,
        "threshold": 2.0,
        "label_threshold_mev": 0.3,
    },
    "one tick": {"image_shape": (320, 64), "ticks_per_row": 1},
    # So much noise that it meets itself and signal in most pixels.
    "noise": {"image_shape": (64, 64), "noise_pixels": ((6e5, 4e6),) * 3},
    "silence": {"image_shape": (64, 64), "noise_pixels": ((0.0, 0.0),) * 3},
}
VARIANTS = {
    **{name: dataclasses.replace(FULL, **given) for name, given in CHANGES.items()},
    # Planes of different widths and of one volume, the first one not of 64 rows.
    "microboone": dataclasses.replace(DETECTORS["microboone"], image_shape=(48, 144)),
    "two TPCs": dataclasses.replace(DETECTORS["two_tpcs"], image_shape=(96, 64)),
}


def bits(arrays):
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays]


def in_numpy(make):
    """What a function returns with the loops in numpy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "routines", None)
        return make()


def event_bits(parameters, seed):
    event = Simulator(parameters).event(seed, 3)
    return [bits((p.ids, p.charge, p.label)) for p in event.planes]


@needs_library
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_give_the_same_events(variant, seed):
    parameters = VARIANTS[variant]
    found = event_bits(parameters, seed)
    assert found == in_numpy(lambda: event_bits(parameters, seed))


def segments_around(rng, number):
    """Segments inside, outside and across every face, early, late, long and short."""
    middle = rng.uniform(-1.3, 1.3, (3, number)) * [[200.0], [200.0], [250.0]]
    middle[2] += 250
    middle[0, ::7] = 0.0
    half = rng.normal(0, 1, (3, number)) * rng.choice([0.0, 0.01, 0.5, 5.0], number)
    return Segments(
        middle - half,
        middle + half,
        rng.exponential(1.0, number),
        rng.uniform(0.5, 150.0, number),
        rng.uniform(-1400.0, 1400.0, number),
        rng.choice([float(COSMIC), float(NEUTRINO)], number),
    )


@needs_library
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["sbnd", "microboone"])
def test_both_drift_to_the_same_points(name, seed):
    segments = segments_around(np.random.default_rng(seed), 3000)
    parameters = DETECTORS[name]
    geometry = make_geometry(parameters)

    def points():
        made = drift(parameters, geometry, np.random.default_rng(9), segments)
        return bits(getattr(made, field.name) for field in dataclasses.fields(Points))

    assert points() == in_numpy(points)


def points_around(rng, parameters, geometry, number):
    """Points that crowd, at edges of the image and of samples too."""
    energy = rng.exponential(0.05, number).astype(np.float32)
    energy[::2] = parameters.label_threshold_mev
    last = geometry.ticks_per_volume - 1
    tick = rng.integers(0, last + 1, number)
    tick[::5] = rng.choice([0, 1, 3, 4, last - 4, last - 1, last], tick[::5].size)
    return Points(
        tick.astype(np.int32),
        rng.random(number) < (0.5 if len(parameters.plane_volumes[0]) == 2 else 0.0),
        rng.normal(0, 150, number),
        rng.choice([250.0, 100.0, 600.0, -90.0], number) + rng.normal(0, 2, number),
        rng.exponential(0.05, number).astype(np.float32),
        energy,
        rng.random(number) < 0.3,
    )


@needs_library
@pytest.mark.parametrize("number", [0, 1, 50, 20_000])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_read_out_the_same_image(variant, number):
    parameters = VARIANTS[variant]
    geometry = make_geometry(parameters)
    points = points_around(np.random.default_rng(number), parameters, geometry, number)

    def image(readout, plane):
        rng = np.random.default_rng(plane)
        made = readout.image(rng, points, plane)
        return bits((made.ids, made.charge, made.label))

    ours, theirs = Readout(parameters, geometry), Readout(parameters, geometry)
    made = native.signal(
        ours.planes[0],
        *(getattr(points, name) for name in ("tick", "volume", "y", "z")),
        *(getattr(points, name) for name in ("charge", "energy", "is_neutrino")),
    )
    assert made is not None  # else numpy would be compared with itself
    for plane in (*range(len(geometry.planes)), 0):
        found = image(ours, plane)
        assert found == in_numpy(lambda plane=plane: image(theirs, plane))
    # Nothing is left behind for the next event.
    for scratch in (theirs.samples, theirs.energy, theirs.flags):
        assert not scratch.any()


@needs_library
def test_points_that_a_plane_does_not_show_are_refused():
    parameters = VARIANTS["microboone"]
    readout = Readout(parameters, make_geometry(parameters))
    points = points_around(np.random.default_rng(1), parameters, readout.geometry, 9)
    points.volume[4] = True
    with pytest.raises(ValueError, match="points of the one volume"):
        readout.image(np.random.default_rng(1), points, 0)


def particles_around(rng, number):
    """Particles inside and around the volume, in all directions, of all energies."""
    position = rng.uniform(-1.2, 1.2, (3, number)) * [[200.0], [200.0], [250.0]]
    position[2] += 250
    direction = isotropic(rng, number)
    direction[:, ::9] = np.array([[0.0], [0.0], [-1.0]])
    direction[:, 1::9] = np.array([[0.0], [0.0], [1.0]])
    direction[2, 2::9] *= 0.0
    energy = 10 ** rng.uniform(-4, 3.5, number)
    return Particles.make(position, direction, energy, rng.random(number), COSMIC)


def angles(rng, number):
    azimuth = rng.uniform(0, 2 * np.pi, number)
    return np.cos(azimuth), np.sin(azimuth)


BOX = native.Box(200.0, 200.0, 500.0, 10.0)


@needs_library
@pytest.mark.parametrize("number", [0, 1, 5000])
def test_both_end_steps_alike(number):
    rng = np.random.default_rng(number)
    data = particles_around(rng, number).data
    flight, other = rng.exponential(1.0, (2, number))
    arguments = (
        *(BOX, 0.4, data, np.minimum(flight, other) * (rng.random(number) < 0.9)),
        *(flight, data[6] * rng.random(number), 10 ** rng.uniform(-1, 2, number)),
        *(rng.random(number), rng.uniform(-1, 1, number), *angles(rng, number)),
    )
    found = native.end_step(*arguments)
    assert bits(found) == bits(showers.end_step(*arguments))
    assert number < 2 or 0 < found[1].shape[1] < found[2].shape[1] < number


@needs_library
@pytest.mark.parametrize("number", [0, 1, 5000])
def test_both_fly_and_convert_photons_alike(number):
    rng = np.random.default_rng(number)
    data = particles_around(rng, number).data
    flying = BOX, data, rng.exponential(30.0, number), rng.random(number)
    found = native.fly(*flying)
    assert bits(found) == bits(showers.fly(*flying))
    assert number < 2 or 0 < found[1].size < number

    is_pair = rng.random(number) < 0.4
    pairs = int(is_pair.sum())
    arguments = (
        *(0.511, 0.1, data, is_pair, rng.random(pairs), rng.random(number - pairs)),
        *angles(rng, number - pairs),
    )
    found = native.convert(*arguments)
    assert bits(found) == bits(showers.convert(*arguments))


@needs_library
@pytest.mark.parametrize("bursts", [0, 1, 3000])
def test_both_spread_bursts_alike(bursts):
    rng = np.random.default_rng(bursts)
    runs = rng.geometric(0.5, bursts)
    kind = rng.integers(0, 9, runs.sum())
    arguments = (
        *(7.0, 640, np.arange(1.0, 10.0), runs, rng.exponential(1.0, kind.size)),
        *(rng.integers(0, 640, bursts), rng.integers(31, 2017, bursts), kind),
        rng.exponential(1.0, int((kind + 1).sum())),
    )
    found = native.spread(*arguments)
    assert bits(found) == bits(noise.spread(*arguments))


@needs_library
def test_arrays_that_c_cannot_take_are_refused():
    segments = np.zeros((12, 2), np.float32)
    pieces, flags = np.array([1, 2]), np.zeros(2, bool)
    kicks = np.zeros((3, 3), np.float32)
    limits = 200.0, 200.0, 250.0, 2560
    good = [segments, pieces, flags, kicks, limits, 1.0]
    assert native.drift(*good)[0].size == 3
    for place, wrong in (
        (0, segments[:, :1]),
        (0, segments.astype(np.float64)),
        (1, np.array([1, 3])),
        (1, pieces.astype(np.int32)),
        (2, flags.astype(np.int64)),
        (3, np.zeros((3, 6), np.float32)[:, ::2]),
    ):
        with pytest.raises(ValueError, match="expected"):
            native.drift(*[*good[:place], wrong, *good[place + 1 :]])
