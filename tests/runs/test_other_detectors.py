"""Whole runs of a detector: four planes of three sizes, five classes, some ignored."""

import csv
import dataclasses

import numpy as np
import pytest

from ctjax.base.detector import IGNORED
from ctjax.base.errors import ConfigError
from ctjax.config.detectors import read_detector
from ctjax.data.larcv.file import LarcvFile
from ctjax.runs import train
from tests.support import detector_files, small_runs
from tests.support.small_runs import logits_of

pytestmark = pytest.mark.xdist_group("runs_of_other_detectors")

SHAPES = [(13, 16), (13, 16), (13, 21), (10, 8)]
STORED = (0, 3, 7, 12, 20, 65535)
OWN = [(7, 8), (7, 8), (7, 11), (5, 4)]
"""Of SHAPES, pooled by two."""

FIELDS = {
    "data__classes": "empty,track,shower,michel,delta",
    "data__label_map": "0:empty,3:track,7:shower,12:michel,20:delta,65535:ignore",
    "data__downsample": 1,
    "network__depth": 2,
    "mode__optimizer__learning_rate": 0.0,
}


@pytest.fixture(scope="module")
def file(runs):
    random = np.random.default_rng(3)
    events = [detector_files.make_event(random, SHAPES, STORED) for _ in range(8)]
    return detector_files.write(runs.folder / "detector.h5", events, SHAPES), events


@pytest.fixture(scope="module")
def truth(file):
    """Images and labels, pooled, of the padded size; what is padded is ignored."""
    images, labels = [], []
    classes = dict(zip(STORED, (0, 1, 2, 3, 4, IGNORED), strict=True))
    for event in file[1]:
        mapped = [(i, q, [classes[v] for v in stored]) for i, q, stored in event]
        for name, column, reduce in ((images, 1, np.mean), (labels, 2, np.max)):
            whole = detector_files.dense(mapped, SHAPES, (16, 24), column)
            name.append(reduce(whole.reshape(4, 8, 2, 12, 2), (2, 4)))
    label = np.stack(labels).astype(np.uint8)
    for plane, (height, width) in enumerate(OWN):
        label[:, plane, height:] = label[:, plane, :, width:] = IGNORED
    return np.stack(images).astype(np.float32), label


def loss_by_hand(logits, label):
    """Sum over the planes of the mean cross entropy of what is not ignored."""
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = 0.0
    for plane in range(4):
        counted = label[:, plane] != IGNORED
        own = log_p[:, plane][counted]
        total -= own[np.arange(len(own)), label[:, plane][counted]].mean()
    return total


def counts_by_hand(prediction, label):
    """[P, K, K] pixels of one event by true and predicted class."""
    counts = np.zeros((4, 5, 5), int)
    for plane in range(4):
        counted = label[plane] != IGNORED
        np.add.at(counts[plane], (label[plane][counted], prediction[plane][counted]), 1)
    return counts


