"""Follows an event's electrons and photons in one loop over generations."""

import numpy as np

from ctjax.simulation import native
from ctjax.simulation.energy_loss import ELECTRON_MEV, stopping_table
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import (
    Particles,
    Segments,
    join_particles,
    join_segments,
    turn_to,
)

# Photon energies (MeV), mass attenuation without coherent scattering (cm2/g) and the
# share of pair production in argon, rounded from NIST XCOM; the last two entries lead
# to the limit 7/9 per radiation length of 19.55 g/cm2.
PHOTON_MEV = np.array([0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0, 1000.0])
ATTENUATION_CM2_G = np.array(
    [0.190, 0.118, 0.0793, 0.0575, 0.0407, 0.0338, 0.0280, 0.0245, 0.0245, 0.0325,
     0.0390]
)  # fmt: skip
PAIR_SHARE = np.array([0.0, 0.0, 0.0, 0.0, 0.02, 0.08, 0.21, 0.50, 0.73, 0.95, 1.0])

LOG_PHOTON_MEV = np.log(PHOTON_MEV)

MARGIN_CM = 10.0
"""Particles farther outside of the active volume are not followed."""

SHORTEST_STEP_CM, LONGEST_STEP_CM, STEP_SHARE = 0.3, 4.0, 0.35
"""Straight pieces of an electron: a share of its range between two limits."""


def develop(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    electrons: Particles,
    photons: Particles,
) -> Segments:
    """Follows electrons, photons and all that they make until nothing is left.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.
      electrons: electrons and positrons.
      photons: photons; energy is their whole energy.

    Returns:
      The deposits of all electrons.

    Source:
      Bremsstrahlung spectrum: PDG 2024, Passage of Particles Through Matter. Positrons
      are electrons here.
    """
    deposits = []
    box = native.Box(
        parameters.half_width_cm,
        parameters.half_height_cm,
        parameters.depth_cm,
        MARGIN_CM,
    )
    while len(electrons) or len(photons):
        radiated, converted = [], []
        if len(electrons):
            segments, created, electrons = _step(parameters, box, rng, electrons)
            deposits.append(segments)
            radiated.append(created)
        if len(photons):
            made, photons = _interact(parameters, box, rng, photons)
            converted.append(made)
        photons = join_particles([photons, *radiated])
        electrons = join_particles([electrons, *converted])
    return join_segments(deposits) if deposits else _nothing(electrons)


def _nothing(particles: Particles) -> Segments:
    """Returns no deposit at all, from an empty batch of particles."""
    return Segments(
        particles.position,
        particles.position,
        particles.energy,
        particles.energy,
        particles.time,
        particles.origin,
    )


def _inside(box: native.Box, position: np.ndarray) -> np.ndarray:
    """Tells whether positions are within a margin of the active volume."""
    x, y, z = position
    return (
        (np.abs(x) < box.half_width + box.margin)
        & (np.abs(y) < box.half_height + box.margin)
        & (z > -box.margin)
        & (z < box.depth + box.margin)
    )


def _step(
    parameters: SimulationParameters,
    box: native.Box,
    rng: np.random.Generator,
    electrons: Particles,
) -> tuple[Segments, Particles, Particles]:
    """Moves each electron a straight piece on: deposits, photons, what is left."""
    table = stopping_table(ELECTRON_MEV, parameters.density_g_cm3)
    cut, radiation = parameters.bremsstrahlung_cut_mev, parameters.radiation_length_cm
    number = len(electrons)
    remaining = table.to_range(electrons.energy)
    # Majorant of the number of photons per cm; the rest of the spectrum is a rejection.
    rate = 4 / 3 * np.log(np.maximum(electrons.energy / cut, 1.0001)) / radiation
    flight = rng.exponential(1.0, number) / rate
    longest = np.minimum(
        np.maximum(STEP_SHARE * remaining, SHORTEST_STEP_CM), LONGEST_STEP_CM
    )
    step = np.minimum(np.minimum(longest, remaining), flight)
    energy = table.to_energy(remaining - step)

    kinetic = np.maximum(energy, 0.05)
    momentum_beta = kinetic * (kinetic + 2 * ELECTRON_MEV) / (kinetic + ELECTRON_MEV)
    width = 13.6 / momentum_beta * np.sqrt(step / radiation)
    draws = rng.random((4, number))
    polar = np.minimum(width * np.sqrt(-2 * np.log1p(-draws[0])), np.pi)
    azimuth = 2 * np.pi * draws[1]
    photon = cut * np.maximum(energy / cut, 1.0) ** draws[2]
    arguments = (
        *(box, cut, electrons.data, step, flight, energy, photon, draws[3]),
        *(np.cos(polar), np.cos(azimuth), np.sin(azimuth)),
    )
    ends, radiated, left = native.end_step(*arguments) or end_step(*arguments)
    segments = Segments(
        electrons.position,
        ends[:3],
        ends[3],
        ends[4],
        electrons.time,
        electrons.origin,
    )
    return segments, Particles(radiated), Particles(left)


