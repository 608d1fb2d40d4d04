"""Turns charge at the wires into stored pixels: pulses, threshold, labels."""

import dataclasses
import functools
import math

import numpy as np

from ctjax.base.constants import BACKGROUND, COSMIC, NEUTRINO
from ctjax.base.native_library import address
from ctjax.simulation import native
from ctjax.simulation.drift import Points, drift
from ctjax.simulation.geometry import Geometry, wire_coordinate, wire_direction
from ctjax.simulation.noise import noise_pixels
from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.segments import Segments

PULSE_REACH_TICKS = 5
"""Pulses are cut beyond this many ticks, over four of their widths; also the room
before and after the samples of a volume in which cut tracks may still sit."""


@dataclasses.dataclass(frozen=True)
class PlaneImage:
    """Holds the stored pixels of one plane.

    Attributes:
      ids: [V] uint64, column * H + row, ascending and unique.
      charge: [V] float32, counts above the threshold.
      label: [V] float32, class of each pixel.
    """

    ids: np.ndarray
    charge: np.ndarray
    label: np.ndarray


def pulse_kernel(parameters: SimulationParameters, plane: int) -> np.ndarray:
    """Returns the response to a charge at tick 0, [2 * reach + 1] float32.

    Its sum, the ticks of a row, makes a steady current of q a row read q counts.
    """
    ticks = np.arange(-PULSE_REACH_TICKS, PULSE_REACH_TICKS + 1)
    kernel = np.exp(-0.5 * (ticks / parameters.pulse_ticks[plane]) ** 2)
    return (parameters.ticks_per_row * kernel / kernel.sum()).astype(np.float32)


