"""Turns deposits into charges at the wires: recombination, drift, diffusion."""

import dataclasses

import numpy as np

from ctjax.base.constants import NEUTRINO
from ctjax.simulation import native
from ctjax.simulation.geometry import Geometry, cathode_cm, drift_length_cm
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import Segments


@dataclasses.dataclass
class Points:
    """Holds N point charges after the drift.

    Attributes:
      tick: [N] int32, sample within the volume.
      volume: [N] bool, whether beyond the cathode, in the second drift volume.
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

    def in_volume(self, volume: int) -> "Points":
        """Returns those of one drift volume, as if there were no other."""
        chosen = np.flatnonzero(self.volume == volume)
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        points = Points(*(values[chosen] for values in fields))
        points.volume = np.zeros(chosen.size, bool)
        return points


def drift(
    parameters: SimulationParameters,
    geometry: Geometry,
    rng: np.random.Generator,
    segments: Segments,
) -> Points:
    """Cuts segments into points and drifts each to the wires of its volume.

    Args:
      parameters: the simulation's constants.
      geometry: pixel grids.
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
    # Diffusion and attachment hardly change within a segment: once for each.
    cathode, length = cathode_cm(parameters), drift_length_cm(parameters)
    start_x = segments.start[0] - cathode
    distance = np.abs(start_x + (segments.end[0] - cathode)) / 2
    drift_us = np.maximum(length - distance, 0.0)
    drift_us /= parameters.drift_cm_per_us
    spread = np.sqrt(2 * parameters.transverse_cm2_us * drift_us)
    spread_us = np.sqrt(2 * parameters.longitudinal_cm2_us * drift_us)
    spread_us /= parameters.drift_cm_per_us
    energy = segments.energy / pieces
    survival = np.exp(-drift_us / parameters.electron_lifetime_us)
    charge = energy * survival * recombination(parameters, segments.density)

    per_tick = 1 / (parameters.drift_cm_per_us * geometry.tick_us)
    at_anode = (segments.time - geometry.start_us) / geometry.tick_us
    at_anode += length * per_tick
    per_segment = np.empty((12, pieces.size), np.float32)
    per_segment[:3], per_segment[3:6] = segments.start, path
    per_segment[0] = start_x
    per_segment[6], per_segment[7] = 1 / pieces, at_anode
    per_segment[8], per_segment[9] = spread_us / geometry.tick_us, spread
    per_segment[10], per_segment[11] = charge, energy
    of_neutrino = segments.origin == NEUTRINO
    kicks = rng.standard_normal((3, int(pieces.sum())), dtype=np.float32)
    limits = (
        length,
        parameters.half_height_cm,
        parameters.depth_cm / 2,
        geometry.ticks_per_volume,
    )
    arguments = per_segment, pieces, of_neutrino, kicks, limits, per_tick
    points = native.drift(*arguments)
    return Points(*(make_points(*arguments) if points is None else points))


def make_points(
    per_segment: np.ndarray,
    pieces: np.ndarray,
    of_neutrino: np.ndarray,
    kicks: np.ndarray,
    limits: tuple[float, float, float, int],
    per_tick: float,
) -> tuple[np.ndarray, ...]:
    """Cuts segments into points and drifts them; `native.drift` does the same.

    Args:
      per_segment: [12, S] float32: start with x from the cathode, path (cm), share of a
        piece, tick of what is at the cathode, spread along the drift (ticks) and across
        (cm), charge and energy of a piece (MeV).
      pieces: [S] int64, points of each segment, N in all.
      of_neutrino: [S] bool.
      kicks: [3, N] float32, standard normal: along the drift, in y and in z.
      limits: drift length, half height, half depth (cm), ticks of the window.
      per_tick: ticks for a cm of drift.

    Returns:
      [N] arrays, the attributes of `Points`.
    """
    length, half_height, half_depth, ticks = limits
    owner = np.repeat(np.arange(pieces.size), pieces)
    number = np.arange(owner.size) - (np.cumsum(pieces) - pieces)[owner]
    along = (number + np.float32(0.5)) * per_segment[6][owner]
    x, y, z = (
        per_segment[k][owner] + along * per_segment[3 + k][owner] for k in range(3)
    )
    tick = per_segment[7][owner] - np.abs(x) * np.float32(per_tick)
    inside = (
        (np.abs(x) < length)
        & (np.abs(y) < half_height)
        & (np.abs(z - half_depth) < half_depth)
        & (tick > 0)
        & (tick < ticks)
    )
    tick += per_segment[8][owner] * kicks[0]
    across = per_segment[9][owner]
    # Outside the volume or window there is no charge; a mask costs less than a copy.
    return (
        np.clip(tick, 0, ticks - 1).astype(np.int32),
        x >= 0,
        y + across * kicks[1],
        z + across * kicks[2],
        per_segment[10][owner] * inside,
        per_segment[11][owner] * inside,
        of_neutrino[owner],
    )


def _within_reach(
    parameters: SimulationParameters, geometry: Geometry, segments: Segments
) -> Segments:
    """Keeps the segments that may lie in the active volume and the readout window."""
    middle = 0.5 * (segments.start + segments.end)
    x, y, z = middle
    # No point is farther from the middle than the longest segment.
    margin = float(np.abs(segments.end - segments.start).max(initial=0.1))
    distance = drift_length_cm(parameters) - np.abs(x - cathode_cm(parameters))
    drift_us = distance / parameters.drift_cm_per_us
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
        segments.start.take(kept, axis=1),
        segments.end.take(kept, axis=1),
        segments.energy[kept],
        segments.density[kept],
        segments.time[kept],
        segments.origin[kept],
    )


def recombination(
    parameters: SimulationParameters, density_mev_cm: np.ndarray
) -> np.ndarray:
    """Returns the share of ionisation that survives recombination (modified box).

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
