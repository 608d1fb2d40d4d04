"""Whole runs of the sparse network: what a run of images does, at the sites alone."""

import re

import h5py
import jax
import numpy as np
import pytest

from ctjax import models
from ctjax.base.constants import (
    CLASS_PRODUCT,
    IMAGE_PRODUCT,
    LABEL_PRODUCT,
)
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.base.errors import UserError
from ctjax.commands import (
    command_line,
    export_weights,
    import_weights,
    report,
    show,
)
from ctjax.config.fields import ModeName
from ctjax.data import pipeline, site_minibatches, sources
from ctjax.data.larcv.file import LarcvFile
from ctjax.data.minibatch import Form, SiteForm, images_of_event
from ctjax.learning import metrics
from ctjax.outputs import checkpoint
from ctjax.runs import quickstart
from ctjax.runs.inference import InferenceError
from ctjax.runs.training_loop import TrainingError
from ctjax.views import evaluated_event
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


def logits_of(run, image, is_site=None):
    """Scores of images [B, P, H, W], whose sites are the pixels with charge."""
    network = run.config.network
    sites, to_images = small_networks.as_input(network, image, is_site)
    apply = jax.jit(models.make(network).apply)
    return np.asarray(to_images(apply(run.variables, sites)), np.float64)


def metrics_by_hand(logits, label, charge=None):
    """Of every event; pixels without a site are background by their scores of 0.

    Where charges are given, those without any are background, too.
    """
    prediction = logits.argmax(-1)
    if charge is not None:
        prediction = np.where(charge == 0, 0, prediction)
    counts = metrics.confusion(prediction, label)
    return np.asarray(metrics.event_metrics(counts)), np.asarray(counts)


@pytest.fixture(scope="module")
def odd_events():
    """Charges, classes and whether there is a site, [5, P, H, W].

    Charges are also where there is no class, and classes where there is no charge, of
    which the fourth event has none at all. A pixel is stored with a charge of 0.
    """
    events = larcv_fixtures.make_events(5, SHAPE, seed=3)
    image, label = larcv_fixtures.dense_truth(events, SHAPE)
    random = np.random.default_rng(4)
    image[random.random(image.shape) < 0.1] = 0
    image[3] = 0
    label[random.random(label.shape) < 0.05] = 2
    is_stored = image != 0
    image[0, 0, 0, 0], is_stored[0, 0, 0, 0] = 0, True
    return image, label, is_stored


def stored(images, is_held):
    """Events as `larcv_fixtures.write_larcv` takes them."""
    events = []
    for planes in zip(images, is_held, strict=True):
        event = []
        for image, held in zip(*planes, strict=True):
            ids = np.flatnonzero(held.T)
            values = image.T.ravel()[ids]
            event.append((ids, values, values))
        events.append(event)
    return events


@pytest.fixture(scope="module")
def odd_file(runs, odd_events):
    """A file of them."""
    image, label, is_stored = odd_events
    path = runs.write("odd.h5", stored(image, is_stored))
    with h5py.File(path, "r+") as file:
        del file[larcv_fixtures.LABEL_GROUP]
        group = file.create_group(larcv_fixtures.LABEL_GROUP)
        classes = stored(label, label != 0)
        how = 32, 8, larcv_fixtures.VOXEL, {}
        larcv_fixtures.write_product(group, classes, 1, SHAPE, *how)
    return path


