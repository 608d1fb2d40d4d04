"""Writes predictions into a larcv3 file, which is complete or absent.

The file says where it comes from: attributes name the program, the weights, the input
and what was done to it, and every event keeps its id and the geometry of its image.
"""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

import ctjax
from ctjax.base import version
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
from ctjax.config.fields import Config
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter, SparsePlanes
from ctjax.data.minibatch import HostMinibatch, images_of_event
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.data.sparse import SparsePlane

PREDICTIONS = "predictions.h5"
"""Name of the file in the output folder."""

PRODUCTS = (
    IMAGE_PRODUCT,
    COSMIC_SCORE_PRODUCT,
    NEUTRINO_SCORE_PRODUCT,
    CLASS_PRODUCT,
    LABEL_PRODUCT,
)
"""What the file holds; the last one where the data have classes."""

GEOMETRY = ("number_of_voxels", "image_sizes", "origin")

NEEDED = ("image", "score", "prediction", "label")
"""Names of the evaluation step's results that predictions are made of."""


def provenance(
    config: Config, source: EventSource, weights: str, weights_sha256: str
) -> dict[str, str | int | bool]:
    """Says what predictions are made from.

    Args:
      config: of the inference.
      source: of its events.
      weights: where they are from.
      weights_sha256: see `checksums.sum_arrays`.

    Returns:
      Attributes of the file, as docs/data-format.md lists them.
    """
    files = [
        {"file": in_utf8(path), "bytes": num_bytes, "events": num_events}
        for path, num_bytes, num_events in source.files()
    ]
    now = datetime.datetime.now(datetime.UTC)
    return {
        "ctjax_version": ctjax.__version__,
        "ctjax_commit": version.find_commit(),
        "date": now.isoformat(timespec="seconds"),
        "weights": in_utf8(weights),
        "weights_sha256": weights_sha256,
        # In one text: a list of very many names would be too long for an attribute.
        "input_files": json.dumps(files),
        "downsample": config.data.downsample,
        "img_transform": config.data.img_transform,
        "precision": config.run.precision.value,
        "mask_empty_pixels": config.mode.mask_empty_pixels,
    }


