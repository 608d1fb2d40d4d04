"""The data behind the figures of the report page, against numbers by hand."""

import dataclasses

import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.views.report import event_scores, figures, tables
from ctjax.views.report.records import Record

STEPS = np.arange(3.0)
TIMINGS = np.array(
    [(0, 0.5, 4.0), (1, 0.25, 2.0), (2, 0.25, 1.0)],
    [("iteration", "i8"), ("wait_s", "f8"), ("step_s", "f8")],
)


def table(steps, offset):
    """Another value in every column and row: offset + column / 100 + row / 10."""
    return {
        name: offset + number / 100 + np.arange(len(steps)) / 10
        for number, name in enumerate(("loss", *COSMIC_TAGGER.metric_names))
    }


def made_record():
    counts = np.zeros((2, 3, 3, 3))
    # True class first: event 0 has 4 + 5 + 6 true neutrino pixels in plane 1 and one in
    # plane 2; event 1 has 20 in plane 0, of which none is found.
    counts[0, 1] = [[90, 1, 2], [3, 7, 0], [4, 5, 6]]
    counts[0, 2, 2, 2] = 1
    counts[1, 0] = [[50, 0, 9], [0, 8, 0], [20, 0, 0]]
    options = {"run": {"minibatch_size": 2}, "data": {"synthetic": True}}
    options["mode"] = {"optimizer": {"gradient_accumulation": 3}}
    return Record(
        folder="made",
        name="made",
        launches={"train": {"config": options}, "inference": {"config": options}},
        train={"step": STEPS, **table(STEPS, 1)},
        validation={"step": STEPS[1:], **table(STEPS[1:], 5)},
        inference={"entry": np.arange(2.0), **table(STEPS[:2], 0)},
        confusion=counts,
        timings={"train": TIMINGS, "inference": TIMINGS},
    )


def drawn(figure, legend):
    """x and y of the line of a legend's entry."""
    items = [item for box in figure.legend for item in box.items]
    (item,) = [item for item in items if item.label.value == legend]
    (renderer,) = item.renderers
    data = renderer.data_source.data
    glyph = renderer.glyph
    return np.asarray(data[glyph.x]), np.asarray(data[glyph.y]), glyph


def test_curves_of_training_and_of_validation():
    record = made_record()
    curves = figures.learning_curves([record])
    assert len(curves) == 5
    for name, column in (
        ("curve_loss", "loss"),
        ("curve_mIoU", "Average/mIoU"),
        ("curve_neutrino_IoU", "Average/Neutrino_IoU"),
        ("curve_cosmic_IoU", "Average/Cosmic_IoU"),
        ("curve_non-background_accuracy", "Average/Non_Bkg_Accuracy"),
    ):
        for legend, source in (
            ("training", record.train),
            ("validation", record.validation),
        ):
            x, y, glyph = drawn(curves[name], legend)
            np.testing.assert_array_equal(x, source["step"])
            np.testing.assert_array_equal(y, source[column])
            assert (glyph.line_dash != []) == (legend == "validation")


def test_images_per_second_of_each_step():
    drawn_times = figures.step_times([made_record()])
    # A training step has 3 x 2 images, one of inference 2.
    for mode, images in (("train", 6), ("inference", 2)):
        x, y, _ = drawn(drawn_times[f"times_{mode}"], "made")
        np.testing.assert_array_equal(x, [0, 1, 2])
        np.testing.assert_array_equal(y, images / np.array([4.0, 2.0, 1.0]))


def test_events_by_the_true_pixels_of_their_neutrino():
    record = made_record()
    shown = figures.event_metrics([record])
    assert set(shown) == {"events_pixels"}  # made events have no energy
    x, y, _ = drawn(shown["events_pixels"], "made")
    np.testing.assert_array_equal(x, [4 + 5 + 6 + 1, 20])
    np.testing.assert_array_equal(y, record.inference["Average/Neutrino_IoU"])


def test_pictures_of_an_event_have_a_layer_each_in_its_colours():
    by_plane = figures.planes(["#FFFFFF", "#000000"], COSMIC_TAGGER, True)
    assert set(by_plane) == {"plane0", "plane1", "plane2"}
    for number in range(3):
        renderers = {r.name: r for r in by_plane[f"plane{number}"].renderers}
        for layer in ("charge", "truth", "prediction", "errors"):
            colour = renderers[f"{layer}{number}"].glyph.fill_color
            assert colour.field == layer
            if layer in ("truth", "prediction"):
                # background, cosmic, neutrino
                palette = ["#C9CCD1", "#0072B2", "#D55E00"]
                assert list(colour.transform.palette) == palette
                assert (colour.transform.low, colour.transform.high) == (-0.5, 2.5)


