"""Maps positions in the detector to columns and rows, for one image shape."""

import dataclasses
import math

import numpy as np

from ctjax.base.errors import UserError
from ctjax.simulation.parameters import SimulationParameters


@dataclasses.dataclass(frozen=True)
class PlaneGrid:
    """Describes the pixels of one plane.

    Attributes:
      shape: (H, W) of the image.
      pitch_cm: width of a column.
      wired_columns: first column with a wire and one past the last.
      volumes: drift volumes that the image shows. The first has its anode at row 0;
        a second one fills the upper half with its anode at the last row.
      origin_cm: lower edge (wire, drift), as in dataset version 2.
    """

    shape: tuple[int, int]
    pitch_cm: float
    wired_columns: tuple[int, int]
    volumes: tuple[int, ...]
    origin_cm: tuple[float, float]

    @property
    def rows_per_volume(self) -> int:
        """Returns the rows that show one volume."""
        return self.shape[0] // len(self.volumes)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Describes the pixel grids of one image shape.

    Up to the rows of a detector's own images the drift is covered with coarser rows;
    more rows keep their duration and begin earlier, as dataset version 2 (1408 rows)
    does.

    Attributes:
      planes: grid of each plane.
      ticks_per_volume: samples of one wire in one volume.
      tick_us: duration of a sample.
      start_us: time of the first sample relative to the trigger, at most 0.
      row_us: duration of a row.
      row_cm: drift distance of a row.
    """

    planes: tuple[PlaneGrid, ...]
    ticks_per_volume: int
    tick_us: float
    start_us: float
    row_us: float
    row_cm: float

    @property
    def window_us(self) -> float:
        """Returns the duration of the readout."""
        return self.ticks_per_volume * self.tick_us


def make_geometry(parameters: SimulationParameters) -> Geometry:
    """Scales the detector to the image shape of the parameters.

    Args:
      parameters: the simulation's constants.

    Returns:
      The pixel grids.

    Raises:
      UserError: rows or columns are not positive multiples of the divisor.
    """
    height, width = parameters.image_shape
    divisor = parameters.shape_divisor
    if min(height, width) < divisor or height % divisor or width % divisor:
        raise UserError(
            f"shape {height},{width}: rows and columns must be positive multiples of "
            f"{divisor}"
        )
    rows = height // len(parameters.plane_volumes[0])
    row_us = parameters.tick_us * parameters.ticks_per_row
    extra = max(rows - parameters.rows_per_volume, 0)
    if not extra:
        row_us *= parameters.rows_per_volume / rows
    tick_us = row_us / parameters.ticks_per_row
    start_us = 0.0 - parameters.before_trigger_us - extra * row_us
    row_cm = row_us * parameters.drift_cm_per_us
    ticks = rows * parameters.ticks_per_row
    # Of the ticks, which is not the last bit of the above.
    row_us = tick_us * ticks / rows
    drift_origin_cm = start_us * row_cm / row_us
    planes = tuple(
        _plane_grid(parameters, plane, drift_origin_cm)
        for plane in range(len(parameters.plane_volumes))
    )
    return Geometry(planes, ticks, tick_us, start_us, row_us, row_cm)


def _plane_grid(
    parameters: SimulationParameters, plane: int, drift_origin_cm: float
) -> PlaneGrid:
    """Scales one plane; narrower ones keep their proportion to the widest."""
    height, width = parameters.image_shape
    columns, divisor = parameters.plane_columns[plane], parameters.shape_divisor
    share = columns / max(parameters.plane_columns)
    width = max(round(width * share / divisor), 1) * divisor
    pitch_cm = parameters.wire_pitch_cm * max(columns / width, 1.0)
    half = parameters.wires[plane] * (parameters.wire_pitch_cm / pitch_cm) / 2
    # Where all columns have wires, the last bit must not cost one.
    half, middle = max(int(half + 1e-6), 1), width // 2
    return PlaneGrid(
        shape=(height, width),
        pitch_cm=pitch_cm,
        wired_columns=(max(middle - half, 0), min(middle + half, width)),
        volumes=parameters.plane_volumes[plane],
        origin_cm=(
            -parameters.origin_columns[plane] * parameters.wire_pitch_cm,
            drift_origin_cm,
        ),
    )


def cathode_cm(parameters: SimulationParameters) -> float:
    """Returns where the cathode is: the middle, or the upper end of a single volume."""
    return 0.0 if parameters.num_volumes == 2 else parameters.half_width_cm


def drift_length_cm(parameters: SimulationParameters) -> float:
    """Returns the distance from cathode to anode."""
    return parameters.half_width_cm + cathode_cm(parameters)


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


def vertex_boxes(
    parameters: SimulationParameters,
    geometry: Geometry,
    vertex_cm: np.ndarray,
    time_us: float,
) -> list[np.ndarray | None]:
    """Makes boxes of 3 x 3 pixels around a vertex in each plane, as (wire, drift).

    Args:
      parameters: the simulation's constants.
      geometry: pixel grids.
      vertex_cm: [3] float, x, y, z.
      time_us: time of the interaction relative to the trigger.

    Returns:
      For each plane [2, 2] float, centroid and half length in cm; None where the plane
      does not show the vertex's drift volume.

    Source:
      larcv3 BBox; the light file marks the vertex by 3 x 3 pixels.
    """
    x, y, z = vertex_cm
    from_cathode = x - cathode_cm(parameters)
    volume = int(from_cathode >= 0)
    drift_cm = drift_length_cm(parameters) - abs(from_cathode)
    drift_us = drift_cm / parameters.drift_cm_per_us
    rows = (time_us + drift_us - geometry.start_us) / geometry.row_us
    boxes = []
    for plane, grid in enumerate(geometry.planes):
        if volume not in grid.volumes:
            boxes.append(None)
            continue
        height, width = grid.shape
        row = height - rows if grid.volumes.index(volume) else rows
        across = wire_coordinate(parameters, plane, np.array([y]), np.array([z]))[0]
        box = np.empty((2, 2))
        box[0] = (
            across + width * grid.pitch_cm / 2 + grid.origin_cm[0],
            row * geometry.row_cm + grid.origin_cm[1],
        )
        box[1] = 1.5 * grid.pitch_cm, 1.5 * geometry.row_cm
        boxes.append(box)
    return boxes
