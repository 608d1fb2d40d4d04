"""Electrons and photons: one loop over generations for all of an event together."""

import numpy as np

from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import (
    Particles,
    Segments,
    join_particles,
    join_segments,
    turn,
)
from ctjax.simulation.stopping import ELECTRON_MEV, stopping_table

# Photon energies (MeV), mass attenuation without coherent scattering (cm2/g) and the
# share of pair production in argon, rounded from NIST XCOM; the last two entries lead
# to the limit 7/9 per radiation length of 19.55 g/cm2.
PHOTON_MEV = np.array([0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0, 1000.0])
ATTENUATION_CM2_G = np.array(
    [0.190, 0.118, 0.0793, 0.0575, 0.0407, 0.0338, 0.0280, 0.0245, 0.0245, 0.0325,
     0.0390]
)  # fmt: skip
PAIR_SHARE = np.array([0.0, 0.0, 0.0, 0.0, 0.02, 0.08, 0.21, 0.50, 0.73, 0.95, 1.0])

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
    while len(electrons) or len(photons):
        created, converted = [], []
        if len(electrons):
            segments, radiated, electrons = _step(parameters, rng, electrons)
            deposits.append(segments)
            created.append(radiated)
        if len(photons):
            converted, photons = _interact(parameters, rng, photons)
        photons = join_particles([photons, *created])
        electrons = join_particles([electrons, *converted])
    return join_segments(deposits) if deposits else _nothing(electrons)


def _nothing(particles: Particles) -> Segments:
    """No deposit at all, from an empty batch of particles."""
    return Segments(
        particles.position,
        particles.position,
        particles.energy,
        particles.energy,
        particles.time,
        particles.origin,
    )


def _inside(parameters: SimulationParameters, position: np.ndarray) -> np.ndarray:
    """Whether positions are within 10 cm of the active volume."""
    margin = 10.0
    x, y, z = position
    return (
        (np.abs(x) < parameters.half_width_cm + margin)
        & (np.abs(y) < parameters.half_height_cm + margin)
        & (z > -margin)
        & (z < parameters.depth_cm + margin)
    )


def _step(
    parameters: SimulationParameters, rng: np.random.Generator, electrons: Particles
) -> tuple[Segments, Particles, Particles]:
    """One straight piece of each electron: deposits, photons, what goes on."""
    table = stopping_table(ELECTRON_MEV, parameters.density_g_cm3)
    cut, radiation = parameters.bremsstrahlung_cut_mev, parameters.radiation_length_cm
    number = len(electrons)
    remaining = table.to_range(electrons.energy)
    # Majorant of the number of photons per cm; the rest of the spectrum is a rejection.
    rate = 4 / 3 * np.log(np.maximum(electrons.energy / cut, 1.0001)) / radiation
    flight = rng.exponential(1.0, number) / rate
    longest = np.clip(STEP_SHARE * remaining, SHORTEST_STEP_CM, LONGEST_STEP_CM)
    step = np.minimum(np.minimum(longest, remaining), flight)
    energy = table.to_energy(remaining - step)
    end = electrons.position + electrons.direction * step
    segments = Segments(
        electrons.position,
        end,
        electrons.energy - energy,
        (electrons.energy - energy) / np.maximum(step, 1e-6),
        electrons.time,
        electrons.origin,
    )

    kinetic = np.maximum(energy, 0.05)
    momentum_beta = kinetic * (kinetic + 2 * ELECTRON_MEV) / (kinetic + ELECTRON_MEV)
    width = 13.6 / momentum_beta * np.sqrt(step / radiation)
    polar = np.minimum(width * np.sqrt(-2 * np.log1p(-rng.random(number))), np.pi)
    azimuth = 2 * np.pi * rng.random(number)

    photon = cut * np.maximum(energy / cut, 1.0) ** rng.random(number)
    share = photon / np.maximum(energy, cut)
    accepted = rng.random(number) < 1 - share + 0.75 * share**2
    emits = (step >= flight) & (energy > cut) & accepted
    radiated = electrons.take(emits)
    radiated.data[:3], radiated.data[6] = end[:, emits], photon[emits]
    energy = energy - photon * emits
    turned = turn(electrons.direction, np.cos(polar), azimuth)
    goes_on = np.flatnonzero((energy > 0.02) & _inside(parameters, end))
    left = electrons.take(goes_on)
    left.data[:3], left.data[3:6] = end[:, goes_on], turned[:, goes_on]
    left.data[6] = energy[goes_on]
    return segments, radiated, left


def _interact(
    parameters: SimulationParameters, rng: np.random.Generator, photons: Particles
) -> tuple[list[Particles], Particles]:
    """Flies photons to their next interaction: electrons made, photons left."""
    logarithm, nodes = np.log(photons.energy), np.log(PHOTON_MEV)
    per_cm = np.interp(logarithm, nodes, ATTENUATION_CM2_G) * parameters.density_g_cm3
    flight = rng.exponential(1.0, len(photons)) / per_cm
    photons = photons.copy()
    photons.data[:3] += photons.direction * flight
    inside = np.flatnonzero(_inside(parameters, photons.position))
    logarithm = logarithm[inside]
    photons = photons.take(inside)
    pairs = rng.random(len(photons)) < np.interp(logarithm, nodes, PAIR_SHARE)
    converting, scattering = photons.take(pairs), photons.take(~pairs)

    share = rng.random(len(converting))
    available = np.maximum(converting.energy - 2 * ELECTRON_MEV, 0.0)
    first, second = converting.copy(), converting
    first.data[6], second.data[6] = share * available, (1 - share) * available

    recoil, scattered = _compton(rng, scattering)
    return [first, second, recoil], scattered.take(
        scattered.energy > parameters.photon_cut_mev
    )


def _compton(
    rng: np.random.Generator, photons: Particles
) -> tuple[Particles, Particles]:
    """Recoil electrons and scattered photons.

    The recoil is drawn evenly up to its edge: at some MeV the Klein-Nishina spectrum is
    flat but for a rise at the edge, and the recoils are a few pixels long.
    """
    number = len(photons)
    ratio = photons.energy / ELECTRON_MEV
    recoil = photons.energy * (2 * ratio / (1 + 2 * ratio)) * rng.random(number)
    left = np.maximum(photons.energy - recoil, 1e-3)
    cosine = np.clip(1 - ELECTRON_MEV * (1 / left - 1 / photons.energy), -1.0, 1.0)
    azimuth = 2 * np.pi * rng.random(number)
    scattered, electrons = photons.copy(), photons
    scattered.data[3:6] = turn(photons.direction, cosine, azimuth)
    scattered.data[6] = left
    momentum = photons.energy * photons.direction - left * scattered.direction
    size = np.sqrt((momentum**2).sum(0)) + 1e-12
    electrons.data[3:6] = momentum / size
    electrons.data[6] = recoil
    return electrons, scattered
