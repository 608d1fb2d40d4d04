"""Events of other planes and classes in notebooks."""

import numpy as np
import pytest

import ctjax
from ctjax.base.detector import IGNORED
from ctjax.base.errors import UserError
from ctjax.outputs.predictions import PREDICTIONS
from ctjax.runs import inference, train
from tests.support import detector_files, tiny
from tests.support.larcv_plain import read_plainly

SHAPES = ((16, 24), (8, 32))
LABELS = (0, 7, 9, 65535)
CLASSES = ("background", "muon", "michel:#123456")
LABEL_MAP = {0: "background", 7: "muon", 9: "michel", 65535: "ignore"}
NAMES = ("background", "muon", "michel")
OPENED = {"classes": CLASSES, "label_map": LABEL_MAP, "charge_scale": 0.5}


@pytest.fixture(scope="module")
def stored():
    random = np.random.default_rng(0)
    return [detector_files.make_event(random, SHAPES, LABELS) for _ in range(3)]


@pytest.fixture(scope="module")
def file(stored, tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.h5"
    return detector_files.write(path, stored, SHAPES)


def test_events_have_the_planes_and_classes_that_are_said(file, stored):
    events = ctjax.open(file, **OPENED)
    assert events.classes == NAMES and events.image_shape == (16, 32)
    assert events.detector.colours[2] == "#123456"
    assert "3 events of 2 x 16 x 32" in repr(events)
    for event, planes in zip(events, stored, strict=True):
        assert event.plane_shapes == SHAPES and event.charge.shape == (2, 16, 32)
        for number, (ids, charges, labels) in enumerate(planes):
            height, width = SHAPES[number]
            pixels = event.sparse[number]
            np.testing.assert_array_equal(pixels.wires * height + pixels.ticks, ids)
            np.testing.assert_array_equal(pixels.charge, charges / 2)
            classes = [{0: 0, 7: 1, 9: 2, 65535: IGNORED}[label] for label in labels]
            np.testing.assert_array_equal(pixels.label, classes)
            at = number, pixels.ticks, pixels.wires
            np.testing.assert_array_equal(event.label[at], pixels.label)
            assert (event.label[number, height:] == IGNORED).all()
            assert (event.label[number, :, width:] == IGNORED).all()
            own = event.label[number, :height, :width]
            assert np.count_nonzero(own) == np.count_nonzero(pixels.label)


def test_planes_are_chosen_and_each_may_be_an_entry(file):
    assert ctjax.open(file, planes=[1], **OPENED)[0].charge.shape == (1, 8, 32)
    swapped = ctjax.open(file, planes=[1, 0], **OPENED)[0]
    both = ctjax.open(file, **OPENED)[0]
    np.testing.assert_array_equal(swapped.charge, both.charge[::-1])
    same = detector_files.make_event(np.random.default_rng(1), SHAPES[:1] * 2)
    path = file.replace("events.h5", "same.h5")
    detector_files.write(path, [same] * 2, SHAPES[:1] * 2)
    apart = ctjax.open(path, planes=[[1], [0]])
    assert len(apart) == 4 and apart.detector.num_planes == 1
    image = ctjax.open(path)[1].charge
    np.testing.assert_array_equal(apart[2].charge[0], image[1])
    np.testing.assert_array_equal(apart[3].charge[0], image[0])
    assert apart[3].id == ctjax.open(path)[1].id


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"planes": [0, 99]}, "data.planes=0,99: expected"),
        ({"planes": [5]}, "events.h5"),
        ({"classes": ["background"]}, "data.classes=background: expected 2 to 16"),
        ({"label_map": {7: "muon"}}, "data.label_map=7:muon"),
        ({"charge_scale": "much"}, "data.charge_scale: expected float"),
        ({"image_product": "wire"}, "wire"),
    ],
)
def test_what_cannot_be_is_refused(file, arguments, words):
    with pytest.raises(UserError) as caught:
        ctjax.open(file, **arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_metrics_of_other_classes_by_hand():
    label = np.array([[[3, 3], [1, IGNORED]]], np.uint8)
    found = np.array([[[3, 0], [1, 2]]], np.uint8)
    values = ctjax.metrics(found, label, ["none", "HIP", "shower", "michel"])
    assert set(values) == {
        prefix + name
        for prefix in ("", "plane0/")
        for name in (
            *("Total_Accuracy", "HIP_IoU", "Shower_IoU", "Michel_IoU"),
            *("Non_Bkg_Accuracy", "mIoU"),
        )
    }
    assert values["Michel_IoU"] == 0.5 and values["HIP_IoU"] == 1
    # Neither there nor predicted where it counts.
    assert values["Shower_IoU"] == 1
    assert values["Total_Accuracy"] == pytest.approx(2 / 3)
    assert values["mIoU"] == pytest.approx((0.5 + 1 + 1) / 3)


@pytest.mark.parametrize(
    ("classes", "label", "names", "words"),
    [
        ([[[IGNORED]]], [[[0]]], NAMES, "classes: expected classes 0 to 2, got 255"),
        ([[[0]]], [[[3]]], NAMES, "label: expected classes 0 to 2, got 3"),
        ([[[0]]], [[[0]]], "muon", "names: expected those of two classes or more"),
    ],
)
def test_what_are_no_numbers_of_classes_is_refused(classes, label, names, words):
    with pytest.raises(UserError, match=words):
        ctjax.metrics(np.array(classes), np.array(label), names)


def test_a_picture_has_the_sizes_and_names_of_the_events(file):
    event = ctjax.open(file, **OPENED)[0]
    everywhere = np.full(event.charge.shape, 2)
    figure = ctjax.draw(event, everywhere)
    panels = {panel.get_title("left"): panel for panel in figure.axes}
    array = panels["plane 1: prediction"].images[0].get_array()
    assert array.shape == SHAPES[1] and (array == 2).all()
    assert "Michel IoU" in figure.get_suptitle()
    names = [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    assert "michel" in names and "ignored" in names
    with pytest.raises(UserError, match="classes: expected classes 0 to 2"):
        ctjax.draw(event, 2 * everywhere)


def test_a_picture_has_no_box_of_what_is_predicted_in_the_padding(file):
    classes = (*CLASSES, "rare")
    event = ctjax.open(file, **{**OPENED, "classes": classes})[0]
    beyond = np.where(event.label == IGNORED, 3, 0)
    for plane, (height, width) in enumerate(SHAPES):
        beyond[plane, :height, :width] = 0
    assert (beyond == 3).any()
    panels = [panel for panel in ctjax.draw(event, beyond).axes if panel.images]
    assert len(panels) == 2 * 4


@pytest.mark.slow
def test_a_network_for_others_predicts_as_its_inference_does(file, tmp_path):
    fields = {
        **{"data__synthetic": False, "data__downsample": 0, "data__file": file},
        **{"data__classes": ",".join(CLASSES), "data__charge_scale": 0.5},
        "data__label_map": ",".join(f"{k}:{v}" for k, v in LABEL_MAP.items()),
    }
    train.run(tiny.make(tmp_path, run__iterations=1, **fields))
    averages = inference.run(
        tiny.make(
            tmp_path,
            run__iterations=None,
            mode__name="inference",
            mode__write_predictions=True,
            **fields,
        )
    )
    tagger = ctjax.load(tmp_path)
    assert tagger.classes == NAMES and tagger.detector.num_planes == 2
    events = ctjax.open(file, **OPENED)
    assert tagger.predict(events[0]).shape == (2, 16, 32, 3)
    values = [
        ctjax.metrics(tagger.classify(e), e.label, tagger.classes) for e in events
    ]
    for name in ("Michel_IoU", "mIoU", "plane1/Total_Accuracy"):
        mean = np.mean([value[name] for value in values])
        full = name if "/" in name else f"Average/{name}"
        assert mean == pytest.approx(averages[full], rel=1e-5)
    ctjax.save_predictions(tmp_path / "own.h5", events, tagger)
    for product in ("sbndwire", "michel_prediction", "sbnd_cosmicseg"):
        ours, _ = read_plainly(tmp_path / "own.h5", product)
        theirs, sizes = read_plainly(tmp_path / PREDICTIONS, product)
        assert sizes == [[24, 16], [32, 8]] * 3
        for event, other in zip(ours, theirs, strict=True):
            for (ids, found), (own_ids, expected) in zip(event, other, strict=True):
                np.testing.assert_array_equal(ids, own_ids)
                np.testing.assert_allclose(found, expected, rtol=1e-5)
    three = np.zeros((3, 16, 32))
    with pytest.raises(UserError, match=r"charge: expected \[2, H, W\]"):
        tagger.predict(three)
    with pytest.raises(UserError, match=r"events of 1 planes, expected the 2 of"):
        tagger.predict(ctjax.open(file, planes=[0], **OPENED)[0])
    with pytest.raises(UserError, match="charge_scale"):
        tagger.predict(ctjax.open(file, classes=CLASSES, label_map=LABEL_MAP)[0])
    told = {**OPENED, "classes": "none,a,b", "label_map": "0:0,7:1,9:2,65535:ignore"}
    others = ctjax.open(file, **told)
    with pytest.raises(UserError, match="expected those of the weights"):
        ctjax.save_predictions(tmp_path / "other.h5", others, tagger)
