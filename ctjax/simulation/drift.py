"""Deposited energy to point charges at the wires: recombination, drift, diffusion."""

import dataclasses

import numpy as np

from ctjax.constants import NEUTRINO
from ctjax.simulation.geometry import Geometry
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import Segments


@dataclasses.dataclass
class Points:
    """N point charges after the drift.

    Attributes:
      tick: [N] int64, sample within the volume.
      volume: [N] bool, whether x >= 0.
      y, z: [N] float64, cm, after diffusion.
      charge: [N] float32, MeV that survive recombination and attachment.
      energy: [N] float32, true MeV.
      is_neutrino: [N] bool.
    """

    tick: np.ndarray
    volume: np.ndarray
    y: np.ndarray
    z: np.ndarray
    charge: np.ndarray
    energy: np.ndarray
    is_neutrino: np.ndarray


def drift(
    parameters: SimulationParameters,
    geometry: Geometry,
    rng: np.random.Generator,
    segments: Segments,
) -> Points:
    """Cuts segments into points and drifts each to the wires of its volume.

    Args:
      parameters: the simulation's constants.
      geometry: pixel grid.
      rng: source of randomness.
      segments: N straight deposits.

    Returns:
      The points inside active volume and readout window.

    Source:
      Recombination: modified box model, ArgoNeuT (arXiv:1306.1712).
      Groups of electrons are moved by diffusion as a whole, as in LArSoft.
    """
    segments = _within_reach(parameters, geometry, segments)
    path = segments.end - segments.start
    pieces = np.sqrt((path**2).sum(0)) / parameters.point_step_cm
    pieces = np.ceil(pieces).astype(np.int64) + 1
    owner = np.repeat(np.arange(pieces.size), pieces)
    number = np.arange(owner.size) - (np.cumsum(pieces) - pieces)[owner]
    along = (number + np.float32(0.5)) * (1 / pieces).astype(np.float32)[owner]
    x, y, z = (
        first[owner] + along * step[owner]
        for first, step in zip(
            segments.start.astype(np.float32), path.astype(np.float32), strict=True
        )
    )
    # Diffusion and attachment hardly change within a segment: once for each.
    distance = np.abs(segments.start[0] + segments.end[0]) / 2
    drift_us = np.maximum(parameters.half_width_cm - distance, 0.0)
    drift_us /= parameters.drift_cm_per_us
    spread = np.sqrt(2 * parameters.transverse_cm2_us * drift_us)
    spread_us = np.sqrt(2 * parameters.longitudinal_cm2_us * drift_us)
    spread_us /= parameters.drift_cm_per_us
    energy = segments.energy / pieces
    survival = np.exp(-drift_us / parameters.electron_lifetime_us)
    charge = energy * survival * recombination(parameters, segments.density)

    per_tick = 1 / (parameters.drift_cm_per_us * geometry.tick_us)
    at_anode = (segments.time - geometry.start_us) / geometry.tick_us
    at_anode += parameters.half_width_cm * per_tick
    kicks = rng.standard_normal((3, owner.size), dtype=np.float32)
    tick = at_anode.astype(np.float32)[owner] - np.abs(x) * np.float32(per_tick)
    inside = (
        (np.abs(x) < parameters.half_width_cm)
        & (np.abs(y) < parameters.half_height_cm)
        & (np.abs(z - parameters.depth_cm / 2) < parameters.depth_cm / 2)
        & (tick > 0)
        & (tick < geometry.ticks_per_volume)
    )
    tick += (spread_us / geometry.tick_us).astype(np.float32)[owner] * kicks[0]
    across = spread.astype(np.float32)[owner]
    # Outside the volume or window there is no charge; a mask costs less than a copy.
    charge = charge.astype(np.float32)[owner] * inside
    return Points(
        np.clip(tick, 0, geometry.ticks_per_volume - 1).astype(np.int32),
        x >= 0,
        y + across * kicks[1],
        z + across * kicks[2],
        charge,
        energy.astype(np.float32)[owner] * inside,
        (segments.origin == NEUTRINO)[owner],
    )


def _within_reach(
    parameters: SimulationParameters, geometry: Geometry, segments: Segments
) -> Segments:
    """Segments that may lie in the active volume and in the readout window."""
    middle = 0.5 * (segments.start + segments.end)
    x, y, z = middle
    # No point is farther from the middle than the longest segment.
    margin = float(np.abs(segments.end - segments.start).max(initial=0.1))
    drift_us = (parameters.half_width_cm - np.abs(x)) / parameters.drift_cm_per_us
    arrival = segments.time - geometry.start_us + drift_us
    slack_us = margin / parameters.drift_cm_per_us
    kept = np.flatnonzero(
        (np.abs(x) < parameters.half_width_cm + margin)
        & (np.abs(y) < parameters.half_height_cm + margin)
        & (np.abs(z - parameters.depth_cm / 2) < parameters.depth_cm / 2 + margin)
        & (arrival > -slack_us)
        & (arrival < geometry.window_us + slack_us)
    )
    return Segments(
        segments.start[:, kept],
        segments.end[:, kept],
        segments.energy[kept],
        segments.density[kept],
        segments.time[kept],
        segments.origin[kept],
    )


def recombination(
    parameters: SimulationParameters, density_mev_cm: np.ndarray
) -> np.ndarray:
    """Share of ionisation that survives recombination, modified box model.

    Args:
      parameters: the simulation's constants.
      density_mev_cm: [N] float, MeV/cm.

    Returns:
      [N] float in 0 to 1.
    """
    strength = parameters.recombination_beta / (
        parameters.density_g_cm3 * parameters.field_kv_cm
    )
    product = strength * np.clip(density_mev_cm, 1.0, 100.0)
    return np.log(parameters.recombination_alpha + product) / product
