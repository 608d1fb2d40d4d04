"""Writes predictions into a larcv3 file, which is complete or absent.

The file says where it comes from: attributes name the program, the weights, the input
and what was done to it, and every event keeps its id and the geometry of its images.
Planes are numbered as the run has them, and each is written in its own size, whatever
rows and columns images have beyond it.
"""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import ctjax
from ctjax.base import version
from ctjax.base.constants import CLASS_PRODUCT
from ctjax.base.detector import Detector, ImageShape
from ctjax.base.errors import ConfigError
from ctjax.config.detectors import DETECTOR_FIELDS
from ctjax.config.fields import Config, Data
from ctjax.config.heads import NO_HEADS, ActiveHeads
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter, SparsePlanes
from ctjax.data.minibatch import HostMinibatch, images_of_event
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.data.sparse import SparsePlane
from ctjax.outputs import found_events

PREDICTIONS = "predictions.h5"
"""Name of the file in the output folder."""

SCORE_PRODUCT = "{}_prediction"
"""Producer of the scores of a class by its name, as CosmicTagger's TensorFlow 1 code
named those of cosmic and neutrino."""

CLASS_PARTICLE = "sbndneutrino_prediction"
"""Producer of the particle product that says the predicted class of an event."""

VERTEX_BOX = "bbox_neutrino_prediction"
"""Producer of the bbox2d product that says where the predicted vertex is."""

NEEDED = ("image", "score", "prediction", "label")
"""Names of the evaluation step's results that predictions are made of; of heads, those
of `head_steps.ALL_RESULTS`, too."""


class Products(NamedTuple):
    """Names the products of a file of predictions.

    Attributes:
      image: charges.
      scores: of each class but the background, how probable it is.
      classes: predicted ones.
      label: true classes; None where the data have none.
      particles: of the predicted class of an event, where the network tells it.
      boxes: around the predicted vertices, where the network finds them.
    """

    image: str
    scores: tuple[str, ...]
    classes: str
    label: str | None
    particles: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Returns all sparse2d products, in the order of the file."""
        names = [self.image, *self.scores, self.classes]
        return names if self.label is None else [*names, self.label]


def name_products(
    data: Data,
    detector: Detector,
    has_label: bool,
    heads: ActiveHeads = NO_HEADS,
) -> Products:
    """Names what is written of a data set: charges and labels as there.

    Raises:
      ConfigError: two of the products would have one name.
    """
    scores = tuple(SCORE_PRODUCT.format(name) for name in detector.classes[1:])
    label = data.label_product if has_label else None
    # Of other types than images, which larcv3 tells apart by type and name.
    particles = (CLASS_PARTICLE,) if heads.classification else ()
    boxes = (VERTEX_BOX,) if heads.vertex else ()
    image = data.image_product
    products = Products(image, scores, CLASS_PRODUCT, label, particles, boxes)
    names = products.names()
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"data.classes={data.classes}: expected names of which predictions can "
                f"be told apart, found two products {name}"
            )
    return products


def provenance(
    config: Config, source: EventSource, weights: str, weights_sha256: str
) -> dict[str, Any]:
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
        **{
            name: getattr(config.data, name)
            for name in DETECTOR_FIELDS
            if getattr(config.data, name) is not None
        },
    }


def in_utf8(name: str) -> str:
    """Returns a file's name with what is no UTF-8 in it replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def metas_of(source: EventSource) -> list[PlaneMeta]:
    """Returns the geometry of the first event that is not known to be bad."""
    entries = range(source.num_events)
    good = (entry for entry in entries if entry not in source.bad_events)
    return source.plane_metas(next(good, 0))


@contextlib.contextmanager
def open_writer(
    path: str,
    metas: Sequence[PlaneMeta],
    products: Products,
    attributes: Mapping[str, Any],
) -> Iterator[LarcvWriter]:
    """Opens a file of predictions, which gets its name when all has been written.

    Args:
      path: file to write; that of a former inference is replaced at the end.
      metas: P image metas of any event, for the number of pixels.
      products: names of what is written.
      attributes: of the file, see `provenance`.

    Yields:
      The writer, for `append`.

    Raises:
      OSError: the folder cannot be written to.
    """
    unfinished = f"{path}.unfinished"
    with contextlib.suppress(FileNotFoundError):
        os.remove(unfinished)
    with LarcvWriter(
        unfinished,
        metas,
        products.names(),
        products.particles,
        products.boxes,
        attributes=attributes,
    ) as writer:
        yield writer
    os.replace(unfinished, path)