# Training.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "only", "one_device"),
    [("light", False, False), ("focal", True, True), ("even", False, True)],
)
def test_losses_and_metrics_are_those_of_images(
    runs, truth, monkeypatch, scheme, only, one_device
):
    """Of training and validation, with the picture of an event of each.

    On one device lists begin with the size of the smallest event, and become larger.
    """
    image, label = truth
    if one_device:
        begin_with_few_places(runs, monkeypatch)
    run = runs.train(
        one_device=one_device,
        mode__optimizer__loss_balance_scheme=scheme,
        mode__optimizer__loss_charged_pixels_only=only,
        mode__no_summary_images=False,
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
        for number, name in enumerate(COSMIC_TAGGER.metric_names):
            expected = [values[number] for values in accuracies]
            assert run.column(table, name) == pytest.approx(expected, rel=1e-5)
    images = summaries.read_images(run.folder / "train")
    assert {name for name, _ in images} == {"event"}
    lines = [line for line in run.messages if line.startswith("Sites by level")]
    assert any("instead of" in line for line in lines) == one_device


def begin_with_few_places(runs, monkeypatch):
    """Takes the smallest event as the largest."""
    counts = [sum(len(plane[0]) for plane in event) for event in runs.events]
    smallest = [int(np.argmin(counts))]
    monkeypatch.setattr(site_minibatches, "sampled_entries", lambda _: smallest)
    monkeypatch.setattr(site_minibatches, "capacity_for", lambda count: count)


@pytest.mark.slow
def test_training_learns_and_goes_on_bit_for_bit(runs, tmp_path, monkeypatch):
    """Also where later minibatches have more sites than the first ones."""
    begin_with_few_places(runs, monkeypatch)
    fields = {
        "mode__optimizer__learning_rate": 3e-2,
        "mode__optimizer__name": "adam",
        "mode__optimizer__loss_charged_pixels_only": True,
        "mode__checkpoint_iteration": 4,
        **(NETWORK | {"network__normalization": "batch"}),
    }
    config = runs.config("train", tmp_path / "whole", run__iterations=12, **fields)
    whole = small_runs.run_and_listen(config)
    assert np.mean(whole.losses[-3:]) < 0.95 * np.mean(whole.losses[:3])
    assert any("instead of" in line for line in whole.messages)
    for iterations in (4, 8, 12):
        config = runs.config(
            "train", tmp_path / "parts", run__iterations=iterations, **fields
        )
        parts = small_runs.run_and_listen(config)
    for name in ("loss", "grad_norm", *COSMIC_TAGGER.metric_names):
        assert parts.column("train_metrics", name) == whole.column(
            "train_metrics", name
        )
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
    return runs.infer(data__file=odd_file, **NETWORK)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_metrics_of_events_are_those_of_their_images(
    runs, odd_file, odd_events, masked
):
    image, label, is_stored = odd_events
    changes = {} if masked else {"mode__mask_empty_pixels": False}
    run = runs.infer(data__file=odd_file, **changes, **NETWORK)
    logits = logits_of(runs.train(**NETWORK), image, is_stored)
    values, counts = metrics_by_hand(logits, label, image if masked else None)
    assert np.array_equal(counts, metrics_by_hand(logits, label)[1]) != masked
    rows = run.table("inference_metrics")
    assert [row["entry"] for row in rows] == list(range(5))
    for row, expected in zip(rows, values, strict=True):
        found = [row[name] for name in COSMIC_TAGGER.metric_names]
        assert found == pytest.approx(expected.tolist(), rel=1e-5)
    found = [list(row.values())[4:] for row in run.table("inference_confusion")]
    np.testing.assert_array_equal(found, counts.reshape(5, -1))


@pytest.mark.slow
def test_predictions_are_of_the_pixels_with_charge(runs, inferred, odd_events):
    image, label, is_stored = odd_events
    logits = logits_of(runs.train(**NETWORK), image, is_stored)
    score = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    charged = image != 0
    products = {
        IMAGE_PRODUCT: (image, charged),
        "cosmic_prediction": (score[..., 1], charged),
        "neutrino_prediction": (score[..., 2], charged),
        CLASS_PRODUCT: (logits.argmax(-1), charged),
        LABEL_PRODUCT: (label, charged | (label != 0)),
    }
    for product, (values, is_held) in products.items():
        found = inferred.predictions(product)
        expected = stored(values, is_held)
        for event, other in zip(found, expected, strict=True):
            for plane, (ids, wanted, _) in zip(event, other, strict=True):
                assert plane["id"].tolist() == ids.tolist(), product
                np.testing.assert_allclose(plane["value"], wanted, rtol=1e-4)
    with LarcvFile(inferred.folder / "predictions.h5") as file:
        assert file.num_events == 5 and file.has_label
        found, _ = file.read_event(0)
        np.testing.assert_array_equal(
            found.values, image[0].swapaxes(1, 2)[charged[0].swapaxes(1, 2)]
        )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_few_bits_and_other_devices_say_much_the_same(runs, inferred, precision):
    fields = {"data__file": inferred.config.data.file, **NETWORK}
    one = runs.infer(one_device=True, run__minibatch_size=3, **fields)
    assert one.table("inference_metrics") == inferred.table("inference_metrics")
    few = runs.infer(run__precision=precision, **fields)
    for name in ("cosmic_prediction", "neutrino_prediction"):
        both = few.predictions(name), inferred.predictions(name)
        for event, other in zip(*both, strict=True):
            for plane, expected in zip(event, other, strict=True):
                assert plane["id"].tolist() == expected["id"].tolist()
                np.testing.assert_allclose(plane["value"], expected["value"], atol=0.03)


@pytest.mark.slow
def test_inference_goes_round_and_needs_no_labels(runs, inferred, odd_events):
    image, _, is_stored = odd_events
    path = runs.folder / "unlabelled.h5"
    events = stored(image, is_stored)
    larcv_fixtures.write_larcv(path, events, SHAPE, with_label=False)
    fields = {"data__file": str(path), "mode__wrap": True, "run__iterations": 2}
    run = runs.infer(**(NETWORK | fields))
    rows = run.table("inference_metrics")
    assert [row["entry"] for row in rows] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert all(np.isnan(row["Average/mIoU"]) for row in rows)
    found, expected = (r.predictions("cosmic_prediction") for r in (run, inferred))
    for event, other in zip(found, [*expected, *expected[:3]], strict=True):
        for plane, wanted in zip(event, other, strict=True):
            assert plane["id"].tolist() == wanted["id"].tolist()
            np.testing.assert_allclose(plane["value"], wanted["value"], rtol=1e-4)
    with h5py.File(run.folder / "predictions.h5") as file:
        assert larcv_fixtures.LABEL_GROUP not in file


@pytest.mark.slow
@pytest.mark.parametrize("downsample", [1, 3])
def test_pooled_images(runs, truth, downsample):
    image, label = larcv_fixtures.dense_truth(runs.events, SHAPE, downsample)
    fields = {**NETWORK, "network__depth": 2, "data__downsample": downsample}
    trained = runs.train(run__iterations=1, **fields)
    logits, at = logits_of(trained, image), entries_of(0)
    expected = loss_by_hand(logits[at], label[at], image[at])
    assert trained.losses == pytest.approx([expected], rel=1e-4)
    rows = runs.infer(**fields).table("inference_metrics")
    values, _ = metrics_by_hand(logits, label)
    found = [[row[name] for name in COSMIC_TAGGER.metric_names] for row in rows]
    np.testing.assert_allclose(found, values, rtol=1e-5)


# What is made of it, and what is refused.


def test_a_minibatch_looks_as_its_images_do(odd_file, odd_events):
    _, label, is_stored = odd_events
    prediction = np.where(is_stored, 1 + label % 2, 0).astype(np.uint8)
    views = []
    with sources.open_source(file=odd_file) as source:
        for form in (SiteForm(1, 3, parts=2), Form.DENSE):
            with pipeline.minibatches(source, [np.arange(4)], form=form) as reader:
                minibatch = next(reader)
                results = {"metrics": np.zeros((4, len(COSMIC_TAGGER.metric_names)))}
                results |= {"prediction": prediction, "label": label}
                if minibatch.sites is not None:
                    for name in ("prediction", "label"):
                        results[name] = at_sites(results[name], minibatch)
                views.append(
                    [
                        evaluated_event.view_of_minibatch(
                            minibatch, results, place, SHAPE, 0, COSMIC_TAGGER
                        )
                        for place in range(4)
                    ]
                )
    for found, expected in zip(*views, strict=True):
        assert found.title == expected.title
        for plane, other in zip(found.planes, expected.planes, strict=True):
            # Classes of pixels that are no sites are not shown.
            assert pixels_of(plane) == {
                place: values
                for place, values in pixels_of(other).items()
                if values[0] or values[2]
            }


def pixels_of(plane):
    """(charge, class, predicted class) by row and column."""
    columns = [np.asarray(column).tolist() for column in plane]
    return {
        (row, column): tuple(rest) for row, column, *rest in zip(*columns, strict=True)
    }


def at_sites(images, minibatch):
    """[B, P, H, W] at the sites of a minibatch, [Q, N]."""
    found = np.zeros(minibatch.site_ids.shape, images.dtype)
    for place in range(len(minibatch.mask)):
        for plane, (part, span) in enumerate(images_of_event(minibatch, place)):
            ids = minibatch.site_ids[part, span]
            found[part, span] = images[place, plane].T.ravel()[ids]
    return found


def test_the_io_test_reads_sites(runs):
    run = runs.read(**NETWORK)
    assert run.result["images"] == 8
    assert any(line.startswith("Sites by level") for line in run.messages)


@pytest.mark.slow
def test_pictures_and_the_report(runs, inferred, tmp_path):
    predicted = str(inferred.folder / "predictions.h5")
    for entry in (0, 3):
        view = views_event.read_view(inferred.config.data.file, predicted, entry)
        assert view.has_prediction and view.metrics
        output = str(tmp_path / f"{entry}.png")
        words = ["--file", inferred.config.data.file, "--predictions", predicted]
        assert not show.main([*words, "--entry", str(entry), "--output", output])
    trained = runs.train(mode__summary_iteration=1, **NETWORK).folder
    page = tmp_path / "page.html"
    assert not report.main([str(trained), str(inferred.folder), "--output", str(page)])
    assert "cosmic" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_profile_of_the_training(runs):
    run = runs.train(run__profile=True, run__iterations=3, **NETWORK)
    assert list((run.folder / "profiles").rglob("*.trace.json.gz"))
    assert any("Compiled training step, each" in line for line in run.messages)


@pytest.mark.slow
def test_quickstart(runs, tmp_path):
    words = [
        *("data.file=" + runs.file, "data.aux_file=" + runs.file),
        *("data.data_directory=", "run.iterations=2", "run.minibatch_size=4"),
        *("run.compute_mode=CPU", f"output_dir={tmp_path}", "network.depth=2"),
        "network.blocks_deepest_layer=1",
    ]
    config, _ = command_line.parse_config(
        ["--config", "sparse_small", *words], ModeName.QUICKSTART
    )
    found = quickstart.run(config)
    assert next(iter(found)) == "network after 2 steps" and len(found) == 3


@pytest.mark.slow
def test_numbers_that_are_none_end_in_one_line(runs, tmp_path):
    fields = {"mode__optimizer__learning_rate": 1e30, "run__iterations": 4}
    with pytest.raises(TrainingError) as caught:
        runs.train(**fields, **NETWORK)
    assert "\n" not in str(caught.value)
    assert re.search(r"Largest activations: \w+\S*: (inf|nan)", str(caught.value))
    path = runs.write("large.h5", runs.events)
    with larcv_fixtures.changing(path, f"{larcv_fixtures.IMAGE_GROUP}/voxels") as rows:
        rows["value"][:3] = 9e5
    with pytest.raises(InferenceError) as caught:
        runs.infer(data__file=path, run__precision="float16", **NETWORK)
    assert re.search(
        r"Largest activations of entry 0, .* (inf|nan), ", str(caught.value)
    )
    assert "entry 1 " not in str(caught.value)


def test_weights_are_not_exchanged_with_cosmictagger(runs, tmp_path):
    config = runs.config("inference", tmp_path, **NETWORK)
    variables = small_networks.random_variables(config.network)
    variables = {"batch_stats": {}, **variables}
    checkpoint.save_weights(str(tmp_path / "ours"), variables, 1, config)
    output = str(tmp_path / "weights.npz")
    with pytest.raises(UserError) as caught:
        export_weights.export_weights(str(tmp_path / "ours"), output)
    assert str(caught.value) == (
        f"{tmp_path / 'ours'}: weights of network.architecture=uresnet_sparse, which "
        "CosmicTagger's torch code cannot use; expected those of another network"
    )
    np.savez(output, a=np.zeros(3))
    with pytest.raises(UserError) as caught:
        import_weights.import_weights(output, config, str(tmp_path / "back"))
    assert str(caught.value) == (
        f"{output}: found weights of CosmicTagger, expected a checkpoint of ctjax with "
        "network.architecture=uresnet_sparse"
    )
