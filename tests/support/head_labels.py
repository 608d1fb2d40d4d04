"""Labels of heads for tests: random ones, and the files of CosmicTagger's own."""

import os
import pathlib

import numpy as np
import pytest

from ctjax.base.head_labels import HeadLabels, VertexLabel
from ctjax.data.larcv.records import BBOX, PARTICLE, PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter

SHAPES = (32, 64), (32, 64), (16, 48)  # of a detector whose last plane is smaller
METAS = [
    PlaneMeta((w, h), (3.0 * w, 2.0 * h), origin)
    for (h, w), origin in zip(
        SHAPES, [(-9.0, 5.0), (0.0, 5.0), (1.0, 2.0)], strict=True
    )
]


def random_labels(events, map_shape, planes=3, seed=0):
    """Labels of events with a vertex in every plane but the last event's."""
    random = np.random.default_rng(seed)
    shape = events, planes, 2
    cell = random.integers(0, map_shape, shape).astype(np.int32)
    offset = random.random(shape, np.float32)
    origin = np.full(shape, 3, np.float32)
    position = origin + (cell + offset) * 2
    cell[-1], offset[-1], position[-1] = -1, 0, np.nan
    vertex = VertexLabel(position, cell, offset, origin, np.full(shape, 2, np.float32))
    return HeadLabels(np.arange(events, dtype=np.int32) % 4, vertex)


def golden_files() -> list:
    """Returns parameters of tests: the files of CosmicTagger's labels."""
    marks = [pytest.mark.slow, pytest.mark.parity]
    if not os.environ.get("CTJAX_SHARED"):
        unset = pytest.mark.skip(reason="CTJAX_SHARED does not name the shared folder")
        return [pytest.param(None, marks=[*marks, unset], id="shared")]
    folder = pathlib.Path(os.environ["CTJAX_SHARED"]) / "golden" / "labels_v21"
    paths = sorted(folder.glob("*.npz"))
    assert paths, f"no files in {folder}"
    return [pytest.param(path, marks=marks, id=path.stem) for path in paths]


def boxes_at(*centroids):
    """A box of each plane, (column, row) in cm; None for no box."""
    tables = [np.zeros(0 if middle is None else 1, BBOX) for middle in centroids]
    for table, middle in zip(tables, centroids, strict=True):
        if middle is not None:
            table["centroid"] = middle
    return tables


def write(path, events):
    """Writes (pdg, current, neutrino pixels, boxes) of each event."""
    products = {"sparse2d": ("sbndwire", "sbnd_cosmicseg")}
    others = {"particles": ("sbndneutrino",), "bboxes": ("bbox_neutrino",)}
    with LarcvWriter(path, METAS, **products, **others) as writer:
        for number, (pdg, current, pixels, boxes) in enumerate(events):
            # Cosmic pixels stand in row 2 and column 2, where counted places would lie.
            ids = np.arange(2, 2 + 40, dtype=np.uint64)
            label = np.where(np.arange(40) < pixels, 2.0, 1.0)
            none = np.zeros(0, np.uint64), np.zeros(0)
            particle = np.zeros(1, PARTICLE)
            particle["pdg"], particle["current_type"] = pdg, current
            writer.append(
                (1, 1, number),
                {
                    "sbndwire": [(ids, np.ones(40)), none, none],
                    "sbnd_cosmicseg": [(ids, label), none, none],
                },
                {"sbndneutrino": particle},
                {"bbox_neutrino": boxes},
            )
    return str(path)


INSIDE = boxes_at((0.0, 7.0), (189.0, 68.0), (1.0, 2.0))
"""Boxes of vertices in all planes, at the edges of some."""
