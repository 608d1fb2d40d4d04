"""Makes cosmic rays at the surface: muons, their Michel electrons, showers."""

import numpy as np

from ctjax.base.constants import COSMIC
from ctjax.simulation.energy_loss import ELECTRON_MEV, MUON_MEV
from ctjax.simulation.geometry import Geometry, drift_length_cm
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import Particles, Segments, isotropic, join_particles
from ctjax.simulation.tracks import box_path, follow


def exposure_us(
    parameters: SimulationParameters, geometry: Geometry
) -> tuple[float, float]:
    """Returns the first and last time at which a cosmic ray can leave charge."""
    drift = drift_length_cm(parameters) / parameters.drift_cm_per_us
    return geometry.start_us - drift, geometry.start_us + geometry.window_us


def downward(
    parameters: SimulationParameters, rng: np.random.Generator, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws lines with a cos^2 zenith angle that pass the detector's outer sphere.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.
      number: N lines.

    Returns:
      position (on the disc across the line through the detector's middle, cm) and
      direction (y points up), [3, N] float64 each.
    """
    cosine = np.cbrt(rng.random(number))
    azimuth = 2 * np.pi * rng.random(number)
    sine = np.sqrt(1 - cosine**2)
    direction = np.stack([sine * np.cos(azimuth), -cosine, sine * np.sin(azimuth)])
    radius = sphere_cm(parameters) * np.sqrt(rng.random(number))
    turn = 2 * np.pi * rng.random(number)
    across = np.stack([np.cos(azimuth) * cosine, sine, np.sin(azimuth) * cosine])
    side = np.cross(direction, across, axis=0)
    position = radius * (np.cos(turn) * across + np.sin(turn) * side)
    position[2] += parameters.depth_cm / 2
    return position, direction


def sphere_cm(parameters: SimulationParameters) -> float:
    """Returns the radius of the sphere around the active volume."""
    sides = (
        parameters.half_width_cm,
        parameters.half_height_cm,
        parameters.depth_cm / 2,
    )
    return float(np.sqrt(sum(side**2 for side in sides)))


def mean_muons(parameters: SimulationParameters, geometry: Geometry) -> float:
    """Returns the mean number of muons through the outer sphere during the readout."""
    first, last = exposure_us(parameters, geometry)
    area_m2 = np.pi * (sphere_cm(parameters) / 100) ** 2
    per_second = parameters.muon_intensity * 2 * np.pi / 3 * area_m2
    return per_second * (last - first) * 1e-6


def make_cosmics(
    parameters: SimulationParameters, geometry: Geometry, rng: np.random.Generator
) -> tuple[Segments, Particles, Particles]:
    """Draws the cosmic rays of one readout.

    Args:
      parameters: the simulation's constants.
      geometry: pixel grid.
      rng: source of randomness.

    Returns:
      Deposits of the muons; electrons (delta rays, Michel electrons, shower electrons)
      and photons for `showers.develop`.
    """
    muons = _muons(parameters, geometry, rng)
    segments, deltas, rest = follow(parameters, rng, muons, MUON_MEV)
    michels = michel_electrons(parameters, rng, rest)
    shower = _shower_particles(parameters, geometry, rng)
    electron = rng.random(len(shower)) < 0.5
    electrons = join_particles([deltas, michels, shower.take(electron)])
    return segments, electrons, shower.take(~electron)


def michel_electrons(
    parameters: SimulationParameters, rng: np.random.Generator, rest: Particles
) -> Particles:
    """Lets muons at rest decay.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.
      rest: N muons at rest.

    Returns:
      The electrons of the share that decays before capture.

    Source:
      Michel spectrum x^2 (3 - 2x) to 52.8 MeV (PDG 2024, muon decay parameters).
    """
    decays = rest.take(rng.random(len(rest)) < parameters.michel_fraction)
    number = len(decays)
    # Of four even numbers the largest follows 4 x^3 and the next one 12 x^2 (1 - x);
    # their even mixture is 2 x^2 (3 - 2 x).
    draws = np.sort(rng.random((4, number)), axis=0)
    share = np.where(rng.random(number) < 0.5, draws[2], draws[3])
    energy = share * (MUON_MEV / 2) - ELECTRON_MEV
    delay = rng.exponential(parameters.muon_lifetime_us, number)
    return Particles.make(
        decays.position,
        isotropic(rng, number),
        np.maximum(energy, 0.1),
        decays.time + delay,
        decays.origin,
    )


def _muons(
    parameters: SimulationParameters, geometry: Geometry, rng: np.random.Generator
) -> Particles:
    """Draws muons where they enter the active volume."""
    number = int(rng.poisson(mean_muons(parameters, geometry)))
    position, direction = downward(parameters, rng, number)
    entry, exit_ = box_path(parameters, position, direction)
    power = parameters.muon_spectrum_power - 1
    spread = (1 - rng.random(number)) ** (-1 / power) - 1
    muons = Particles.make(
        position + direction * entry,
        direction,
        parameters.muon_spectrum_mev * spread,
        rng.uniform(*exposure_us(parameters, geometry), number),
        COSMIC,
    )
    return muons.take(exit_ > entry)


def _shower_particles(
    parameters: SimulationParameters, geometry: Geometry, rng: np.random.Generator
) -> Particles:
    """Draws photons and electrons of the atmosphere on the faces of the volume."""
    number = int(rng.poisson(parameters.cosmic_shower_mean))
    position, direction = downward(parameters, rng, number)
    entry, exit_ = box_path(parameters, position, direction)
    low, high = parameters.cosmic_shower_mev
    energy = 1 / (1 / low - rng.random(number) * (1 / low - 1 / high))
    showers = Particles.make(
        position + direction * entry,
        direction,
        energy,
        rng.uniform(*exposure_us(parameters, geometry), number),
        COSMIC,
    )
    return showers.take(exit_ > entry)