@pytest.mark.parametrize("densify", ["host", "device"])
def test_training_and_inference(runs, file, truth, densify):
    image, label = truth
    fields = FIELDS | {"data__file": file[0], "data__densify": densify}
    run = runs.train(**fields, data__aux_file=file[0], run__aux_iterations=1)
    config = run.config
    # The configuration leaves the number of planes open; the file has four.
    data = dataclasses.replace(config.data, planes="0,1,2,3")
    detector = read_detector(data, OWN)
    expected = []
    for step in range(2):
        at = small_runs.entries_of(step)
        logits = logits_of(config, run.variables, image[at], detector=detector)
        expected.append(loss_by_hand(logits, label[at]))
    assert run.losses == pytest.approx(expected, rel=1e-5)
    assert run.column("val_metrics", "loss") == pytest.approx(expected, rel=1e-5)
    found = runs.run(
        "inference",
        **fields,
        mode__weights_location=str(run.folder),
        mode__write_predictions=True,
        run__iterations=None,
    )
    logits = logits_of(config, run.variables, image, detector=detector)
    prediction = np.where(image == 0, 0, logits.argmax(-1))
    with open(found.folder / "inference_confusion.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    for entry, row in enumerate(rows):
        cells = [int(v) for name, v in row.items() if name.startswith("plane")]
        counts = counts_by_hand(prediction[entry], label[entry])
        np.testing.assert_array_equal(np.reshape(cells, (4, 5, 5)), counts)
    check_predictions(found, image, prediction)


def check_predictions(found, image, prediction):
    """Each plane is written in its own size."""
    path = found.folder / "predictions.h5"
    options = {"label_product": "cosmicseg_prediction", "num_classes": 5}
    with LarcvFile(path, **options, strict=True) as written:
        assert list(written.plane_shapes) == OWN
        for entry in range(8):
            charged, classed = written.read_event(entry)
            assert classed is not None
            for plane, (height, width) in enumerate(OWN):
                dense = np.zeros(height * width, np.float32)
                dense[charged.ids[charged.planes[plane]]] = charged.values[
                    charged.planes[plane]
                ]
                own = image[entry, plane, :height, :width]
                np.testing.assert_allclose(
                    dense.reshape(width, height).T, own, rtol=1e-6
                )
                classes = np.zeros(height * width, np.uint8)
                classes[classed.ids[classed.planes[plane]]] = classed.values[
                    classed.planes[plane]
                ]
                own = prediction[entry, plane, :height, :width]
                np.testing.assert_array_equal(classes.reshape(width, height).T, own)


def test_sites(runs, file, truth):
    """The sparse network counts the same pixels as the one on images."""
    _, label = truth
    network = {
        "network__architecture": "uresnet_sparse",
        "network__depth": 2,
        "network__n_initial_filters": 2,
        "network__normalization": "batch",
        "network__blocks_per_layer": 1,
        "network__blocks_deepest_layer": 1,
        "network__blocks_final": 0,
        "network__bottleneck_deepest": 3,
        "network__filter_size_deepest": 3,
    }
    fields = FIELDS | network | {"data__file": file[0]}
    run = runs.train(**fields)
    assert np.isfinite(run.losses).all()
    found = runs.run(
        "inference",
        **fields,
        mode__weights_location=str(run.folder),
        mode__write_predictions=True,
        run__iterations=None,
    )
    rows = found.table("inference_confusion")
    for entry, row in enumerate(rows):
        cells = [v for name, v in row.items() if name.startswith("plane")]
        counted = label[entry] != IGNORED
        of_classes = np.reshape(cells, (4, 5, 5)).sum(-1)
        for plane in range(4):
            expected = np.bincount(label[entry, plane][counted[plane]], minlength=5)
            np.testing.assert_array_equal(of_classes[plane], expected)
    options = {"label_product": "cosmicseg_prediction", "num_classes": 5}
    with LarcvFile(found.folder / "predictions.h5", **options) as written:
        assert list(written.plane_shapes) == OWN


def test_padding_is_in_no_statistics(runs, file):
    """Deeper padding changes the images, and not the statistics of the first norm.

    What comes before it is one convolution, which sees no charge in either padding.
    """
    fields = FIELDS | {
        "data__file": file[0],
        "network__normalization": "batch",
        "run__iterations": 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctjax.runs.parts.find_padding", lambda config: (16, 16))
        deeper = runs.run("train", run__id="deeper", **fields)
    found, expected = (
        {
            path: leaf
            for path, leaf in small_runs.flat(run.variables["batch_stats"]).items()
            if path[0] == "initial_convolution"
        }
        for run in (deeper, runs.train(**fields))
    )
    assert len(found) == 2
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=1e-5, atol=1e-7)
    assert deeper.losses != runs.train(**fields).losses


def test_planes_of_the_validation(runs, file, tmp_path):
    random = np.random.default_rng(4)
    other = [(13, 16), (13, 16), (13, 20), (10, 8)]
    for shapes, words in (
        ([*SHAPES[:3], SHAPES[0]], "7 x 8, expected .*5 x 4"),
        (other, "7 x 10, .*expected .*7 x 11"),
    ):
        events = [detector_files.make_event(random, shapes, STORED) for _ in range(4)]
        path = detector_files.write(tmp_path / "aux.h5", events, shapes)
        config = runs.config(
            "train",
            tmp_path / "run",
            **FIELDS,
            data__file=file[0],
            data__aux_file=path,
            run__aux_iterations=1,
        )
        with pytest.raises(ConfigError, match=rf"data\.aux_file=.*{words}"):
            train.run(config)