def end_step(
    box: native.Box,
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends a piece of each electron; `native.end_step` does the same.

    Args:
      box: where electrons are followed.
      cut: smallest energy of a photon, MeV.
      data: [9, N] as in `Particles`.
      step: [N] length of the piece, cm.
      flight: [N] distance to the next photon, cm.
      energy: [N] after the piece, MeV.
      photon: [N] energy of the photon, where there is one, MeV.
      random: [N] in 0 to 1, decides about the photon.
      cosine: [N] of the polar angle of scattering.
      cosine_azimuth: [N].
      sine_azimuth: [N].

    Returns:
      [5, N] end of the piece (cm), energy (MeV) and energy per cm left on it; photons
      and electrons that go on as in `Particles`.
    """
    electrons = Particles(data)
    ends = np.empty((5, len(electrons)))
    end = electrons.position + electrons.direction * step
    lost = electrons.energy - energy
    ends[:3], ends[3], ends[4] = end, lost, lost / np.maximum(step, 1e-6)
    share = photon / np.maximum(energy, cut)
    accepted = random < 1 - share + 0.75 * share**2
    emits = (step >= flight) & (energy > cut) & accepted
    radiated = electrons.take(emits)
    radiated.data[:3], radiated.data[6] = end[:, emits], photon[emits]
    energy = energy - photon * emits
    turned = turn_to(electrons.direction, cosine, cosine_azimuth, sine_azimuth)
    goes_on = np.flatnonzero((energy > 0.02) & _inside(box, end))
    left = electrons.take(goes_on)
    left.data[:3], left.data[3:6] = end[:, goes_on], turned[:, goes_on]
    left.data[6] = energy[goes_on]
    return ends, radiated.data, left.data


def _interact(
    parameters: SimulationParameters,
    box: native.Box,
    rng: np.random.Generator,
    photons: Particles,
) -> tuple[Particles, Particles]:
    """Flies photons to their next interaction: electrons made, photons left."""
    logarithm = np.log(photons.energy)
    per_cm = np.interp(logarithm, LOG_PHOTON_MEV, ATTENUATION_CM2_G)
    per_cm *= parameters.density_g_cm3
    flight = rng.exponential(1.0, len(photons)) / per_cm
    flying = box, photons.data, flight, logarithm
    data, logarithm = native.fly(*flying) or fly(*flying)
    is_pair = rng.random(logarithm.size) < np.interp(
        logarithm, LOG_PHOTON_MEV, PAIR_SHARE
    )
    pairs = int(np.count_nonzero(is_pair))
    scattered = is_pair.size - pairs
    draws = rng.random(pairs + 2 * scattered)
    azimuth = 2 * np.pi * draws[pairs + scattered :]
    arguments = (
        *(ELECTRON_MEV, parameters.photon_cut_mev, data, is_pair, draws[:pairs]),
        *(draws[pairs : pairs + scattered], np.cos(azimuth), np.sin(azimuth)),
    )
    electrons, left = native.convert(*arguments) or convert(*arguments)
    return Particles(electrons), Particles(left)


def fly(
    box: native.Box,
    data: np.ndarray,
    flight: np.ndarray,
    of_each: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Flies photons on and drops those that leave; `native.fly` does the same.

    Args:
      box: where photons are followed.
      data: [9, N] as in `Particles`.
      flight: [N] cm.
      of_each: [N] a number of each.

    Returns:
      Like `data` and `of_each`, of those that stay.
    """
    photons = Particles(data).copy()
    photons.data[:3] += photons.direction * flight
    inside = np.flatnonzero(_inside(box, photons.position))
    return photons.take(inside).data, of_each[inside]


def convert(
    electron_mev: float,
    cut: float,
    data: np.ndarray,
    is_pair: np.ndarray,
    share: np.ndarray,
    random: np.ndarray,
    cosine_azimuth: np.ndarray,
    sine_azimuth: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Makes pairs and Compton scattering; `native.convert` does the same.

    Args:
      electron_mev: mass of an electron.
      cut: energy up to which photons are dropped, MeV.
      data: [9, N] as in `Particles`.
      is_pair: [N] bool.
      share: of the energy, for the first electron of each pair.
      random: in 0 to 1, for each scattered photon.
      cosine_azimuth: for each scattered photon.
      sine_azimuth: for each scattered photon.

    Returns:
      Electrons (first, then second ones of the pairs, then recoils) and photons.
    """
    photons = Particles(data)
    converting, scattering = photons.take(is_pair), photons.take(~is_pair)
    available = np.maximum(converting.energy - 2 * electron_mev, 0.0)
    first, second = converting.copy(), converting
    first.data[6], second.data[6] = share * available, (1 - share) * available
    recoil, scattered = _compton(
        electron_mev, scattering, random, cosine_azimuth, sine_azimuth
    )
    return (
        join_particles([first, second, recoil]).data,
        scattered.take(scattered.energy > cut).data,
    )


def _compton(
    electron_mev: float,
    photons: Particles,
    random: np.ndarray,
    cosine_azimuth: np.ndarray,
    sine_azimuth: np.ndarray,
) -> tuple[Particles, Particles]:
    """Returns recoil electrons and scattered photons.

    The recoil is drawn evenly up to its edge: at some MeV the Klein-Nishina spectrum is
    flat but for a rise at the edge, and the recoils are a few pixels long.
    """
    ratio = photons.energy / electron_mev
    recoil = photons.energy * (2 * ratio / (1 + 2 * ratio)) * random
    left = np.maximum(photons.energy - recoil, 1e-3)
    cosine = np.clip(1 - electron_mev * (1 / left - 1 / photons.energy), -1.0, 1.0)
    scattered, electrons = photons.copy(), photons
    scattered.data[3:6] = turn_to(
        photons.direction, cosine, cosine_azimuth, sine_azimuth
    )
    scattered.data[6] = left
    momentum = photons.energy * photons.direction - left * scattered.direction
    size = np.sqrt((momentum**2).sum(0)) + 1e-12
    electrons.data[3:6] = momentum / size
    electrons.data[6] = recoil
    return electrons, scattered
