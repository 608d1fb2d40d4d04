"""Predictions as a larcv3 file: streamed, complete or absent."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ctjax.constants import COSMIC, IMAGE_PRODUCT, LABEL_PRODUCT, NEUTRINO, NUM_PLANES
from ctjax.data.larcv_records import PlaneMeta
from ctjax.data.larcv_writer import LarcvWriter, SparsePlanes

COSMIC_SCORE_PRODUCT = "cosmic_prediction"
NEUTRINO_SCORE_PRODUCT = "neutrino_prediction"
"""Producers of the scores, named as CosmicTagger's TensorFlow 1 code named them."""

CLASS_PRODUCT = "cosmicseg_prediction"
"""Producer of the predicted class."""


@contextlib.contextmanager
def open_writer(
    path: str, image_shape: tuple[int, int], has_label: bool
) -> Iterator[LarcvWriter]:
    """Opens a file of predictions; it takes its name when all has been written.

    Args:
      path: of the file; one of a former inference is replaced at the end.
      image_shape: rows H and columns W.
      has_label: whether to write the true classes as well.

    Yields:
      The writer, for `append`.

    Raises:
      OSError: the folder cannot be written to.
    """
    height, width = image_shape
    # larcv3 has wires first, and sizes in the unit of the image: here pixels.
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

    All products but the label hold the pixels with charge; the label holds, as the
    format has it, the pixels that are not background too, should any lie elsewhere.

    Args:
      writer: see `open_writer`.
      event_id: [3] int64, run, subrun, event.
      results: of `steps.make_eval_step` with scores, on the host.
      place: of the event in the minibatch.
      has_label: as given to `open_writer`.
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


def _at(wanted: np.ndarray, values: np.ndarray) -> SparsePlanes:
    """Ids (column * H + row, ascending) and values of the wanted pixels by plane."""
    planes = []
    for plane in range(NUM_PLANES):
        ids = np.flatnonzero(wanted[plane].T)
        taken = values[plane].T.reshape(-1)[ids]
        planes.append((ids.astype(np.uint64), taken.astype(np.float32)))
    return planes
