"""Reads the true neutrino of each event from larcv3's particle table."""

from collections.abc import Sequence

import h5py
import numpy as np

from ctjax.base.constants import PARTICLE_PRODUCT
from ctjax.data.larcv.errors import Place, as_larcv_error
from ctjax.data.larcv.tables import find_member

PARTICLE_GROUP = f"particle_{PARTICLE_PRODUCT}_group"

FLAVOURS = {
    12: "\N{GREEK SMALL LETTER NU}e",
    14: "\N{GREEK SMALL LETTER NU}\N{GREEK SMALL LETTER MU}",
    16: "\N{GREEK SMALL LETTER NU}\N{GREEK SMALL LETTER TAU}",
}
"""Names by the absolute value of the PDG code."""

NEUTRINO_TYPE = np.dtype([("energy_gev", "f8"), ("pdg", "i4"), ("current", "i2")])
"""One event: energy (not a number where unknown), kind, 0 charged or 1 neutral."""

UNKNOWN = (np.nan, 0, -1)


def read_neutrinos(paths: Sequence[str]) -> np.ndarray:
    """Reads the first particle of every event, if it is a neutrino.

    Args:
      paths: larcv3 files that have been opened before, so that they are sound.

    Returns:
      [N] of `NEUTRINO_TYPE`, the events of all files in their order; unknown where a
      file has no such table or an event no neutrino.

    Raises:
      LarcvFileError: a table of particles cannot be read.
    """
    neutrinos = []
    for path in paths:
        with as_larcv_error(Place(path), f"a readable Data/{PARTICLE_GROUP}"):
            neutrinos.append(_read_file(path))
    return np.concatenate(neutrinos)


def _read_file(path: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        place = Place(path)
        events, data = (find_member(file, name, place) for name in ("Events", "Data"))
        num_events = len(find_member(events, "event_id", place))
        neutrinos = np.full(num_events, np.array(UNKNOWN, NEUTRINO_TYPE))
        group = find_member(data, PARTICLE_GROUP, place)
        if group is None:
            return neutrinos
        tables = [find_member(group, name, place) for name in ("extents", "particles")]
        if None in tables:
            place.fail("no table of them", f"a readable Data/{PARTICLE_GROUP}")
        extents, particles = (table[:] for table in tables)
    if not {"pdg", "energy_init", "current_type"} <= set(particles.dtype.names or ()):
        return neutrinos
    extents = extents[: len(neutrinos)]
    rows = extents["first"].astype(np.int64)
    is_there = (extents["N"] > 0) & (rows >= 0) & (rows < len(particles))
    events = np.flatnonzero(is_there)
    first = particles[rows[events]]
    is_neutrino = np.isin(np.abs(first["pdg"]), list(FLAVOURS))
    events, first = events[is_neutrino], first[is_neutrino]
    neutrinos["energy_gev"][events] = first["energy_init"]
    neutrinos["pdg"][events] = first["pdg"]
    neutrinos["current"][events] = first["current_type"]
    return neutrinos


def neutrino_name(neutrino: np.void) -> str:
    """Names a neutrino with interaction and energy; empty where unknown."""
    if not neutrino["pdg"]:
        return ""
    flavour = FLAVOURS[abs(int(neutrino["pdg"]))]
    bar = "anti-" if neutrino["pdg"] < 0 else ""
    current = {0: " charged current", 1: " neutral current"}.get(
        int(neutrino["current"]), ""
    )
    return f"{bar}{flavour}{current}, {neutrino['energy_gev']:.2f} GeV"
