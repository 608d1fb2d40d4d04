"""Makes whole events: seed and number in, stored pixels and truth out."""

import dataclasses

import numpy as np

from ctjax.simulation.cosmics import make_cosmics, michel_electrons
from ctjax.simulation.geometry import Geometry, make_geometry
from ctjax.simulation.interactions import MASSES, Interaction, make_interaction
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters
from ctjax.simulation.readout import PlaneImage, Readout, read_out
from ctjax.simulation.segments import Particles, Segments, join_particles, join_segments
from ctjax.simulation.showers import develop
from ctjax.simulation.tracks import follow


@dataclasses.dataclass(frozen=True)
class Event:
    """Holds one simulated readout.

    Attributes:
      number: index i of the event.
      planes: stored pixels of each plane.
      interaction: the neutrino, or None.
    """

    number: int
    planes: list[PlaneImage]
    interaction: Interaction | None


class Simulator:
    """Makes events of one detector; holds constants and scratch memory only."""

    def __init__(self, parameters: SimulationParameters | None = None):
        """Checks the shape and allocates.

        Raises:
          UserError: the image shape is not divisible.
        """
        self.parameters = parameters or SimulationParameters()
        self.geometry: Geometry = make_geometry(self.parameters)
        self._readout = Readout(self.parameters, self.geometry)

    def event(self, seed: int, number: int) -> Event:
        """Makes event `number` of a seed; no other event enters.

        Args:
          seed: non-negative integer.
          number: non-negative integer.

        Returns:
          The event, the same on every call of this generator version.
        """
        entropy = np.random.SeedSequence([GENERATOR_VERSION, seed, number])
        rng = np.random.Generator(np.random.PCG64(entropy))
        cosmics, electrons, photons = make_cosmics(self.parameters, self.geometry, rng)
        interaction = make_interaction(self.parameters, rng)
        deposits = [cosmics]
        if interaction is not None:
            tracks, more_electrons = _follow_hadrons(self.parameters, rng, interaction)
            deposits += tracks
            electrons = join_particles([electrons, *more_electrons])
            photons = join_particles([photons, interaction.of_kind(22)])
        deposits.append(develop(self.parameters, rng, electrons, photons))
        planes = read_out(self._readout, rng, join_segments(deposits))
        return Event(number, planes, interaction)


def _follow_hadrons(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    interaction: Interaction,
) -> tuple[list[Segments], list[Particles]]:
    """Returns tracks of muon, pions and protons; electrons of vertex and tracks."""
    deposits, electrons = [], [interaction.of_kind(11)]
    for code in (13, 211, 2212):
        particles = interaction.of_kind(code)
        path = parameters.pion_interaction_cm if code == 211 else np.inf
        tracks, deltas, rest = follow(parameters, rng, particles, MASSES[code], path)
        deposits.append(tracks)
        electrons.append(deltas)
        # Pions at rest become muons of 4 MeV (1 mm of track, left out), then electrons.
        if code != 2212:
            electrons.append(michel_electrons(parameters, rng, rest))
    return deposits, electrons
