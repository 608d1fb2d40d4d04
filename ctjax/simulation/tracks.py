"""Follows muons, pions and protons: range, scattering, straggling, delta rays."""

import numpy as np

from ctjax.simulation.energy_loss import (
    BETHE_MEV_CM2_MOL,
    ELECTRON_MEV,
    Z_OVER_A,
    stopping_table,
)
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import (
    Particles,
    Segments,
    join_segments,
    perpendicular,
    turn,
)


def box_path(
    parameters: SimulationParameters, position: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distances at which straight lines enter and leave the active volume.

    Args:
      parameters: the simulation's constants.
      position: [3, N] float64, cm.
      direction: [3, N] float64, unit vectors.

    Returns:
      entry, exit: [N] float64, cm along the line; exit < entry where it misses.
    """
    half = np.array([[parameters.half_width_cm], [parameters.half_height_cm], [0.0]])
    low, high = -half, half
    high[2] = parameters.depth_cm
    safe = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    first, second = (low - position) / safe, (high - position) / safe
    entry = np.minimum(first, second).max(0)
    return entry, np.maximum(first, second).min(0)


def follow(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    particles: Particles,
    mass: float,
    interaction_cm: float = np.inf,
) -> tuple[Segments, Particles, Particles]:
    """Follows heavy charged particles until they stop, interact or leave.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.
      particles: N particles inside the active volume.
      mass: MeV, of all of them.
      interaction_cm: mean path before an interaction ends the track.

    Returns:
      The deposits, delta rays that travel, and the particles that came to rest.

    Source:
      Highland's formula and delta-ray spectrum: PDG 2024, equations 34.16 and 34.8.
    """
    table = stopping_table(mass, parameters.density_g_cm3)
    to_stop = table.to_range(particles.energy)
    _, to_exit = box_path(parameters, particles.position, particles.direction)
    length = np.minimum(to_stop, np.maximum(to_exit, 0.0) + 5.0)
    if np.isfinite(interaction_cm):
        length = np.minimum(length, rng.exponential(interaction_cm, len(particles)))
    pieces = np.ceil(length / parameters.track_step_cm).astype(np.int64) + 1
    owner = np.repeat(np.arange(len(particles)), pieces)
    number = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    step = (length / pieces)[owner]
    residual = to_stop[owner] - number * step
    before = table.to_energy(residual)
    after = table.to_energy(residual - step)

    heading = _scatter(parameters, rng, particles, before, mass, step, owner, pieces)
    shift = _running_sum(heading * step, owner, pieces)
    end = particles.position.take(owner, axis=1) + shift
    segments = Segments(
        start=end - heading * step,
        end=end,
        energy=before - after,
        density=(before - after) / step,
        time=particles.time[owner],
        origin=particles.origin[owner],
    )
    knocked = _knock_on(parameters, rng, segments, heading, before, mass)
    last = np.cumsum(pieces) - 1
    stopped = (length >= to_stop) & (pieces > 0)
    rest = Particles.make(
        end[:, last],
        heading[:, last],
        np.zeros(len(particles)),
        particles.time,
        particles.origin,
    ).take(stopped)
    points, travelling = knocked
    return join_segments([segments, points]), travelling, rest


def _running_sum(
    values: np.ndarray, owner: np.ndarray, pieces: np.ndarray
) -> np.ndarray:
    """Sums up along the last axis, anew for each owner."""
    total = np.cumsum(values, axis=-1)
    first = np.cumsum(pieces) - pieces
    before = total[..., first] - values[..., first]
    return total - before.take(owner, axis=-1)


def _scatter(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    particles: Particles,
    energy: np.ndarray,
    mass: float,
    step: np.ndarray,
    owner: np.ndarray,
    pieces: np.ndarray,
) -> np.ndarray:
    """Returns each piece's direction after multiple scattering, [3, N] unit vectors."""
    kinetic = np.maximum(energy, 0.1)
    momentum_beta = (kinetic**2 + 2 * kinetic * mass) / (kinetic + mass)
    thickness = step / parameters.radiation_length_cm
    width = 13.6 / momentum_beta * np.sqrt(thickness)
    # Highland's logarithm of thin pieces, kept from going below 0.8.
    width *= np.maximum(1 + 0.038 * np.log(np.maximum(thickness, 1e-9)), 0.8)
    kicks = rng.standard_normal((2, owner.size)) * np.minimum(width, 0.7)
    angles = _running_sum(kicks, owner, pieces)
    first, second = perpendicular(particles.direction)
    heading = (
        particles.direction.take(owner, axis=1)
        + angles[0] * first.take(owner, axis=1)
        + angles[1] * second.take(owner, axis=1)
    )
    return heading / np.sqrt((heading**2).sum(0))


def _knock_on(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    segments: Segments,
    heading: np.ndarray,
    energy: np.ndarray,
    mass: float,
) -> tuple[Segments, Particles]:
    """Moves energy from pieces to delta rays: points, and electrons that travel.

    Mean and Landau tail of the whole come out right.

    Source:
      PDG 2024, equation 34.8.
    """
    cut = parameters.delta_cut_mev
    mean_number, top = _keep_soft_loss(parameters, rng, segments, energy, mass)
    number = rng.poisson(np.minimum(mean_number, 50.0))
    owner = np.repeat(np.arange(number.size), number)
    inverse = 1 / cut - rng.random(owner.size) * (1 / cut - 1 / top[owner])
    knocked = 1 / inverse
    along = rng.random(owner.size)
    # take, not an index in brackets: several times as fast along the last axis.
    start, end = segments.start.take(owner, axis=1), segments.end.take(owner, axis=1)
    position = start + along * (end - start)
    travels = knocked > parameters.delta_track_mev
    near, far = np.flatnonzero(~travels), np.flatnonzero(travels)
    table = stopping_table(ELECTRON_MEV, parameters.density_g_cm3)
    place, energy = position.take(near, axis=1), knocked[near]
    points = Segments(
        place,
        place,
        energy,
        energy / np.maximum(table.to_range(energy), 1e-3),
        segments.time[owner[near]],
        segments.origin[owner[near]],
    )
    parent = owner[far]
    largest, knocked = top[parent], knocked[far]
    two = 2 * ELECTRON_MEV
    cosine = np.sqrt(knocked * (largest + two) / (largest * (knocked + two)))
    azimuth = rng.random(far.size) * 2 * np.pi
    travelling = Particles.make(
        position.take(far, axis=1),
        turn(heading.take(parent, axis=1), cosine, azimuth),
        knocked,
        segments.time[parent],
        segments.origin[parent],
    )
    return points, travelling


def _keep_soft_loss(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    segments: Segments,
    energy: np.ndarray,
    mass: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Leaves pieces the loss below the cut, with Gaussian straggling.

    The variance is xi times the cut.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.
      segments: N pieces of tracks; their energies change.
      energy: [N] kinetic energy before each piece, MeV.
      mass: MeV, of all particles.

    Returns:
      [N] mean number of delta rays above the cut, and [N] their largest energy, MeV.
    """
    cut = parameters.delta_cut_mev
    step = segments.energy / np.maximum(segments.density, 1e-9)
    gamma = 1 + np.maximum(energy, 0.1) / mass
    beta2 = 1 - gamma**-2
    ratio = ELECTRON_MEV / mass
    largest = 2 * ELECTRON_MEV * (gamma**2 - 1) / (1 + 2 * gamma * ratio + ratio**2)
    xi = 0.5 * BETHE_MEV_CM2_MOL * Z_OVER_A * parameters.density_g_cm3 / beta2 * step
    hard = largest > cut
    top = np.where(hard, largest, 2 * cut)
    mean_number = np.where(hard, xi * (1 / cut - 1 / top), 0.0)
    mean_energy = np.where(hard, xi * np.log(top / cut), 0.0)
    soft_width = np.sqrt(xi * np.minimum(cut, largest))
    soft = segments.energy - mean_energy + soft_width * rng.standard_normal(step.size)
    segments.energy = np.maximum(soft, 0.2 * segments.energy)
    return mean_number, top
