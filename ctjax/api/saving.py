"""Writes predictions into a larcv3 file."""

import dataclasses
import os

import numpy as np

from ctjax.api import head_results
from ctjax.api.events import Events
from ctjax.api.tagger import BATCH_SIZE, Tagger
from ctjax.base import home
from ctjax.base.errors import UserError
from ctjax.config.fields import Data
from ctjax.config.heads import active_heads
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.outputs import checksums, predictions


def save_predictions(
    path: str | os.PathLike,
    events: Events,
    tagger: Tagger,
    *,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Predicts events and writes the file that `ctjax infer` writes.

    Args:
      path: file to write, of larcv3's format as docs/data-format.md has it; complete
        or not there at all. One that is there is replaced.
      events: opened by `ctjax.open`.
      tagger: loaded by `ctjax.load`.
      batch_size: events computed together, see `Tagger.iterate`.

    Raises:
      UserError: there are no events, `path` is one of their files, their labels are of
        other classes, or see `Tagger.predict`.
      LarcvFileError: an event cannot be read.
      OSError: the file cannot be written.

    Examples:
      >>> ctjax.save_predictions("predictions.h5", events, tagger)
    """
    name = home.expand(os.fspath(path))
    if os.path.isdir(name):
        raise UserError(f"{name}: found a folder, expected the name of a file")
    evaluated = tagger.evaluate(events, batch_size=batch_size)
    if not len(events):
        raise UserError(f"{name}: found no events to predict, expected some")
    if os.path.realpath(name) in map(os.path.realpath, events.paths):
        raise UserError(
            f"{name}: a file of the events, expected another name for the predictions"
        )
    source, data = events.source, _find_data(events, tagger)
    attributes = predictions.provenance(
        dataclasses.replace(tagger.config, data=data),
        source,
        tagger.weights,
        checksums.sum_arrays(tagger.variables),
    )
    products = predictions.name_products(
        *(data, tagger.detector, source.has_label),
        active_heads(tagger.config.network),
    )
    metas = predictions.metas_of(source)
    with predictions.open_writer(name, metas, products, attributes) as writer:
        for minibatch, results in evaluated:
            if "vertex" in results:
                # Without labels the network knows no unit but pixels.
                _turn_into_cm(results["vertex"], minibatch.entries, source)
            predictions.append_minibatch(writer, minibatch, results, source, products)


def _find_data(events: Events, tagger: Tagger) -> Data:
    """Returns the data section of an inference that predicts these events.

    Raises:
      UserError: their labels are of other classes than the weights.
    """
    if events.has_label and events.classes != tagger.classes:
        raise UserError(
            f"events of the classes {', '.join(events.classes)}, expected those of the "
            f"weights: ctjax.open takes classes={','.join(tagger.classes)!r}"
        )
    ours = tagger.config.data
    return dataclasses.replace(
        events.data, classes=ours.classes, img_transform=ours.img_transform
    )


def _turn_into_cm(vertex: np.ndarray, entries: np.ndarray, source: EventSource) -> None:
    """Turns the vertices [B, P, 3] of a minibatch from pixels into cm."""
    for place in np.flatnonzero(entries != PADDING).tolist():
        metas = source.plane_metas(int(entries[place]))
        vertex[place] = head_results.in_cm(vertex[place], metas)
