"""Writes tables of what heads have found, as an inference does."""

import numpy as np

from ctjax.config.heads import ActiveHeads, Classification, Vertex
from ctjax.outputs import found_events
from ctjax.outputs.inference_reports import EVENT_COLUMNS
from ctjax.outputs.metrics_table import MetricsTable
from ctjax.views.event_table import EVENT_TABLE
from tests.support import other_predictions as other

BOTH = ActiveHeads(Classification(), Vertex())


def write(folder, found, entries=None):
    """Writes the results of a step, of one event after the other.

    Args:
      folder: output folder.
      found: results by the names of `head_steps.ALL_RESULTS`.
      entries: of the events; None for 0, 1, ...
    """
    heads = ActiveHeads(
        Classification() if "event_score" in found else None,
        Vertex() if "vertex" in found else None,
    )
    number = len(next(iter(found.values())))
    planes = found["vertex"].shape[1] if heads.vertex else 0
    columns = *EVENT_COLUMNS, *found_events.columns(heads, planes)
    table = MetricsTable(str(folder / EVENT_TABLE), columns)
    for place in range(number):
        entry = place if entries is None else entries[place]
        row = found_events.table_row(found, place, True)
        table.write([entry, 1, 2, entry, "a.h5", *row])
    table.close()


def made_vertices(true, off=(3.0, 4.0)):
    """Results of true vertices [N, P, 2] in cm and of predicted ones beside them."""
    true = np.asarray(true, np.float32)
    score = np.full((*true.shape[:2], 1), 0.75, np.float32)
    predicted = np.nan_to_num(true) + np.asarray(off, np.float32)
    return {
        "vertex": np.concatenate([predicted, score], -1),
        "vertex_label": true,
    }


def write_run(folder):
    """Writes what an inference of two events, by a network with both heads, leaves.

    In plane 0 of the second event the true vertex is in row 1 and column 1, the
    predicted one in 2 and 3; in plane 1 of the first there is no true one.
    """
    source = other.source_of()
    results = other.made_results(np.random.default_rng(0), 2)
    path = folder / "predictions.h5"
    other.write(path, results, [1, 1], source, other.ATTRIBUTES)
    other.write_run(folder, source)
    true = [[[2.0, 1.5], [np.nan, np.nan]], [[1.5, 0.5], [2.5, 2.0]]]
    scores = np.float32([[0, 1, 0, 0], [0, 0, 0, 1]])
    found = {"event_score": scores, "event_label": np.int32([1, 2])}
    write(folder, found | made_vertices(true, (0.5, 1.0)))
    return folder