class Readout:
    """Reads out one image shape; holds constants, and scratch memory for numpy."""

    def __init__(self, parameters: SimulationParameters, geometry: Geometry):
        """Works out what is the same for all events."""
        self.parameters = parameters
        self.geometry = geometry
        self.stride = geometry.ticks_per_volume + 2 * PULSE_REACH_TICKS
        self.kernels = [
            pulse_kernel(parameters, p) for p in range(len(geometry.planes))
        ]
        self.planes = [self._plane(plane) for plane in range(len(geometry.planes))]

    def image(self, rng: np.random.Generator, points: Points, plane: int) -> PlaneImage:
        """Reads out one plane.

        Args:
          rng: source of randomness.
          points: charges at the wires, of the volumes that the plane shows.
          plane: index of the wire plane.

        Returns:
          The stored pixels, noise included.
        """
        constants = self.planes[plane]
        signal = native.signal(
            constants,
            points.tick,
            points.volume,
            points.y,
            points.z,
            points.charge,
            points.energy,
            points.is_neutrino,
        )
        pixels, pulses, labels = signal or self.make_signal(points, plane)
        noise = noise_pixels(self.parameters, rng, plane, self.geometry.planes[plane])
        white = rng.standard_normal(pixels.size, dtype=np.float32)
        found = pixels, pulses, white, labels, *noise
        stored = native.store(constants, *found) or self.store(plane, *found)
        return PlaneImage(*stored)

    def _plane(self, plane: int) -> native.Plane:
        """Returns the constants of a plane for C."""
        parameters, grid = self.parameters, self.geometry.planes[plane]
        cosine, sine = wire_direction(parameters, plane)
        first_column, end = grid.wired_columns
        height, width = grid.shape
        return native.Plane(
            height=height,
            width=width,
            volumes=len(grid.volumes),
            per_row=parameters.ticks_per_row,
            reach=PULSE_REACH_TICKS,
            first_column=first_column,
            last_column=end - 1,
            cosine=cosine,
            sine=sine,
            half_depth=parameters.depth_cm / 2,
            pitch=grid.pitch_cm,
            grid=parameters.counts_grid,
            gain=parameters.gain[plane],
            noise_counts=parameters.noise_counts,
            threshold=parameters.threshold,
            label_threshold=parameters.label_threshold_mev,
            kernel=address(self.kernels[plane], np.float32),
        )

    @property
    def largest_shape(self) -> tuple[int, int]:
        """Returns the (H, W) of the widest plane."""
        return max(grid.shape for grid in self.geometry.planes)

    # A whole plane of samples stays allocated and zero between events: filling and
    # clearing only what is touched is far cheaper in numpy than sorting the points.
    @functools.cached_property
    def samples(self) -> np.ndarray:
        """Returns zeros, [W * 2 * stride] float32, where a plane shows two volumes."""
        return np.zeros(self.largest_shape[1] * 2 * self.stride, np.float32)

    @functools.cached_property
    def energy(self) -> np.ndarray:
        """Returns zeros for cosmic rays and for neutrinos, [2 * W * H] float32."""
        return np.zeros(2 * math.prod(self.largest_shape), np.float32)

    @functools.cached_property
    def flags(self) -> np.ndarray:
        """Returns false everywhere, [W * H] bool."""
        return np.zeros(math.prod(self.largest_shape), bool)

    def make_signal(
        self, points: Points, plane: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the pixels within reach of charge; `native.signal` does the same.

        Args:
          points: N charges at the wires.
          plane: index of the wire plane.

        Returns:
          [M] int64 pixels in ascending order, [M] float32 the largest sample in each
          and [M] float32 its class.
        """
        parameters, grid = self.parameters, self.geometry.planes[plane]
        height, width = grid.shape
        across = wire_coordinate(parameters, plane, points.y, points.z)
        column = np.floor(across / grid.pitch_cm).astype(np.int64)
        # The outermost wires collect what diffuses past them.
        wired = grid.wired_columns
        column = np.clip(column + width // 2, wired[0], wired[1] - 1)
        row = points.tick // parameters.ticks_per_row
        row = np.where(points.volume, height - 1 - row, row)
        pixel = column * height + row
        touched = self._touched(pixel)
        pixels, pulses = self._pulses(points, column, touched, plane)
        return pixels, pulses, self._labels(points, pixel, touched, pixels)

    def _touched(self, pixel: np.ndarray) -> np.ndarray:
        """Returns the distinct pixels in ascending order, [N] int64.

        A flag per pixel, searched eight at a time, is twice as fast as sorting.
        """
        self.flags[pixel] = True
        words = np.flatnonzero(self.flags.view(np.uint64) != 0)
        flag = np.flatnonzero(self.flags.reshape(-1, 8)[words])
        touched = words[flag >> 3] * 8 + (flag & 7)
        self.flags[touched] = False
        return touched

    def _pulses(
        self, points: Points, column: np.ndarray, touched: np.ndarray, plane: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pixels within reach of charge and the largest sample in each."""
        grid, per_row = self.geometry.planes[plane], self.parameters.ticks_per_row
        rows, height = grid.rows_per_volume, grid.shape[0]
        slot = (column * 2 + points.volume) * self.stride
        slot += points.tick + PULSE_REACH_TICKS
        np.add.at(self.samples, slot, points.charge)

        pixels = with_neighbours(touched, rows)
        column, row = pixels // height, pixels % height
        upper = row >= rows
        drifted = np.where(upper, height - 1 - row, row)
        first = (column * 2 + upper) * self.stride + drifted * per_row
        # [taps, pixels]: then each of the sums below runs over contiguous memory.
        window = np.ascontiguousarray(
            np.lib.stride_tricks.sliding_window_view(
                self.samples, per_row + 2 * PULSE_REACH_TICKS
            )[first].T
        )
        # Plain products and sums, not a matrix product: BLAS rounds as it likes.
        pulse = np.zeros((per_row, pixels.size), np.float32)
        for offset, weight in enumerate(self.kernels[plane]):
            pulse += weight * window[offset : offset + per_row]
        self.samples[slot] = 0.0
        return pixels, pulse.max(0)

    def _labels(
        self,
        points: Points,
        pixel: np.ndarray,
        touched: np.ndarray,
        pixels: np.ndarray,
    ) -> np.ndarray:
        """Labels each pixel by its true energy, neutrino on top."""
        # Cosmic energy in the first half of the scratch memory, neutrino in the second.
        size = self.energy.size // 2
        np.add.at(self.energy, pixel + size * points.is_neutrino, points.energy)
        label = np.full(pixels.size, BACKGROUND, np.float32)
        for half, code in ((0, COSMIC), (size, NEUTRINO)):
            energy = self.energy[pixels + half]
            label[energy >= self.parameters.label_threshold_mev] = code
            self.energy[touched + half] = 0.0
        return label

    def store(
        self,
        plane: int,
        pixels: np.ndarray,
        pulses: np.ndarray,
        white: np.ndarray,
        classes: np.ndarray,
        noise_ids: np.ndarray,
        noise_counts: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Applies the threshold, rounds and merges; `native.store` does the same.

        Signal wins a pixel, and of noise the first.

        Args:
          plane: index of the wire plane.
          pixels: [M] int64, ascending.
          pulses: [M] float32.
          white: [M] float32, standard normal.
          classes: [M] float32.
          noise_ids: [K] int64.
          noise_counts: [K] float64.

        Returns:
          ids, charge and label as a `PlaneImage` has them.
        """
        parameters = self.parameters
        counts = pulses * np.float32(parameters.gain[plane])
        counts += np.float32(parameters.noise_counts) * white * (counts > 1.0)
        over = counts > parameters.threshold
        ids = np.concatenate([pixels[over], noise_ids])
        charge = np.concatenate([counts[over].astype(np.float64), noise_counts])
        label = np.concatenate(
            [classes[over], np.full(noise_ids.size, BACKGROUND, np.float32)]
        )
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        first = np.ones(ids.size, bool)
        first[1:] = ids[1:] != ids[:-1]
        # Rounded up, so that what passed the threshold stays above it.
        grid = parameters.counts_grid
        charge = np.ceil(charge[order][first] / grid) * grid
        return (
            ids[first].astype(np.uint64),
            charge.astype(np.float32),
            label[order][first],
        )


def read_out(
    readout: Readout, rng: np.random.Generator, segments: Segments
) -> list[PlaneImage]:
    """Turns the deposits of an event into its images.

    Args:
      readout: scratch memory of the image shape.
      rng: source of randomness.
      segments: deposits of all particles.

    Returns:
      One image per plane.
    """
    points = drift(readout.parameters, readout.geometry, rng, segments)
    shown = {grid.volumes: points for grid in readout.geometry.planes}
    for volumes in shown:
        if len(volumes) == 1:
            shown[volumes] = points.in_volume(volumes[0])
    return [
        readout.image(rng, shown[grid.volumes], plane)
        for plane, grid in enumerate(readout.geometry.planes)
    ]


def with_neighbours(touched: np.ndarray, rows: int) -> np.ndarray:
    """Adds the rows before and after pixels in the same volume, still sorted.

    Args:
      touched: [N] int64, distinct ids in ascending order.
      rows: rows of one volume.

    Returns:
      [M] int64, distinct and ascending, without sorting again.
    """
    row = touched % rows
    gap = np.diff(touched)
    has_before, has_after = row > 0, row < rows - 1
    # The row after goes first: it is left out where it is itself touched, and the row
    # before where that or the row after of the previous pixel is the same.
    has_after[:-1] &= gap > 1
    has_before[1:] &= (gap > 2) | ((gap == 2) & ~has_after[:-1])
    candidates = touched[:, None] + np.arange(-1, 2)
    chosen = np.ones(candidates.shape, bool)
    chosen[:, 0], chosen[:, 2] = has_before, has_after
    return candidates[chosen]
