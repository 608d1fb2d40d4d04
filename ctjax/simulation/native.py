"""Calls the loops of native.c, where the installation could build them.

showers.py, drift.py, noise.py and readout.py have the same in numpy, for installations
without a compiler; both give the same bits. Each function gives None where numpy is to
do it.
"""

import ctypes

import numpy as np

from ctjax.base import native_library
from ctjax.base.native_library import address


class Plane(ctypes.Structure):
    """Holds the constants of one plane and its image, `struct plane` in C."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("height", "width", "volumes")),
        *((name, ctypes.c_int64) for name in ("per_row", "reach")),
        *((name, ctypes.c_int64) for name in ("first_column", "last_column")),
        *((name, ctypes.c_double) for name in ("cosine", "sine")),
        *((name, ctypes.c_double) for name in ("half_depth", "pitch", "grid")),
        *((name, ctypes.c_float) for name in ("gain", "noise_counts")),
        *((name, ctypes.c_float) for name in ("threshold", "label_threshold")),
        ("kernel", ctypes.c_void_p),
    )


class Box(ctypes.Structure):
    """Holds the active volume and a margin around it in cm, `struct box` in C."""

    _fields_ = tuple(
        (name, ctypes.c_double)
        for name in ("half_width", "half_height", "depth", "margin")
    )


def _load() -> ctypes.CDLL | None:
    routines = native_library.load(native_library.SIMULATION)
    if routines is None:
        return None
    pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    plane = ctypes.POINTER(Plane)
    routines.ctjax_drift.argtypes = [
        *(count, count, pointer, pointer, pointer, pointer, pointer, number),
        *(pointer, pointer, pointer, pointer, pointer, pointer, pointer),
    ]
    routines.ctjax_drift.restype = None
    routines.ctjax_signal.argtypes = [
        *(plane, count, pointer, pointer, pointer, pointer, pointer, pointer, pointer),
        *(pointer, pointer, pointer),
    ]
    routines.ctjax_signal.restype = count
    routines.ctjax_store.argtypes = [
        *(plane, count, pointer, pointer, pointer, pointer),
        *(count, pointer, pointer, pointer, pointer, pointer),
    ]
    routines.ctjax_store.restype = count
    box, real = ctypes.POINTER(Box), ctypes.c_double
    routines.ctjax_end_step.argtypes = [
        *(box, real, count, pointer, pointer, pointer, pointer, pointer, pointer),
        *(pointer, pointer, pointer, pointer, pointer, pointer, pointer),
    ]
    routines.ctjax_end_step.restype = None
    routines.ctjax_fly.argtypes = [
        *(box, count, pointer, pointer, pointer, pointer, pointer)
    ]
    routines.ctjax_fly.restype = count
    routines.ctjax_convert.argtypes = [
        *(real, real, count, count, pointer, pointer, pointer, pointer, pointer),
        *(pointer, pointer, pointer),
    ]
    routines.ctjax_convert.restype = count
    routines.ctjax_spread.argtypes = [
        *(real, count, count, pointer, pointer, pointer, pointer, pointer, pointer),
        *(pointer, pointer, pointer, pointer),
    ]
    routines.ctjax_spread.restype = count
    return routines


routines = _load()
"""None where numpy does it all; looked up at every call."""


def drift(
    per_segment: np.ndarray,
    pieces: np.ndarray,
    of_neutrino: np.ndarray,
    kicks: np.ndarray,
    limits: tuple[float, float, float, int],
    per_tick: float,
) -> tuple[np.ndarray, ...] | None:
    """Cuts segments into points as drift.make_points does; see there."""
    if routines is None:
        return None
    number = kicks.shape[1]
    if per_segment.shape != (12, pieces.size) or pieces.sum() != number:
        raise ValueError(f"expected {number} pieces, got {pieces.sum()}")
    tick, volume = np.empty(number, np.int32), np.empty(number, bool)
    y, z = np.empty(number), np.empty(number)
    charge, energy = np.empty(number, np.float32), np.empty(number, np.float32)
    is_neutrino = np.empty(number, bool)
    bounds = np.array(limits, np.float64)
    routines.ctjax_drift(
        pieces.size,
        number,
        address(per_segment, np.float32),
        address(pieces, np.int64),
        address(of_neutrino, np.bool_, pieces.size),
        address(kicks, np.float32),
        address(bounds, np.float64),
        per_tick,
        address(tick, np.int32),
        address(volume, np.bool_),
        address(y, np.float64),
        address(z, np.float64),
        address(charge, np.float32),
        address(energy, np.float32),
        address(is_neutrino, np.bool_),
    )
    return tick, volume, y, z, charge, energy, is_neutrino


def signal(
    plane: Plane,
    tick: np.ndarray,
    volume: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    charge: np.ndarray,
    energy: np.ndarray,
    is_neutrino: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Makes pixels, pulses and labels as Readout.make_signal does; see there."""
    if routines is None:
        return None
    if plane.volumes == 1 and volume.any():
        raise ValueError("expected points of the one volume that the plane shows")
    most = 3 * tick.size
    pixels = np.empty(most, np.int64)
    pulses, labels = np.empty(most, np.float32), np.empty(most, np.float32)
    number = routines.ctjax_signal(
        plane,
        tick.size,
        address(tick, np.int32),
        address(volume, np.bool_, tick.size),
        address(y, np.float64, tick.size),
        address(z, np.float64, tick.size),
        address(charge, np.float32, tick.size),
        address(energy, np.float32, tick.size),
        address(is_neutrino, np.bool_, tick.size),
        address(pixels, np.int64),
        address(pulses, np.float32),
        address(labels, np.float32),
    )
    return None if number < 0 else (pixels[:number], pulses[:number], labels[:number])


