"""Turns a simulated event into larcv3 records, in the form of dataset version 2."""

import numpy as np

from ctjax.base.constants import (
    BOX_PRODUCT,
    IMAGE_PRODUCT,
    LABEL_PRODUCT,
    PARTICLE_PRODUCT,
)
from ctjax.data.larcv.records import (
    BBOX,
    NO_PARENT,
    PlaneMeta,
    Storage,
    unset_particles,
)
from ctjax.data.larcv.writer import LarcvWriter
from ctjax.simulation.events import Event
from ctjax.simulation.geometry import Geometry, vertex_boxes
from ctjax.simulation.interactions import MASSES
from ctjax.simulation.parameters import SimulationParameters


def plane_metas(geometry: Geometry) -> list[PlaneMeta]:
    """Returns the image metas in cm, (wire, drift), one per plane."""
    metas = []
    for grid in geometry.planes:
        height, width = grid.shape
        sizes = (width * grid.pitch_cm, height * geometry.row_cm)
        metas.append(PlaneMeta((width, height), sizes, grid.origin_cm))
    return metas


def open_writer(path, geometry: Geometry, storage: Storage | None = None):
    """Returns a writer with the products of simulated files."""
    return LarcvWriter(
        path,
        plane_metas(geometry),
        sparse2d=(IMAGE_PRODUCT, LABEL_PRODUCT),
        particles=(PARTICLE_PRODUCT,),
        bboxes=(BOX_PRODUCT,),
        storage=storage,
    )


def event_products(
    parameters: SimulationParameters, geometry: Geometry, event: Event
) -> dict:
    """Makes the products of an event, keyword arguments of `LarcvWriter.append`.

    Args:
      parameters: the simulation's constants.
      geometry: pixel grids.
      event: the simulated event.

    Returns:
      `sparse2d`, `particles` and `bboxes`.
    """
    return {
        "sparse2d": {
            IMAGE_PRODUCT: [(p.ids, p.charge) for p in event.planes],
            LABEL_PRODUCT: [(p.ids, p.label) for p in event.planes],
        },
        "particles": {PARTICLE_PRODUCT: particle_table(event)},
        "bboxes": {BOX_PRODUCT: box_tables(parameters, geometry, event)},
    }


def particle_table(event: Event) -> np.ndarray:
    """Lists the neutrino, then the final state; one row of pdg 0 without a neutrino.

    Args:
      event: the simulated event.

    Returns:
      [N] records of type `PARTICLE`; energies (whole, with mass) and momenta in GeV,
      vertex in cm with x and y from the middle, z from the front, t in ns
      as in the light file.
    """
    interaction = event.interaction
    final = 0 if interaction is None else interaction.codes.size
    rows = unset_particles(1 + final)
    # larcv3 hands out the previous event's particles where an event has none, so an
    # event without neutrino gets a row that says so.
    rows["parent_trackid"][0] = NO_PARENT
    if interaction is None:
        return rows
    rows["process"] = b"primary"
    rows["pdg"] = [interaction.pdg, *interaction.codes]
    rows["current_type"][0] = interaction.current_type
    rows["vtx"]["x"], rows["vtx"]["y"], rows["vtx"]["z"] = interaction.vertex
    rows["vtx"]["t"] = interaction.time * 1000
    kinetic = interaction.particles.energy
    masses = np.array([MASSES[abs(int(code))] for code in interaction.codes])
    momentum = np.sqrt(kinetic * (kinetic + 2 * masses)) / 1000
    rows["energy_init"][0] = rows["pz"][0] = interaction.energy / 1000
    rows["energy_init"][1:] = (kinetic + masses) / 1000
    for axis, name in enumerate(("px", "py", "pz")):
        rows[name][1:] = momentum * interaction.particles.direction[axis]
    return rows


def box_tables(
    parameters: SimulationParameters, geometry: Geometry, event: Event
) -> list[np.ndarray]:
    """Makes one box around the vertex in each plane that shows it.

    Args:
      parameters: the simulation's constants.
      geometry: pixel grids.
      event: the simulated event.

    Returns:
      For each plane [N] records of type `BBOX` in the image meta's cm, N 0 or 1: none
      without a neutrino, or where it interacted in a volume that others show.
    """
    interaction = event.interaction
    if interaction is None:
        return [np.zeros(0, BBOX) for _ in geometry.planes]
    boxes = vertex_boxes(parameters, geometry, interaction.vertex, interaction.time)
    tables = []
    for box in boxes:
        table = np.zeros(0 if box is None else 1, BBOX)
        if box is not None:
            table["centroid"], table["half_length"] = box
        # The identity; larcv3 itself writes [1, 0, 1, 0].
        table["rotation"] = 1.0, 0.0, 0.0, 1.0
        tables.append(table)
    return tables