def append_minibatch(
    writer: LarcvWriter,
    minibatch: HostMinibatch,
    results: dict[str, Any],
    source: EventSource,
    products: Products,
) -> None:
    """Adds the events of a minibatch that has been evaluated; skipped ones are empty.

    Args:
      writer: see `open_writer`.
      minibatch: on the host.
      results: those of NEEDED, of the step of `steps.make_eval_step`, on the host, and
        those of heads, all of the events of this minibatch alone.
      source: of the events.
      products: see `open_writer`.
    """
    shapes = source.detector.shapes_of_planes(source.image_shape)
    for place in np.flatnonzero(minibatch.entries != PADDING).tolist():
        entry, metas = int(minibatch.entries[place]), None
        if minibatch.mask[place] == 0:
            empty = [_voxels(np.zeros(0), np.zeros(0))] * len(shapes)
            planes = {name: empty for name in products.names()}
        else:
            metas = source.plane_metas(entry)
            planes = _planes_of(results, place, minibatch, source, products)
        run, subrun, event = minibatch.event_ids[place].tolist()
        particles, boxes = found_events.products_of(results, place, metas, len(shapes))
        writer.append(
            (run, subrun, event),
            planes,
            {name: particles for name in products.particles},
            {name: boxes for name in products.boxes},
            metas,
        )


def _planes_of(
    results: dict[str, Any],
    place: int,
    minibatch: HostMinibatch,
    source: EventSource,
    products: Products,
) -> dict[str, SparsePlanes]:
    """Makes what is written of the planes of an event that was evaluated."""
    shapes = source.detector.shapes_of_planes(source.image_shape)
    if minibatch.sites is None:
        return planes_of_images(results, place, products, shapes)
    stored, num_rows = (
        source.read_sparse(int(minibatch.entries[place])),
        source.image_shape[0],
    )
    planes = planes_of_sites(results, place, minibatch, stored, products)
    return {
        name: [
            (_in_plane(ids, num_rows, height), values)
            for (ids, values), (height, _) in zip(each, shapes, strict=True)
        ]
        for name, each in planes.items()
    }


def planes_of_images(
    results: dict[str, Any],
    place: int,
    products: Products,
    shapes: Sequence[ImageShape],
) -> dict[str, SparsePlanes]:
    """Makes what is written of an event.

    All products but the label hold the pixels with charge. As the format demands, the
    label also holds pixels that are not background, should any lie elsewhere. Ignored
    pixels are labelled `IGNORED`: without a label they would pass for background.

    Args:
      results: what the step of `steps.make_eval_step` returns with scores, on the
        host.
      place: position of the event in the minibatch.
      products: names of what is written.
      shapes: rows and columns of each plane's own pixels.

    Returns:
      Ids and values of the planes, by product.
    """
    parts: dict[str, list] = {name: [] for name in products.names()}
    for plane, (height, width) in enumerate(shapes):
        own = {
            name: results[name][place, plane, :height, :width]
            for name in ("image", "score", "prediction", "label")
        }
        ids = np.flatnonzero((own["image"] != 0).T)
        columns, rows = np.divmod(ids, height)
        charged = {name: values[rows, columns] for name, values in own.items()}
        parts[products.image].append(_voxels(ids, charged["image"]))
        for number, name in enumerate(products.scores, start=1):
            parts[name].append(_voxels(ids, charged["score"][:, number]))
        parts[products.classes].append(_voxels(ids, charged["prediction"]))
        if products.label is not None:
            ids = np.flatnonzero(((own["image"] != 0) | (own["label"] != 0)).T)
            columns, rows = np.divmod(ids, height)
            label = own["label"][rows, columns]
            parts[products.label].append(_voxels(ids, label))
    return dict(parts)


def planes_of_sites(
    results: dict[str, Any],
    place: int,
    minibatch: HostMinibatch,
    stored: list[SparsePlane],
    products: Products,
) -> dict[str, SparsePlanes]:
    """Makes the same of an event whose network has computed at sites.

    Args:
      results: likewise.
      place: likewise.
      minibatch: of sites, that has been evaluated.
      stored: the event's P planes, for labels of pixels that are no sites.
      products: likewise.

    Returns:
      Likewise, but ids of the images, which may have more rows than the planes.
    """
    assert minibatch.site_ids is not None
    images = images_of_event(minibatch, place)
    parts: dict[str, list] = {name: [] for name in products.names()}
    for (part, span), plane in zip(images, stored, strict=True):
        charge = results["image"][part, span]
        charged = charge != 0
        ids = minibatch.site_ids[part, span][charged]
        score = results["score"][part, span][charged]
        parts[products.image].append(_voxels(ids, charge[charged]))
        for number, name in enumerate(products.scores, start=1):
            parts[name].append(_voxels(ids, score[:, number]))
        predicted = results["prediction"][part, span][charged]
        parts[products.classes].append(_voxels(ids, predicted))
        if products.label is not None:
            held = (plane.values != 0) | (plane.classes != 0)
            label = _voxels(plane.ids[held], plane.classes[held])
            parts[products.label].append(label)
    return dict(parts)


def _in_plane(ids: np.ndarray, num_rows: int, height: int) -> np.ndarray:
    """Turns ids of an image into those of a plane of fewer rows."""
    if num_rows == height:
        return ids
    columns, rows = np.divmod(ids, np.uint64(num_rows))
    return columns * np.uint64(height) + rows


def _voxels(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and values of a plane in the types of the file."""
    return ids.astype(np.uint64), values.astype(np.float32)
