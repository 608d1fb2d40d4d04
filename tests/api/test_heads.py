"""What the heads of a network say, asked for from a notebook."""

import h5py
import numpy as np
import pytest

import ctjax
from ctjax.base.errors import UserError
from ctjax.config import fields
from ctjax.config.heads import Classification, Vertex
from ctjax.config.networks import UResNetSparse
from ctjax.outputs import checkpoint
from tests.support.head_labels import INSIDE, write
from tests.support.small_networks import SMALL, random_variables

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("api_heads")]

HEAD = {"active": True, "n_filters": 3, "n_layers": 0}


def saved(folder, section=fields.Network, **heads):
    """A checkpoint of a small network with heads, of random weights."""
    network = section(**SMALL, **heads)
    config = fields.Config(network=network, data=fields.Data(downsample=0))
    variables = {"batch_stats": {}, **random_variables(network)}
    checkpoint.save_weights(str(folder), variables, 1, config)
    return str(folder)


@pytest.mark.parametrize("section", [fields.Network, UResNetSparse])
def test_vertices_and_classes(tmp_path, section):
    file = write(tmp_path / "events.h5", [(14, 0, 40, INSIDE)] * 3)
    depth = 0 if section is UResNetSparse else 1
    head = {"vertex": Vertex(**HEAD, depth=depth)}
    head["classification"] = Classification(**HEAD)
    tagger = ctjax.load(saved(tmp_path / "both", section, **head))
    with ctjax.open(file) as events:
        event = events[0]
        found, pixels = tagger.find_vertex(event), tagger.find_vertex(event.charge)
        scores = tagger.classify_event(event)
        many = tagger.find_vertex(np.stack([event.charge] * 3), batch_size=2)
        assert tagger.predict(event).shape == (3, 32, 64, 3)
        ctjax.save_predictions(tmp_path / "predictions.h5", events, tagger)
    assert found.shape == (3, 3) and many.shape == (3, 3, 3)
    np.testing.assert_allclose(many[2], many[0], rtol=1e-5)
    # Pixels of 2 x 3 cm, from 5 and -9 cm.
    np.testing.assert_allclose(
        found[0, :2], [5, -9] + pixels[0, :2] * [2, 3], rtol=1e-5
    )
    assert 0 < found[0, 2] < 1
    with h5py.File(tmp_path / "predictions.h5") as file:
        boxes = file["Data/bbox2d_bbox_neutrino_prediction_group/bboxes"][:]
    # In cm, too, and the file's order: column, row.
    np.testing.assert_allclose(boxes["centroid"][:3, ::-1], found[:, :2], rtol=1e-5)
    assert scores.shape == (4,) and scores.sum() == pytest.approx(1)


def test_a_network_without_the_head_is_refused(tmp_path):
    vertex = Vertex(**HEAD, depth=1)
    tagger = ctjax.load(saved(tmp_path / "one", vertex=vertex))
    with pytest.raises(UserError, match=r"network\.classification\.active=True"):
        tagger.classify_event(np.ones((3, 32, 64)))