def store(
    plane: Plane,
    pixels: np.ndarray,
    pulses: np.ndarray,
    white: np.ndarray,
    classes: np.ndarray,
    noise_ids: np.ndarray,
    noise_counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Makes ids, charge and label as Readout.store does; see there."""
    if routines is None:
        return None
    most = pixels.size + noise_ids.size
    ids = np.empty(most, np.uint64)
    charges, labels = np.empty(most, np.float32), np.empty(most, np.float32)
    number = routines.ctjax_store(
        plane,
        pixels.size,
        address(pixels, np.int64),
        address(pulses, np.float32, pixels.size),
        address(white, np.float32, pixels.size),
        address(classes, np.float32, pixels.size),
        noise_ids.size,
        address(noise_ids, np.int64),
        address(noise_counts, np.float64, noise_ids.size),
        address(ids, np.uint64),
        address(charges, np.float32),
        address(labels, np.float32),
    )
    return None if number < 0 else (ids[:number], charges[:number], labels[:number])


def end_step(
    box: Box,
    cut: float,
    data: np.ndarray,
    step: np.ndarray,
    flight: np.ndarray,
    energy: np.ndarray,
    photon: np.ndarray,
    random: np.ndarray,
    cosine: np.ndarray,
    cosine_azimuth: np.ndarray,
    sine_azimuth: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Ends a piece of each electron as showers.end_step does; see there."""
    if routines is None:
        return None
    data = np.ascontiguousarray(data)
    number = data.shape[1]
    ends, counts = np.empty((5, number)), np.empty(2, np.int64)
    radiated, left = np.empty_like(data), np.empty_like(data)
    routines.ctjax_end_step(
        box,
        cut,
        number,
        address(data, np.float64),
        address(step, np.float64, number),
        address(flight, np.float64, number),
        address(energy, np.float64, number),
        address(photon, np.float64, number),
        address(random, np.float64, number),
        address(cosine, np.float64, number),
        address(cosine_azimuth, np.float64, number),
        address(sine_azimuth, np.float64, number),
        address(ends, np.float64),
        address(radiated, np.float64),
        address(left, np.float64),
        address(counts, np.int64),
    )
    emitted, going = counts.tolist()
    return ends, radiated[:, :emitted], left[:, :going]


def fly(
    box: Box, data: np.ndarray, flight: np.ndarray, of_each: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Flies photons on as showers.fly does; see there."""
    if routines is None:
        return None
    data = np.ascontiguousarray(data)
    flown, of_flown = np.empty_like(data), np.empty_like(of_each)
    number = routines.ctjax_fly(
        box,
        data.shape[1],
        address(data, np.float64),
        address(flight, np.float64, data.shape[1]),
        address(of_each, np.float64, data.shape[1]),
        address(flown, np.float64),
        address(of_flown, np.float64),
    )
    return flown[:, :number], of_flown[:number]


def convert(
    electron_mev: float,
    cut: float,
    data: np.ndarray,
    is_pair: np.ndarray,
    share: np.ndarray,
    random: np.ndarray,
    cosine_azimuth: np.ndarray,
    sine_azimuth: np.ndarray,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Makes pairs and Compton electrons as showers.convert does; see there."""
    if routines is None:
        return None
    data = np.ascontiguousarray(data)
    rows, number = data.shape
    if share.size != np.count_nonzero(is_pair):
        raise ValueError(f"expected a share of every pair, got {share.size}")
    electrons, scattered = np.empty((rows, number + share.size)), np.empty_like(data)
    going = routines.ctjax_convert(
        electron_mev,
        cut,
        number,
        share.size,
        address(data, np.float64),
        address(is_pair, np.bool_, number),
        address(share, np.float64),
        address(random, np.float64, number - share.size),
        address(cosine_azimuth, np.float64, number - share.size),
        address(sine_azimuth, np.float64, number - share.size),
        address(electrons, np.float64),
        address(scattered, np.float64),
    )
    return electrons, scattered[:, :going]


def spread(
    gap_rows: float,
    num_rows: int,
    mean_excess: np.ndarray,
    runs: np.ndarray,
    gap: np.ndarray,
    start: np.ndarray,
    column: np.ndarray,
    kind: np.ndarray,
    random: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Places the runs of bursts as noise.spread does; see there."""
    if routines is None:
        return None
    if random.size != kind.sum() + kind.size or gap.size != runs.sum():
        raise ValueError(f"expected a number for every run and pixel, got {gap.size}")
    columns, rows = np.empty(random.size, np.int64), np.empty(random.size, np.int64)
    excesses = np.empty(random.size)
    number = routines.ctjax_spread(
        gap_rows,
        num_rows,
        runs.size,
        address(mean_excess, np.float64),
        address(runs, np.int64),
        address(gap, np.float64),
        address(start, np.int64, runs.size),
        address(column, np.int64, runs.size),
        address(kind, np.int64, gap.size),
        address(random, np.float64),
        address(columns, np.int64),
        address(rows, np.int64),
        address(excesses, np.float64),
    )
    return columns[:number], rows[:number], excesses[:number]
