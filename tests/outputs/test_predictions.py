"""Files of predictions that several processes have written, joined to one."""

import datetime
import json
import types

import h5py
import numpy as np

import ctjax
from ctjax.base import version
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config import resolve
from ctjax.config.fields import Data
from ctjax.data.larcv.file import LarcvFile
from ctjax.data.larcv.records import PlaneMeta
from ctjax.outputs import prediction_parts, predictions

PRODUCTS = ["sbndwire", "cosmic_prediction", "neutrino_prediction"]
PRODUCTS += ["cosmicseg_prediction", "sbnd_cosmicseg"]


NAMED = predictions.name_products(Data(), COSMIC_TAGGER, True)


def metas_of(event):
    """Geometry that tells events and planes apart."""
    return [PlaneMeta((6, 4), (3.0, 1.0), (event, plane)) for plane in range(3)]


def write_part(path, events, attributes):
    with predictions.open_writer(path, metas_of(0), NAMED, attributes) as writer:
        for event in events:
            ids = np.array([event], np.uint64)
            planes = [(ids + plane, np.ones(1, np.float32)) for plane in range(3)]
            writer.append(
                (1, 2, event), dict.fromkeys(PRODUCTS, planes), metas=metas_of(event)
            )


def test_parts_are_joined_in_the_order_of_the_events(tmp_path):
    path = str(tmp_path / "predictions.h5")
    parts = [prediction_parts.part_path(path, n) for n in range(3)]
    # The last of three processes had no event of the last minibatch.
    for number, events in enumerate(([0, 3], [1, 4], [2])):
        write_part(parts[number], events, {"date": f"by {number}", "downsample": 1})
    prediction_parts.join(parts, [0, 1, 2, 0, 1], path, NAMED)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.h5"]
    with h5py.File(path) as file:
        assert dict(file.attrs) == {"date": "by 0", "downsample": 1}
        for product in PRODUCTS:
            rows = file[f"Data/sparse2d_{product}_group/image_meta"][...]
            origin = [[event, plane] for event in range(5) for plane in range(3)]
            np.testing.assert_array_equal(rows["origin"], origin)
            np.testing.assert_array_equal(rows["image_sizes"], [[3.0, 1.0]] * 15)
    with LarcvFile(path, strict=True) as file:
        assert file.event_ids.tolist() == [[1, 2, event] for event in range(5)]
        for event in range(5):
            assert file.read_image(event).ids.tolist() == [event, event + 1, event + 2]


def test_provenance_is_that_of_the_run(monkeypatch):
    """Every value is another than without a word of the user."""
    values = {
        "run": {"precision": "bfloat16"},
        "data": {
            **{"downsample": 3, "img_transform": True, "charge_scale": 0.5},
            **{"image_product": "wire", "label_product": "seg", "planes": "2,0"},
            **{"classes": "none,muon:#0072B2", "label_map": "0:none,7:muon"},
        },
        "mode": {"mask_empty_pixels": False},
    }
    files = [("a.h5", 7, 2), ("b.h5", 9, 3)]
    source = types.SimpleNamespace(files=lambda: files)
    monkeypatch.setattr(ctjax, "__version__", "7.8")
    monkeypatch.setattr(version, "find_commit", lambda: "c0ffee")
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = predictions.provenance(resolve.resolve(values), source, "there", "5a")
    after = datetime.datetime.now(datetime.UTC)
    assert before <= datetime.datetime.fromisoformat(found.pop("date")) <= after
    assert json.loads(found.pop("input_files")) == [
        {"file": "a.h5", "bytes": 7, "events": 2},
        {"file": "b.h5", "bytes": 9, "events": 3},
    ]
    assert found == {
        "ctjax_version": "7.8",
        "ctjax_commit": "c0ffee",
        "weights": "there",
        "weights_sha256": "5a",
        "downsample": 3,
        "img_transform": True,
        "precision": "bfloat16",
        "mask_empty_pixels": False,
        **{"charge_scale": 0.5, "image_product": "wire", "label_product": "seg"},
        **{"planes": "2,0", "classes": "none,muon:#0072B2"},
        "label_map": "0:none,7:muon",
    }
