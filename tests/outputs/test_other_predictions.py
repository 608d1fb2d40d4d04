"""Predictions of planes of different sizes, of other classes and of skipped events."""

import h5py
import numpy as np
import pytest

from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.errors import ConfigError
from ctjax.config.fields import Data
from ctjax.outputs import predictions
from tests.support.larcv_plain import read_plainly
from tests.support.other_predictions import (
    SHAPES,
    made_results,
    source_of,
    write,
)


def test_planes_are_written_in_their_own_size(tmp_path):
    path = tmp_path / "predictions.h5"
    results = made_results(np.random.default_rng(0), 2)
    names = write(path, results, [1, 1], source_of())
    assert names == [
        *("wire", "muon_prediction", "pion_prediction", "cosmicseg_prediction", "seg")
    ]
    values = {
        "wire": results["image"],
        "muon_prediction": results["score"][..., 1],
        "pion_prediction": results["score"][..., 2],
        "cosmicseg_prediction": results["prediction"],
        "seg": results["label"],
    }
    for name in names:
        events, sizes = read_plainly(path, name)
        assert sizes == [[9, 6], [12, 4]] * 2
        for event, planes in enumerate(events):
            for plane, (ids, found) in enumerate(planes):
                height, width = SHAPES[plane]
                own = (slice(height), slice(width))
                held = results["image"][event, plane][own] != 0
                if name == "seg":
                    held = held | (results["label"][event, plane][own] != 0)
                rows, columns = np.nonzero(held.T)[::-1]
                np.testing.assert_array_equal(ids, columns * height + rows)
                expected = values[name][event, plane][rows, columns]
                np.testing.assert_array_equal(found, expected)
    with h5py.File(path) as file:
        origins = file["Data/sparse2d_wire_group/image_meta"]["origin"]
    assert origins.tolist() == [[0, 1], [1, 1]] * 2


def test_a_skipped_event_is_empty_in_its_place(tmp_path):
    path = tmp_path / "predictions.h5"
    results = made_results(np.random.default_rng(1), 3)
    source = source_of(bad_events=[1])
    names = write(path, results, [1, 0, 1], source)
    for name in names:
        events, _ = read_plainly(path, name)
        counts = [[len(ids) for ids, _ in planes] for planes in events]
        assert counts[1] == [0, 0] and min(counts[0] + counts[2]) > 0
    with h5py.File(path) as file:
        assert file["Events/event_id"]["event"].tolist() == [2, 5, 8]


def test_the_geometry_is_that_of_an_event_that_can_be_read():
    source = source_of(bad_events=[0, 1])
    source.plane_metas = lambda entry: [entry]
    assert predictions.metas_of(source) == [2]


def test_today_names_are_those_of_the_default_classes():
    products = predictions.name_products(Data(), COSMIC_TAGGER, False)
    assert products.names() == [
        *("sbndwire", "cosmic_prediction", "neutrino_prediction"),
        "cosmicseg_prediction",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": "background,cosmicseg"},
        {"classes": "background,muon", "image_product": "muon_prediction"},
    ],
)
def test_products_of_one_name_are_refused(changes):
    classes = tuple(changes["classes"].split(","))
    detector = Detector(classes=classes, colours=("#000000",) * 2)
    with pytest.raises(ConfigError, match=r"found two products \w+_prediction"):
        predictions.name_products(Data(**changes), detector, True)