def in_utf8(name: str) -> str:
    """Returns a file's name with what is no UTF-8 in it replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


@contextlib.contextmanager
def open_writer(
    path: str,
    metas: Sequence[PlaneMeta],
    has_label: bool,
    attributes: Mapping[str, Any],
) -> Iterator[LarcvWriter]:
    """Opens a file of predictions, which gets its name when all has been written.

    Args:
      path: file to write; that of a former inference is replaced at the end.
      metas: P image metas of any event, for the number of pixels.
      has_label: whether to write the true classes as well.
      attributes: of the file, see `provenance`.

    Yields:
      The writer, for `append`.

    Raises:
      OSError: the folder cannot be written to.
    """
    products = [name for name in PRODUCTS if has_label or name != LABEL_PRODUCT]
    unfinished = f"{path}.unfinished"
    with contextlib.suppress(FileNotFoundError):
        os.remove(unfinished)
    with LarcvWriter(unfinished, metas, products, attributes=attributes) as writer:
        yield writer
    os.replace(unfinished, path)


def append_minibatch(
    writer: LarcvWriter,
    minibatch: HostMinibatch,
    results: dict[str, Any],
    source: EventSource,
) -> None:
    """Adds the events of a minibatch that has been evaluated.

    Args:
      writer: see `open_writer`.
      minibatch: on the host.
      results: those of NEEDED, of the step of `steps.make_eval_step`, on the host.
      source: of the events.
    """
    for place in np.flatnonzero(minibatch.entries != PADDING).tolist():
        entry = int(minibatch.entries[place])
        if minibatch.sites is None:
            products = products_of_images(results, place)
        else:
            stored = source.read_sparse(entry)
            products = products_of_sites(results, place, minibatch, stored)
        append(
            writer,
            minibatch.event_ids[place],
            products,
            source.has_label,
            source.plane_metas(entry),
        )


def append(
    writer: LarcvWriter,
    event_id: np.ndarray,
    products: dict[str, SparsePlanes],
    has_label: bool,
    metas: Sequence[PlaneMeta],
) -> None:
    """Adds one event.

    Args:
      writer: see `open_writer`.
      event_id: [3] int64, run, subrun, event.
      products: of the event, see `products_of_images`; the label is left out where the
        data have none.
      has_label: see `open_writer`.
      metas: P image metas of the event.
    """
    if not has_label:
        products = {k: v for k, v in products.items() if k != LABEL_PRODUCT}
    run, subrun, event = event_id.tolist()
    writer.append((run, subrun, event), products, metas=metas)


def products_of_images(results: dict[str, Any], place: int) -> dict[str, SparsePlanes]:
    """Makes what is written of an event.

    All products but the label hold the pixels with charge. As the format demands, the
    label also holds pixels that are not background, should any lie elsewhere.

    Args:
      results: what the step of `steps.make_eval_step` returns with scores, on the
        host.
      place: position of the event in the minibatch.

    Returns:
      Ids and values of the planes, by product.
    """
    image, score = results["image"][place], results["score"][place]
    label = results["label"][place]
    charged = image != 0
    return {
        IMAGE_PRODUCT: _at(charged, image),
        COSMIC_SCORE_PRODUCT: _at(charged, score[..., COSMIC]),
        NEUTRINO_SCORE_PRODUCT: _at(charged, score[..., NEUTRINO]),
        CLASS_PRODUCT: _at(charged, results["prediction"][place]),
        LABEL_PRODUCT: _at(charged | (label != 0), label),
    }


def products_of_sites(
    results: dict[str, Any],
    place: int,
    minibatch: HostMinibatch,
    stored: list[SparsePlane],
) -> dict[str, SparsePlanes]:
    """Makes the same of an event whose network has computed at sites.

    Args:
      results: likewise.
      place: likewise.
      minibatch: of sites, that has been evaluated.
      stored: the event's P planes, for labels of pixels that are no sites.
    """
    assert minibatch.site_ids is not None
    images = images_of_event(minibatch, place)
    parts: dict[str, list] = {name: [] for name in PRODUCTS}
    for (part, span), plane in zip(images, stored, strict=True):
        charge = results["image"][part, span]
        charged = charge != 0
        ids = minibatch.site_ids[part, span][charged]
        score = results["score"][part, span][charged]
        values = {
            IMAGE_PRODUCT: charge[charged],
            COSMIC_SCORE_PRODUCT: score[:, COSMIC],
            NEUTRINO_SCORE_PRODUCT: score[:, NEUTRINO],
            CLASS_PRODUCT: results["prediction"][part, span][charged],
        }
        for name, of_charged in values.items():
            parts[name].append(_voxels(ids, of_charged))
        held = (plane.values != 0) | (plane.classes != 0)
        parts[LABEL_PRODUCT].append(_voxels(plane.ids[held], plane.classes[held]))
    return dict(parts)


def part_path(path: str, process: int) -> str:
    """Returns the name of the file that one of several processes writes."""
    return f"{path}.rank{process}"


def join(parts: list[str], order: list[int], path: str, has_label: bool) -> None:
    """Joins the files that several processes have written, and removes them.

    Args:
      parts: files written through `open_writer`.
      order: for each event, in which of them it is.
      path: file to write, which gets its name when it is complete.
      has_label: see `open_writer`.

    Raises:
      OSError: a part cannot be read, or the folder cannot be written to.
    """
    taken = [0] * len(parts)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(h5py.File(part, "r")) for part in parts]
        writer = None
        for part in order:
            products, event_id, metas = _read(files[part], taken[part])
            if writer is None:
                attributes = dict(files[0].attrs)
                opened = open_writer(path, metas, has_label, attributes)
                writer = stack.enter_context(opened)
            writer.append(event_id, products, metas=metas)
            taken[part] += 1
    for part in parts:
        os.remove(part)


def _read(
    file: h5py.File, index: int
) -> tuple[dict[str, SparsePlanes], tuple[int, int, int], list[PlaneMeta]]:
    """Reads an event that `append` has written: products, ids and geometry."""
    data = h5py.Group(file["Data"].id)
    products, metas = {}, []
    for name in map(str, data):
        group = h5py.Group(data[name].id)
        tables = {key: h5py.Dataset(group[key].id) for key in group}
        span = tables["extents"][index]
        rows = slice(span["first"], span["first"] + span["N"])
        metas = [
            PlaneMeta(*(tuple(meta[name].tolist()) for name in GEOMETRY))
            for meta in tables["image_meta"][rows]
        ]
        planes = []
        for row in tables["voxel_extents"][rows]:
            voxels = tables["voxels"][row["first"] : row["first"] + row["N"]]
            planes.append((voxels["id"], voxels["value"]))
        products[name.removeprefix("sparse2d_").removesuffix("_group")] = planes
    row = h5py.Dataset(file["Events/event_id"].id)[index]
    event_id = int(row["run"]), int(row["subrun"]), int(row["event"])
    return products, event_id, metas


def _at(wanted: np.ndarray, values: np.ndarray) -> SparsePlanes:
    """Returns ids (column * H + row, ascending) and values of pixels by plane."""
    planes = []
    for plane in range(NUM_PLANES):
        ids = np.flatnonzero(wanted[plane].T)
        planes.append(_voxels(ids, values[plane].T.reshape(-1)[ids]))
    return planes


def _voxels(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and values of a plane in the types of the file."""
    return ids.astype(np.uint64), values.astype(np.float32)
