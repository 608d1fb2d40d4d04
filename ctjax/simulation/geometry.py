"""Maps positions in the detector to columns and rows, for one image shape."""

import dataclasses
import math

import numpy as np

from ctjax.base.constants import NUM_PLANES
from ctjax.base.errors import UserError
from ctjax.simulation.parameters import SimulationParameters

SHAPE_DIVISOR = 32
"""Rows and columns must be multiples: five halvings of the default network."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Describes the pixel grid of one image shape.

    Rows: volume 0 (x < 0) fills the lower half, anode at row 0; volume 1 the upper one,
    anode at the last row; the shared cathode lies in the middle. Heights up to 1280
    cover the drift with 1280/H rows' worth of time each; larger ones keep a row at 2 us
    and begin before the trigger, as dataset version 2 (1408 rows) does.

    Attributes:
      shape: (H, W) of the image.
      ticks_per_volume: samples of one wire in one volume.
      tick_us: duration of a sample.
      start_us: time of the first sample relative to the trigger, at most 0.
      pitch_cm: width of a column.
      row_cm: drift distance of a row.
    """

    shape: tuple[int, int]
    ticks_per_volume: int
    tick_us: float
    start_us: float
    pitch_cm: float
    row_cm: float

    @property
    def window_us(self) -> float:
        """Returns the duration of the readout."""
        return self.ticks_per_volume * self.tick_us

    def origin_cm(self, plane: int) -> tuple[float, float]:
        """Returns the lower edge (wire, drift); wires as in dataset version 2."""
        # There the coordinate is 0 at column 32 in planes 0 and 1, 192 in plane 2.
        first_wire = 32 if plane < 2 else 192
        return (-first_wire * 614.4 / 2048, self.start_us * self.row_cm / self.row_us)

    @property
    def row_us(self) -> float:
        """Returns the duration of a row."""
        return self.tick_us * self.ticks_per_volume / (self.shape[0] // 2)


def make_geometry(parameters: SimulationParameters) -> Geometry:
    """Scales the detector to the image shape of the parameters.

    Args:
      parameters: the simulation's constants.

    Returns:
      The pixel grid.

    Raises:
      UserError: rows or columns are not positive multiples of 32.
    """
    height, width = parameters.image_shape
    if (
        min(height, width) < SHAPE_DIVISOR
        or height % SHAPE_DIVISOR
        or (width % SHAPE_DIVISOR)
    ):
        raise UserError(
            f"shape {height},{width}: rows and columns must be positive multiples of "
            f"{SHAPE_DIVISOR}"
        )
    rows = height // 2
    row_us = parameters.tick_us * parameters.ticks_per_row
    extra = max(rows - parameters.rows_per_volume, 0)
    if not extra:
        row_us *= parameters.rows_per_volume / rows
    return Geometry(
        shape=(height, width),
        ticks_per_volume=rows * parameters.ticks_per_row,
        tick_us=row_us / parameters.ticks_per_row,
        start_us=-extra * row_us,
        pitch_cm=parameters.wire_pitch_cm
        * max(parameters.wire_pitch_columns / width, 1.0),
        row_cm=row_us * parameters.drift_cm_per_us,
    )


def wire_direction(parameters: SimulationParameters, plane: int) -> tuple[float, float]:
    """Returns cosine and sine of the angle of a plane's wires from the vertical."""
    angle = math.radians(parameters.wire_angles_deg[plane])
    return math.cos(angle), math.sin(angle)


def wire_coordinate(
    parameters: SimulationParameters, plane: int, y_cm: np.ndarray, z_cm: np.ndarray
) -> np.ndarray:
    """Returns the distance from the detector's middle across the wires of a plane.

    Args:
      parameters: the simulation's constants.
      plane: index of the wire plane.
      y_cm: [N] float, upward from the middle.
      z_cm: [N] float, along the beam from the front face.

    Returns:
      [N] float, cm; the middle column is 0.

    Source:
      Signs and origin fitted to the five neutrino vertices of the light file.
    """
    cosine, sine = wire_direction(parameters, plane)
    along = z_cm - parameters.depth_cm / 2
    return cosine * along - sine * y_cm


def wired_columns(
    parameters: SimulationParameters, geometry: Geometry, plane: int
) -> tuple[int, int]:
    """Returns the first column with a wire and one past the last, within the image."""
    share = parameters.wire_pitch_cm / geometry.pitch_cm
    half = max(int(parameters.wires[plane] * share / 2), 1)
    middle = geometry.shape[1] // 2
    return max(middle - half, 0), min(middle + half, geometry.shape[1])


def vertex_boxes(
    parameters: SimulationParameters,
    geometry: Geometry,
    vertex_cm: np.ndarray,
    time_us: float,
) -> np.ndarray:
    """Makes boxes of 3 x 3 pixels around a vertex in each plane, as (wire, drift).

    Args:
      parameters: the simulation's constants.
      geometry: pixel grid.
      vertex_cm: [3] float, x, y, z.
      time_us: time of the interaction relative to the trigger.

    Returns:
      [P, 2, 2] float: centroid and half length of each plane's box, cm.

    Source:
      larcv3 BBox; the light file marks the vertex by 3 x 3 pixels.
    """
    x, y, z = vertex_cm
    height, width = geometry.shape
    drift_us = (parameters.half_width_cm - abs(x)) / parameters.drift_cm_per_us
    row = (time_us + drift_us - geometry.start_us) / geometry.row_us
    row = row if x < 0 else height - row
    boxes = np.empty((NUM_PLANES, 2, 2))
    for plane in range(NUM_PLANES):
        across = wire_coordinate(parameters, plane, np.array([y]), np.array([z]))[0]
        origin = geometry.origin_cm(plane)
        boxes[plane, 0] = (
            across + width * geometry.pitch_cm / 2 + origin[0],
            row * geometry.row_cm + origin[1],
        )
        boxes[plane, 1] = 1.5 * geometry.pitch_cm, 1.5 * geometry.row_cm
    return boxes
