"""Whole runs of the sparse network: what a run of images does, at the sites alone."""

import csv

import h5py
import jax
import numpy as np
import pytest

from ctjax.base.constants import METRIC_NAMES
from ctjax.base.errors import UserError
from ctjax.commands import export_weights, import_weights
from ctjax.data import site_minibatches
from ctjax.data.larcv.file import LarcvFile
from ctjax.learning import metrics
from ctjax.outputs import predictions
from ctjax.runs.inference import InferenceError
from ctjax.runs.training_loop import TrainingError
from ctjax.views import event as views_event
from tests.support import larcv_fixtures, small_networks, small_runs, summaries
from tests.support.small_runs import SHAPE, entries_of, loss_by_hand

pytestmark = pytest.mark.xdist_group("runs_of_the_sparse_network")

NETWORK = {
    "network__architecture": "uresnet_sparse",
    "network__depth": 1,
    "network__n_initial_filters": 2,
    "network__normalization": "none",
    "network__blocks_per_layer": 1,
    "network__blocks_deepest_layer": 1,
    "network__blocks_final": 0,
    "network__bottleneck_deepest": 3,
    "network__filter_size_deepest": 3,
}


def logits_of(run, image, variables=None):
    """Scores of images [B, P, H, W] whose pixels with charge are the sites."""
    sites, to_images = small_networks.as_input(run.config.network, image)
    model = small_networks.models.make(run.config.network)
    apply = jax.jit(model.apply)
    logits = to_images(apply(variables or run.variables, sites))
    return np.asarray(logits, np.float64)


def metrics_by_hand(logits, label):
    """Of every event; pixels without a site are background by their scores of 0."""
    counts = metrics.confusion(jax.numpy.asarray(logits.argmax(-1)), label)
    return np.asarray(metrics.event_metrics(counts)), np.asarray(counts)


@pytest.fixture(scope="module")
def odd_events():
    """Charges and classes [5, P, H, W]: some stored where the other product is not."""
    events = larcv_fixtures.make_events(5, SHAPE, seed=3)
    image, label = larcv_fixtures.dense_truth(events, SHAPE)
    random = np.random.default_rng(4)
    image[3] = 0  # an event without any charge, but with classes
    image[random.random(image.shape) < 0.1] = 0
    label[random.random(label.shape) < 0.05] = 2
    return image, label


@pytest.fixture(scope="module")
def odd_file(runs, odd_events):
    """A file of them, one pixel of which is stored with a charge of 0."""
    image, label = odd_events

    def listed(arrays, is_held):
        return [
            [
                (np.flatnonzero(held.T), array.T.ravel()[np.flatnonzero(held.T)])
                for array, held in zip(*event, strict=True)
            ]
            for event in zip(arrays, is_held, strict=True)
        ]

    is_stored = image != 0
    first_empty = np.flatnonzero(~is_stored[0, 0].T)[0]
    is_stored[0, 0].T.ravel()
    is_stored[0, 0, first_empty % SHAPE[0], first_empty // SHAPE[0]] = True
    charges = [
        [(ids, values, values) for ids, values in event]
        for event in listed(image, is_stored)
    ]
    classes = [
        [(ids, values, values) for ids, values in event]
        for event in listed(label, label != 0)
    ]
    path = runs.write("odd.h5", charges)
    with h5py.File(path, "r+") as file:
        del file[larcv_fixtures.LABEL_GROUP]
        group = file.create_group(larcv_fixtures.LABEL_GROUP)
        larcv_fixtures.write_product(
            *(group, classes, 1, SHAPE, 32, 8), larcv_fixtures.VOXEL, {}
        )
    return path


# Training.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "only", "one_device"),
    [("light", False, False), ("focal", True, True), ("even", False, True)],
)
def test_losses_and_metrics_are_those_of_images(runs, truth, scheme, only, one_device):
    """Of training and validation, with the picture of an event of each."""
    image, label = truth
    run = runs.train(
        one_device=one_device,
        mode__optimizer__loss_balance_scheme=scheme,
        mode__optimizer__loss_charged_pixels_only=only,
        mode__summary_iteration=1,
        data__aux_file=runs.file,
        run__aux_iterations=1,
        **NETWORK,
    )
    logits = logits_of(run, image)
    losses, accuracies = [], []
    for step in range(2):
        at = entries_of(step)
        losses.append(loss_by_hand(logits[at], label[at], image[at], scheme, only))
        values, _ = metrics_by_hand(logits[at], label[at])
        accuracies.append(values.mean(0))
    for table in ("train_metrics", "val_metrics"):
        assert run.column(table, "loss") == pytest.approx(losses, rel=1e-4)
        for number, name in enumerate(METRIC_NAMES):
            expected = [values[number] for values in accuracies]
            assert run.column(table, name) == pytest.approx(expected, rel=1e-5)
    images = summaries.read_images(run.folder / "train")
    assert ("event", 0) in images
    assert any(line.startswith("Sites by level") for line in run.messages)


