"""Labels of heads for tests: random ones, and the files of CosmicTagger's own."""

import os
import pathlib

import numpy as np
import pytest

from ctjax.base.head_labels import HeadLabels, VertexLabel


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
