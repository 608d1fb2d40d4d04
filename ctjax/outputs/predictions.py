"""Writes predictions into a larcv3 file, which is complete or absent."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ctjax.base.constants import (
    CLASS_PRODUCT,
    COSMIC,
    COSMIC_SCORE_PRODUCT,
    IMAGE_PRODUCT,
    LABEL_PRODUCT,
    NEUTRINO,
    NEUTRINO_SCORE_PRODUCT,
    NUM_PLANES,
)
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter, SparsePlanes

NEEDED = ("image", "score", "prediction", "label")
"""Names of the evaluation step's results that `append` takes."""


@contextlib.contextmanager
def open_writer(
    path: str, image_shape: tuple[int, int], has_label: bool
) -> Iterator[LarcvWriter]:
    """Opens a file of predictions, which gets its name when all has been written.

    Args:
      path: file to write; that of a former inference is replaced at the end.
      image_shape: rows H and columns W.
      has_label: whether to write the true classes as well.

    Yields:
      The writer, for `append`.

    Raises:
      OSError: the folder cannot be written to.
    """
    height, width = image_shape
    # larcv3 counts wires first, and gives sizes in the unit of the image: here pixels.
    meta = PlaneMeta((width, height), (float(width), float(height)), (0.0, 0.0))
    products = [
        IMAGE_PRODUCT,
        COSMIC_SCORE_PRODUCT,
        NEUTRINO_SCORE_PRODUCT,
        CLASS_PRODUCT,
        *([LABEL_PRODUCT] if has_label else []),
    ]
    unfinished = f"{path}.unfinished"
    with contextlib.suppress(FileNotFoundError):
        os.remove(unfinished)
    with LarcvWriter(unfinished, [meta] * NUM_PLANES, products) as writer:
        yield writer
    os.replace(unfinished, path)


def append(
    writer: LarcvWriter,
    event_id: np.ndarray,
    results: dict[str, Any],
    place: int,
    has_label: bool,
) -> None:
    """Adds one event.

    All products but the label hold the pixels with charge. As the format demands, the
    label also holds pixels that are not background, should any lie elsewhere.

    Args:
      writer: see `open_writer`.
      event_id: [3] int64, run, subrun, event.
      results: what the step of `steps.make_eval_step` returns with scores, on the
        host.
      place: position of the event in the minibatch.
      has_label: see `open_writer`.
    """
    image, score = results["image"][place], results["score"][place]
    charged = image != 0
    products = {
        IMAGE_PRODUCT: _at(charged, image),
        COSMIC_SCORE_PRODUCT: _at(charged, score[..., COSMIC]),
        NEUTRINO_SCORE_PRODUCT: _at(charged, score[..., NEUTRINO]),
        CLASS_PRODUCT: _at(charged, results["prediction"][place]),
    }
    if has_label:
        label = results["label"][place]
        products[LABEL_PRODUCT] = _at(charged | (label != 0), label)
    run, subrun, event = event_id.tolist()
    writer.append((run, subrun, event), products)


def part_path(path: str, process: int) -> str:
    """Returns the name of the file that one of several processes writes."""
    return f"{path}.rank{process}"


def join(
    parts: list[str],
    order: list[int],
    path: str,
    image_shape: tuple[int, int],
    has_label: bool,
) -> None:
    """Joins the files that several processes have written, and removes them.

    Args:
      parts: files written through `open_writer`.
      order: for each event, in which of them it is.
      path: file to write, which gets its name when it is complete.
      image_shape: see `open_writer`.
      has_label: likewise.

    Raises:
      OSError: a part cannot be read, or the folder cannot be written to.
    """
    taken = [0] * len(parts)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(h5py.File(part, "r")) for part in parts]
        writer = stack.enter_context(open_writer(path, image_shape, has_label))
        for part in order:
            products, event_id = _read(files[part], taken[part])
            writer.append(event_id, products)
            taken[part] += 1
    for part in parts:
        os.remove(part)


def _read(
    file: h5py.File, index: int
) -> tuple[dict[str, SparsePlanes], tuple[int, int, int]]:
    """Reads all products of an event that `append` has written, and its ids."""
    data = h5py.Group(file["Data"].id)
    products = {}
    for name in map(str, data):
        group = h5py.Group(data[name].id)
        tables = {key: h5py.Dataset(group[key].id) for key in group}
        span = tables["extents"][index]
        planes = []
        for row in tables["voxel_extents"][span["first"] : span["first"] + span["N"]]:
            voxels = tables["voxels"][row["first"] : row["first"] + row["N"]]
            planes.append((voxels["id"], voxels["value"]))
        products[name.removeprefix("sparse2d_").removesuffix("_group")] = planes
    row = h5py.Dataset(file["Events/event_id"].id)[index]
    return products, (int(row["run"]), int(row["subrun"]), int(row["event"]))


def _at(wanted: np.ndarray, values: np.ndarray) -> SparsePlanes:
    """Returns ids (column * H + row, ascending) and values of pixels by plane."""
    planes = []
    for plane in range(NUM_PLANES):
        ids = np.flatnonzero(wanted[plane].T)
        taken = values[plane].T.reshape(-1)[ids]
        planes.append((ids.astype(np.uint64), taken.astype(np.float32)))
    return planes
