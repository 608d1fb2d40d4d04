"""The card of weights says what their training, and its inference, have left."""

import numpy as np
import pytest

from ctjax.base.errors import UserError
from ctjax.config import fields
from ctjax.config.fields import Config, Data, Network
from ctjax.views import model_card
from ctjax.views.report.records import Record

EVENTS = {
    "events": 7,
    "files": [
        {
            "file": "/secret/folder/a.h5",
            "bytes": 4321,
            "events": 7,
            "sample_sha256": "0123456789abcdef" * 4,
        }
    ],
}


def make_record(step=30, **changes):
    """A record of a training, and of its inference on two events of 100 pixels."""
    config = fields.to_dict(
        Config(network=Network(name="small"), data=Data(downsample=2))
    )
    launch = {
        "config": config,
        "parameters": 12345,
        "command": "/usr/lib/ctjax/__main__.py train data.file=/secret/a.h5,~/b.h5",
        "devices": {"cpu": 1},
        "data": EVENTS,
        "versions": {"ctjax": "0.2.0", "ctjax_commit": "abc1234"},
        "ended": {"duration_s": 600.0},
    }
    confusion = np.zeros((2, 3, 3, 3))
    confusion[:, :, 0, 0] = 80
    confusion[:, :, 1, 1] = 10
    confusion[0, :, 2, 2], confusion[0, :, 2, 1] = 8, 2
    table = {"entry": np.arange(2.0)}
    table |= {name: np.full(2, 0.25) for name in Record.detector.metric_names}
    values = {
        "folder": "runs/first",
        "name": "first",
        "launches": {
            "train": launch,
            "inference": {"data": EVENTS, "weights": {"step": step}},
        },
        "train": None,
        "validation": None,
        "inference": table,
        "confusion": confusion,
        "timings": {},
    }
    return Record(**values | changes)


def test_a_card_says_what_is_known():
    card = model_card.describe(
        make_record(), "out/small.npz", 30, "c0ffee", "/secret/own.py"
    )
    for words in (
        "# small\n",
        "| parameters | 12,345 |",
        "squares of 4 x 4 stored ones",
        'ctjax.load("small.npz", config="own.py")',
        "`config` is the configuration that the training was started with; fields",
        "step 30; SHA-256 of the file `c0ffee`",
        "7 events: a.h5 (7 events, 4,321 bytes, sample SHA-256 `0123456789abcdef`)",
        "ctjax 0.2.0, ctjax_commit abc1234",
        "| command | `ctjax train data.file=a.h5,b.h5` |",
        "| duration | 10 min since the last start |",
        "| neutrino | 0.800 | 1.000 | 0.800 | 0.0 |",
        "| cosmic | 1.000 ± 0.000 | 0.917 ± 0.057 |",
        "| mean IoU | 0.2500 |",
        "`data.downsample=2`",
    ):
        assert words in card
    assert "/secret" not in card
    assert "None" not in card


def test_heads_and_synthetic_events_are_said():
    record = make_record()
    launch = record.launches["train"]
    launch["data"] = {"events": 1024, "files": []}
    launch["config"]["network"]["vertex"]["active"] = True
    card = model_card.describe(record, "small.npz", 30, "c0ffee")
    assert "| data | 1,024 synthetic events |" in card
    assert "Pixels, and vertices, whose results are not on this card" in card


def test_results_of_other_weights_are_left_out():
    card = model_card.describe(make_record(step=20), "small.npz", 30, "c0ffee")
    assert "Not measured: the run's inference was of step 20, not 30." in card
    assert "0.2500" not in card


def test_a_training_without_inference_has_a_card():
    record = make_record(inference=None, confusion=None)
    card = model_card.describe(record, "small.npz", 30, "c0ffee")
    assert "the run has no inference with truth" in card


def test_a_configuration_that_nobody_knows_is_not_made_up():
    card = model_card.describe(make_record(), "small.npz", 30, "c0ffee")
    assert 'ctjax.load("small.npz", config="CONFIGURATION")' in card
    assert "For `CONFIGURATION` put the name or the file" in card
    assert 'config="small"' not in card


def test_what_is_no_training_is_refused():
    with pytest.raises(UserError, match=r"^runs/first: found no train_config.json"):
        model_card.check(make_record(launches={"inference": {}}))
