"""Holds what passes from physics to readout: straight pieces of deposited energy."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass
class Segments:
    """Holds N straight pieces.

    Attributes:
      start: [3, N] float64, cm.
      end: [3, N] float64, cm.
      energy: [N] float64, MeV deposited evenly along the piece.
      density: [N] float64, MeV/cm, the energy loss that decides recombination.
      time: [N] float64, us from the trigger.
      origin: [N] float64, class of the primary (`COSMIC` or `NEUTRINO`).
    """

    start: np.ndarray
    end: np.ndarray
    energy: np.ndarray
    density: np.ndarray
    time: np.ndarray
    origin: np.ndarray


class Particles:
    """Holds N particles at their birth, or at a point of their flight.

    Everything lies in one array, since choosing particles by an index is what the
    generations of a shower do most.

    Attributes:
      data: [9, N] float64: position (cm), direction (unit vector), kinetic energy
        (MeV), time (us from the trigger), origin (class of the primary, `COSMIC` or
        `NEUTRINO`).
    """

    def __init__(self, data: np.ndarray):
        """Wraps an array as described above."""
        self.data = data

    @classmethod
    def make(
        cls,
        position: np.ndarray,
        direction: np.ndarray,
        energy: np.ndarray,
        time: np.ndarray,
        origin: np.ndarray | int,
    ) -> "Particles":
        """Copies [3, N], [3, N] and [N] arrays into one batch."""
        data = np.empty((9, energy.size))
        data[:3], data[3:6] = position, direction
        data[6], data[7], data[8] = energy, time, origin
        return cls(data)

    def __len__(self) -> int:
        """Returns the number of particles."""
        return self.data.shape[1]

    @property
    def position(self) -> np.ndarray:
        """Returns the positions, [3, N] cm."""
        return self.data[:3]

    @property
    def direction(self) -> np.ndarray:
        """Returns the directions, [3, N] unit vectors."""
        return self.data[3:6]

    @property
    def energy(self) -> np.ndarray:
        """Returns the kinetic energies, [N] MeV."""
        return self.data[6]

    @property
    def time(self) -> np.ndarray:
        """Returns the times, [N] us."""
        return self.data[7]

    @property
    def origin(self) -> np.ndarray:
        """Returns the class of each primary, [N]."""
        return self.data[8]

    def take(self, index: np.ndarray) -> "Particles":
        """Copies the particles of an index or mask."""
        return Particles(self.data[:, index])

    def copy(self) -> "Particles":
        """Copies all."""
        return Particles(self.data.copy())


def join_segments(parts: Sequence[Segments]) -> Segments:
    """Joins at least one batch of segments into one."""
    names = [field.name for field in dataclasses.fields(Segments)]
    return Segments(
        *(np.concatenate([getattr(p, name) for p in parts], axis=-1) for name in names)
    )


def join_particles(parts: Sequence[Particles]) -> Particles:
    """Joins at least one batch of particles into one."""
    return Particles(np.concatenate([part.data for part in parts], axis=1))


def isotropic(rng: np.random.Generator, number: int) -> np.ndarray:
    """Draws unit vectors, [3, number] float64."""
    cosine = rng.uniform(-1.0, 1.0, number)
    azimuth = rng.uniform(0.0, 2 * np.pi, number)
    sine = np.sqrt(1.0 - cosine**2)
    return np.stack([sine * np.cos(azimuth), cosine, sine * np.sin(azimuth)])


def turn(direction: np.ndarray, cosine: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Turns directions by polar and azimuthal angles about themselves.

    Args:
      direction: [3, N] float64, unit vectors.
      cosine: [N] float64, of the polar angle.
      azimuth: [N] float64, radians.

    Returns:
      [3, N] float64, unit vectors.
    """
    return turn_to(direction, cosine, np.cos(azimuth), np.sin(azimuth))


def turn_to(
    direction: np.ndarray,
    cosine: np.ndarray,
    cosine_azimuth: np.ndarray,
    sine_azimuth: np.ndarray,
) -> np.ndarray:
    """Does what `turn` does, by cosine and sine of the azimuthal angles."""
    first, second = perpendicular(direction)
    sine = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
    turned = cosine * direction + sine * (
        cosine_azimuth * first + sine_azimuth * second
    )
    return turned / np.sqrt((turned**2).sum(0))


def perpendicular(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two unit vectors across each direction, [3, N] float64 each."""
    x, y, z = direction
    # Duff et al., "Building an Orthonormal Basis, Revisited" (JCGT 6, 2017).
    sign = np.where(z >= 0, 1.0, -1.0)
    scale = -1.0 / (sign + z)
    mixed = x * y * scale
    first, second = np.empty_like(direction), np.empty_like(direction)
    first[0], first[1], first[2] = 1.0 + sign * x * x * scale, sign * mixed, -sign * x
    second[0], second[1], second[2] = mixed, sign + y * y * scale, -y
    return first, second