def of_events(name, predicted, there):
    """A run whose events have given numbers of predicted neutrino pixels."""
    counts = np.zeros((len(predicted), 3, 3, 3))
    counts[:, 0, 1, 1] = 1
    counts[:, 1, 0, 2] = predicted
    counts[:, 2, 2, 0] = there
    return dataclasses.replace(made_record(), name=name, confusion=counts)


def test_events_with_and_without_a_class_by_their_predicted_pixels():
    record = of_events("made", [0, 1, 3, 9], [0, 0, 1, 1])
    shown = event_scores.figures([record])
    # Every event has a cosmic pixel: there is nothing to tell apart.
    assert list(shown) == ["scores_neutrino", "roc_neutrino"]
    # Bins of 0, 1, 2 to 3, 4 to 7 and 8 to 15 pixels; halves of the two events.
    for legend, shares in (
        ("with neutrino (2)", [0, 0, 0.5, 0, 0.5]),
        ("without neutrino (2)", [0.5, 0.5, 0, 0, 0]),
    ):
        x, y, _ = drawn(shown["scores_neutrino"], legend)
        np.testing.assert_array_equal(x, np.repeat(np.arange(6), 2))
        np.testing.assert_array_equal(y[1:-1:2], shares)
    labels = shown["scores_neutrino"].xaxis[0].major_label_overrides
    assert labels == {0.5: "0", 2: "2", 4: "8"}
    scores = tables.scores(record)[-1].by_event
    x, y, _ = drawn(shown["roc_neutrino"], f"area {scores.area}")
    np.testing.assert_array_equal(x, [0, 0, 0, 0.5, 1])
    np.testing.assert_array_equal(y, [0, 0.5, 1, 1, 1])
    assert dict(tables.summary([record]))["neutrino events, area under the ROC"] == [
        str(scores.area)
    ]


def test_each_run_with_both_kinds_of_events_has_a_curve():
    records = [
        of_events("one", [0, 5], [0, 1]),
        of_events("all", [4, 5], [1, 1]),
        of_events("two", [7, 5], [0, 1]),
    ]
    roc = event_scores.figures(records)["roc_neutrino"]
    labels = [item.label.value for box in roc.legend for item in box.items]
    assert labels == ["one area 1.000", "two area 0.000"]
    colours = {drawn(roc, label)[2].line_color for label in labels}
    assert colours == {figures.RUN_COLOURS[0], figures.RUN_COLOURS[2]}
    assert event_scores.figures(records[1:2]) == {}


def test_classes_and_confusion_of_every_plane():
    record = made_record()
    neutrino = tables.class_metrics(record)[2]
    # True 15 + 1 + 20; found 2 + 0 + 6 + 1 + 9; right 6 + 1.
    assert (neutrino["true"], neutrino["found"]) == (36, 18)
    assert neutrino["efficiency"] == pytest.approx(7 / 36)
    assert neutrino["purity"] == pytest.approx(7 / 18)
    assert neutrino["iou"] == pytest.approx(7 / (36 + 18 - 7))
    everything, *planes = tables.confusion_matrices(record)
    counted = [
        [[count for count, _ in cells] for _, cells in matrix["rows"]]
        for matrix in (everything, *planes)
    ]
    assert counted == [
        [[140, 1, 11], [3, 15, 0], [24, 5, 7]],
        [[50, 0, 9], [0, 8, 0], [20, 0, 0]],
        [[90, 1, 2], [3, 7, 0], [4, 5, 6]],
        [[0, 0, 0], [0, 0, 0], [0, 0, 1]],
    ]
    assert planes[1]["rows"][2] == ("neutrino", [(4, 4 / 15), (5, 5 / 15), (6, 6 / 15)])


def test_means_of_every_group_of_metrics():
    record = made_record()
    rows = dict(tables.plane_metrics(record))
    groups = ("Average", "plane0", "plane1", "plane2")
    for metric, cells in rows.items():
        for group, (mean, spread) in zip(groups, cells, strict=True):
            column = record.inference[f"{group}/{metric}"]
            assert mean == pytest.approx(column.mean())
            assert spread == pytest.approx(0.05)  # of two values 0.1 apart
    assert len(rows) == 5
