"""Draws a neutrino interaction: its kind, kinematics and final state.

A sketch of the physics near 1 GeV that gives the right topologies (a lepton, protons,
pions, photons from one vertex), not an event generator.
"""

import dataclasses

import numpy as np

from ctjax.base.constants import NEUTRINO
from ctjax.simulation.energy_loss import ELECTRON_MEV, MUON_MEV, PION_MEV, PROTON_MEV
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import Particles, isotropic, join_particles, turn

MASSES = {11: ELECTRON_MEV, 13: MUON_MEV, 211: PION_MEV, 2212: PROTON_MEV, 22: 0.0}
"""Masses in MeV by absolute pdg code of what is followed further."""

NEUTRAL_PION_MEV = 134.977


@dataclasses.dataclass
class Interaction:
    """Holds a neutrino and its final state.

    Attributes:
      pdg: 12 or 14.
      current_type: 0 charged, 1 neutral (larcv3's and nuance's convention).
      energy: MeV of the neutrino.
      vertex: [3] float64, cm.
      time: us from the trigger.
      codes: pdg code of each final-state particle, neutral pions already decayed.
      particles: the final state in the same order.
    """

    pdg: int
    current_type: int
    energy: float
    vertex: np.ndarray
    time: float
    codes: np.ndarray
    particles: Particles

    def of_kind(self, code: int) -> Particles:
        """Returns the particles with an absolute pdg code."""
        return self.particles.take(np.abs(self.codes) == code)


def make_interaction(
    parameters: SimulationParameters, rng: np.random.Generator
) -> Interaction | None:
    """Draws the neutrino of an event, or None for the share of events without.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.

    Returns:
      The interaction with its final state.
    """
    if rng.random() < parameters.no_neutrino_fraction:
        return None
    kind = int(rng.choice(3, p=parameters.neutrino_kinds))
    pdg = (14, 12, 14)[kind] if kind < 2 or rng.random() < 0.9 else 12
    current_type = int(kind == 2)
    shape = parameters.neutrino_energy_shape
    energy = rng.gamma(shape, parameters.neutrino_mean_mev / shape)
    energy = float(np.clip(energy, *parameters.neutrino_range_mev))
    vertex = rng.uniform(-1.0, 1.0, 3) * (
        parameters.half_width_cm,
        parameters.half_height_cm,
        parameters.depth_cm / 2,
    )
    vertex[2] += parameters.depth_cm / 2
    time = float(rng.uniform(0.0, parameters.spill_us))

    lepton_code = 0 if current_type else pdg - 1
    lepton_mass = MASSES.get(lepton_code, 0.0)
    transfer = _transfer(parameters, rng, energy, lepton_mass)
    cosine = _lepton_cosine(rng, energy, energy - transfer)
    azimuth = 2 * np.pi * rng.random()
    beam = np.array([[0.0], [0.0], [1.0]])
    lepton = turn(beam, np.array([cosine]), np.array([azimuth]))
    momentum = energy * beam - (energy - transfer) * lepton
    hadron_axis = momentum / np.sqrt((momentum**2).sum())

    codes, kinetic, directions = _hadrons(parameters, rng, transfer, hadron_axis)
    if lepton_code:
        codes = [lepton_code, *codes]
        kinetic = [energy - transfer - lepton_mass, *kinetic]
        directions = [lepton, *directions]
    number = len(codes)
    particles = Particles.make(
        np.repeat(vertex[:, None], number, axis=1),
        np.concatenate([beam[:, :0], *directions], axis=1),
        np.array(kinetic, np.float64),
        np.full(number, time),
        NEUTRINO,
    )
    return Interaction(
        pdg,
        current_type,
        energy,
        vertex,
        time,
        *decay_neutral_pions(rng, np.array(codes, np.int64), particles),
    )


def _transfer(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    energy: float,
    lepton_mass: float,
) -> float:
    """Draws the energy given to hadrons, MeV; the lepton keeps at least 20 MeV."""
    share = rng.beta(*parameters.inelasticity)
    return float(min(share * energy, energy - lepton_mass - 20.0))


def _lepton_cosine(
    rng: np.random.Generator, energy: float, lepton_energy: float
) -> float:
    """Draws the polar cosine: massless lepton, Q^2 = 2 M x y E, x even in 0.3 to 1."""
    transfer = energy - lepton_energy
    squared = 2 * PROTON_MEV * rng.uniform(0.3, 1.0) * transfer
    return float(np.clip(1 - squared / (2 * energy * lepton_energy), -1.0, 1.0))


def _hadrons(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    transfer: float,
    axis: np.ndarray,
) -> tuple[list[int], list[float], list[np.ndarray]]:
    """Draws protons and pions around the momentum transfer."""
    surplus = max(transfer - parameters.pion_threshold_mev, 0.0)
    pions = int(rng.poisson(parameters.pions_per_gev * surplus / 1000))
    pions = min(pions, int(transfer // 200.0))
    protons = 1 + int(rng.poisson(parameters.further_protons))
    visible = (1 - parameters.invisible_share) * transfer - pions * PION_MEV
    visible = max(visible, 0.0)
    # A Dirichlet share with half weight for protons: pions carry most of the energy.
    weights = rng.gamma([1.0] * pions + [0.5] * protons)
    kinetic = visible * weights / weights.sum()
    codes = [int(code) for code in rng.choice([211, -211, 111], pions)]
    codes += [2212] * protons
    # Opening angles: transverse momentum near 0.25 GeV of nucleons bound in argon.
    momentum = np.sqrt(kinetic * (kinetic + 2 * PROTON_MEV))
    polar = np.abs(rng.standard_normal(len(codes))) * 300.0 / (momentum + 100.0)
    directions = [
        turn(axis, np.cos([min(angle, np.pi)]), 2 * np.pi * rng.random(1))
        for angle in polar
    ]
    return codes, [float(value) for value in kinetic], directions


def decay_neutral_pions(
    rng: np.random.Generator, codes: np.ndarray, particles: Particles
) -> tuple[np.ndarray, Particles]:
    """Replaces each neutral pion by its two photons."""
    neutral = codes == 111
    pions = particles.take(neutral)
    rest = isotropic(rng, len(pions))
    gamma = 1 + pions.energy / NEUTRAL_PION_MEV
    boost = np.sqrt(np.maximum(gamma**2 - 1, 0.0))
    photons = []
    for sign in (1.0, -1.0):
        half = NEUTRAL_PION_MEV / 2
        along = sign * (rest * pions.direction).sum(0)
        energy = half * (gamma + boost * along)
        shift = half * (along * (gamma - 1) + boost)
        momentum = sign * half * rest + shift * pions.direction
        size = np.sqrt((momentum**2).sum(0))
        photons.append(
            Particles.make(
                pions.position, momentum / size, energy, pions.time, pions.origin
            )
        )
    kept = particles.take(~neutral)
    codes = np.concatenate([codes[~neutral], np.full(2 * len(pions), 22)])
    return codes, join_particles([kept, *photons])
