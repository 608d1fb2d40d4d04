"""A training, its validation and an inference of a network with both heads."""

import csv
import dataclasses

import h5py
import numpy as np
import pytest

from ctjax.base.errors import UserError
from ctjax.config.heads import active_heads, loss_names, metric_names
from tests.support import small_runs
from tests.support.head_labels import INSIDE, boxes_at, write

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("runs_heads")]

HEADS = {
    f"network__{head}__{name}": value
    for head in ("classification", "vertex")
    for name, value in {"active": True, "n_filters": 2, "n_layers": 0}.items()
}


SPARSE = {
    "network__architecture": "uresnet_sparse",
    "network__depth": 2,
    "network__n_initial_filters": 2,
    "network__normalization": "none",
    "network__blocks_per_layer": 1,
    "network__blocks_deepest_layer": 1,
    "network__blocks_final": 0,
    "network__bottleneck_deepest": 3,
    "network__filter_size_deepest": 3,
}


def rows_of(folder, name):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


TENSORFLOW = {**SPARSE, "network__architecture": "uresnet_tensorflow"}


@pytest.mark.parametrize(
    "network",
    [{}, SPARSE, TENSORFLOW],
    ids=["uresnet", "uresnet_sparse", "uresnet_tensorflow"],
)
def test_losses_and_metrics_are_everywhere(runs, tmp_path, network):
    nowhere = boxes_at(None, None, None)
    kinds = [(14, 0, 40, INSIDE), (12, 0, 40, nowhere), (12, 1, 40, INSIDE)]
    file = write(tmp_path / "events.h5", [*kinds, (14, 0, 2, INSIDE)])
    fields = {"data__file": file, "network__vertex__depth": 1, **HEADS, **network}
    config = runs.config(
        "train",
        tmp_path / "run",
        **{**fields, "data__aux_file": file, "run__aux_iterations": 2},
        run__iterations=2,
    )
    heads = active_heads(config.network)
    names, parts = metric_names(heads, 3), loss_names(heads)
    run = small_runs.run_and_listen(config)
    for name in ("train_metrics.csv", "val_metrics.csv"):
        for row in rows_of(run.folder, name):
            found = np.array([float(row[part]) for part in parts])
            assert found[:-1].sum() == pytest.approx(found[-1], rel=1e-4)
            assert found[-1] == pytest.approx(float(row["loss"])) and found.min() > 0
            # All four events, of which two show a vertex in every plane.
            assert all(0 <= float(row[metric]) for metric in names)
    for kind in ("train", "test"):
        assert {*names, *parts} <= set(run.scalars(kind))
    config = runs.config(
        "inference",
        tmp_path / "applied",
        mode__weights_location=str(run.folder),
        mode__write_predictions=True,
        **fields,
    )
    applied = small_runs.run_and_listen(config)
    rows = rows_of(applied.folder, "inference_metrics.csv")
    distances = [float(row["plane1/VertexResolution"]) for row in rows]
    assert np.isnan(distances).tolist() == [False, True, False, True]
    mean = applied.result["plane1/VertexResolution"]
    assert mean == pytest.approx(np.nanmean(distances), rel=1e-5)
    with h5py.File(applied.folder / "predictions.h5") as written:
        boxes = written["Data/bbox2d_bbox_neutrino_prediction_group/bboxes"]
        particles = written["Data/particle_sbndneutrino_prediction_group/particles"]
        assert len(boxes) == 4 * 3 and len(particles) == 4
    assert len(rows_of(applied.folder, "inference_events.csv")) == 4
    right = [float(row["Average/EventLabel"]) for row in rows]
    assert applied.result["Average/EventLabel"] == pytest.approx(np.mean(right))

    # Without pixels' classes the vertex has a truth, but not the class of an event.
    group = "Data/sparse2d_sbnd_cosmicseg_group"
    with h5py.File(file, "r+") as opened:
        del opened[group]
    unlabelled = dataclasses.replace(config, output_dir=str(tmp_path / "unlabelled"))
    other = small_runs.run_and_listen(unlabelled)
    assert any(m.endswith("no metrics of pixels") for m in other.messages)
    assert set(other.result) == {name for name in names if "Vertex" in name}
    assert not rows_of(other.folder, "inference_confusion.csv")
    # With labels the last event's two pixels hide its neutrino, and so its vertex.
    rows = rows_of(other.folder, "inference_metrics.csv")
    events = rows_of(other.folder, "inference_events.csv")
    for row, event in zip(rows, events, strict=True):
        assert row["Average/mIoU"] == row["plane0/mIoU"] == "nan"
        assert (event["true_class"], row["Average/EventLabel"]) == ("", "nan")
        for plane in range(3):
            distance = float(event[f"plane{plane}/distance_cm"])
            found = float(row[f"plane{plane}/VertexResolution"])
            assert found == pytest.approx(distance, rel=1e-5, nan_ok=True)
    distances = [float(row["plane1/VertexResolution"]) for row in rows]
    assert np.isnan(distances).tolist() == [False, True, False, False]
    mean = other.result["plane1/VertexResolution"]
    assert mean == pytest.approx(np.nanmean(distances), rel=1e-5)


def test_a_training_begins_with_weights_without_heads(runs, tmp_path):
    """And an inference without heads takes those of the training that has them."""
    file = write(tmp_path / "events.h5", [(14, 0, 40, INSIDE)] * 4)
    depth = {"network__vertex__depth": 1}
    before = runs.train(run__iterations=1)
    config = runs.config(
        "train",
        tmp_path / "run",
        **{"data__file": file, **HEADS, **depth, "run__iterations": 1},
        mode__weights_location=str(before.folder),
        mode__allow_other_images=True,
    )
    run = small_runs.run_and_listen(config)
    assert sum("begun anew" in message for message in run.messages) == 1
    config = runs.config(
        "inference",
        tmp_path / "applied",
        data__file=file,
        mode__weights_location=str(run.folder),
    )
    applied = small_runs.run_and_listen(config)
    assert sum("is left out" in message for message in applied.messages) == 1
    assert not (applied.folder / "inference_events.csv").exists()


def test_a_training_without_labels_is_refused(runs, tmp_path):
    config = runs.config("train", tmp_path, **HEADS, network__vertex__depth=0)
    with pytest.raises(UserError, match="product sbndneutrino: found nothing"):
        small_runs.run_and_listen(config)
