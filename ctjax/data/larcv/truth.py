"""Reads the true neutrino of each event from larcv3's particle table."""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from ctjax.data.larcv.errors import Place, as_larcv_error

PARTICLE_GROUP = "Data/particle_sbndneutrino_group"

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
        with as_larcv_error(Place(path), f"a readable {PARTICLE_GROUP}"):
            neutrinos.append(_read_file(path))
    return np.concatenate(neutrinos)


def _read_file(path: str) -> np.ndarray:
    with h5py.File(path, "r") as opened:
        file: Any = opened
        neutrinos = np.zeros(len(file["Events/event_id"]), NEUTRINO_TYPE)
        neutrinos[:] = np.array(UNKNOWN, NEUTRINO_TYPE)
        if PARTICLE_GROUP not in file:
            return neutrinos
        extents = file[f"{PARTICLE_GROUP}/extents"][:]
        particles = file[f"{PARTICLE_GROUP}/particles"][:]
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