@pytest.mark.slow
def test_training_learns_and_goes_on_bit_for_bit(runs, tmp_path, monkeypatch):
    """Also where later minibatches have more sites than the first ones."""
    counts = [sum(len(plane[0]) for plane in event) for event in runs.events]
    smallest = [int(np.argmin(counts))]
    monkeypatch.setattr(site_minibatches, "sampled_entries", lambda _: smallest)
    monkeypatch.setattr(site_minibatches, "capacity_for", lambda count: count)
    fields = {
        "mode__optimizer__learning_rate": 3e-2,
        "mode__optimizer__name": "adam",
        "mode__checkpoint_iteration": 4,
        **(NETWORK | {"network__normalization": "batch"}),
    }
    config = runs.config("train", tmp_path / "whole", run__iterations=12, **fields)
    whole = small_runs.run_and_listen(config)
    assert np.mean(whole.losses[-3:]) < 0.9 * np.mean(whole.losses[:3])
    assert any("instead of" in line for line in whole.messages)
    for iterations in (4, 8, 12):
        config = runs.config(
            "train", tmp_path / "parts", run__iterations=iterations, **fields
        )
        parts = small_runs.run_and_listen(config)
    assert parts.table("train_metrics") == whole.table("train_metrics")
    for path, leaf in small_runs.flat(whole.variables).items():
        found = small_runs.flat(parts.variables)[path]
        np.testing.assert_array_equal(found, leaf, err_msg=str(path))


def moved(runs, one_device=False, **changes):
    """Parameters after one step of rate 1."""
    fields = {"run__iterations": 1, "mode__optimizer__learning_rate": 1.0}
    fields |= {"mode__optimizer__loss_balance_scheme": "light"}
    return runs.train(one_device=one_device, **(fields | NETWORK | changes))


def assert_same_step(found, expected, tolerance=1e-5):
    assert found.losses == pytest.approx(expected.losses, rel=tolerance)
    first = expected.params
    for path, leaf in found.params.items():
        scale = max(np.abs(first[path]).max(), 1e-2)
        np.testing.assert_allclose(
            leaf, first[path], atol=tolerance * scale, err_msg=str(path)
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "one_device", "tolerance"),
    [
        ({}, False, 1e-5),
        ({"run__remat": "block"}, True, 1e-5),
        ({"run__remat": "stage"}, True, 1e-5),
        ({"run__minibatch_size": 2, **{"accumulate": 2}}, True, 1e-5),
        ({"run__precision": "bfloat16"}, True, 3e-2),
        ({"run__precision": "mixed"}, True, 3e-2),
    ],
    ids=["four devices", "block", "stage", "accumulated", "bfloat16", "mixed"],
)
def test_the_step_is_that_of_one_device(runs, changes, one_device, tolerance):
    changes = dict(changes)
    expected = moved(runs, one_device=True)
    if "accumulate" in changes:
        del changes["accumulate"]
        changes["mode__optimizer__gradient_accumulation"] = 2
        # The loss without weights is the mean of those of equal parts.
        none = {"mode__optimizer__loss_balance_scheme": "none"}
        expected, changes = moved(runs, one_device=True, **none), changes | none
    assert_same_step(moved(runs, one_device, **changes), expected, tolerance)


@pytest.mark.slow
def test_instance_normalization_on_four_devices_is_that_of_one(runs):
    fields = {"network__normalization": "instance"}
    assert_same_step(moved(runs, **fields), moved(runs, True, **fields), 1e-4)


# Inference.


@pytest.fixture(scope="module")
def inferred(runs, odd_file):
    """Five events in minibatches of four, on four devices."""
    return runs.infer(data__file=odd_file, mode__mask_empty_pixels=False, **NETWORK)


@pytest.mark.slow
def test_metrics_of_events_are_those_of_their_images(inferred, odd_events):
    image, label = odd_events
    trained_with = inferred.config.mode.weights_location
    assert trained_with
    logits = logits_of(inferred, image, weights_of(inferred))
    values, counts = metrics_by_hand(logits, label)
    rows = inferred.table("inference_metrics")
    assert [row["entry"] for row in rows] == list(range(5))
    for row, expected in zip(rows, values, strict=True):
        found = [row[name] for name in METRIC_NAMES]
        assert found == pytest.approx(expected.tolist(), rel=1e-5)
    found = [list(row.values())[4:] for row in inferred.table("inference_confusion")]
    np.testing.assert_array_equal(found, counts.reshape(5, -1))
