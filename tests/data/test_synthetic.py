"""Made events: repeatable, of the right form and share of active pixels."""

import numpy as np
import pytest

from ctjax.data import synthetic
from ctjax.data.sources import open_source


def test_same_arguments_same_event():
    one, again = (synthetic.make_event(3, 7, (64, 96)) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.values, b.values)


@pytest.mark.parametrize("seed, entry", [(4, 7), (3, 8)])
def test_other_arguments_other_event(seed, entry):
    one = synthetic.make_event(3, 7, (64, 96))[0]
    other = synthetic.make_event(seed, entry, (64, 96))[0]
    assert not np.array_equal(one.ids, other.ids)


def test_form_and_share_of_active_pixels():
    image, label = synthetic.make_event(0, 0, (640, 1024))
    assert image.values.dtype == np.float32
    assert label.values.dtype == np.uint8
    assert image.values.min() >= synthetic.MIN_CHARGE
    assert set(np.unique(label.values)) == {0, 1, 2}
    for plane in image.planes:
        ids = image.ids[plane]
        assert (np.diff(ids) > 0).all()
        assert 0 <= ids[0] and ids[-1] < 640 * 1024
        assert 0.003 < len(ids) / (640 * 1024) < 0.008


@pytest.mark.parametrize("shape", [(8, 8), (1280, 2048), (1408, 2048)])
def test_source_of_any_shape(shape):
    with open_source(
        synthetic=True, seed=1, image_shape=shape, downsample=1, num_events=4
    ) as source:
        assert source.image_shape == (shape[0] // 2, shape[1] // 2)
        assert (source.num_events, source.has_label) == (4, True)
        assert source.event_id(2).tolist() == [0, 0, 2]
        image = np.zeros((3, *source.image_shape), np.float32)
        label = np.zeros((3, *source.image_shape), np.uint8)
        source.read(2, image, label)
        assert image.all(axis=(1, 2)).any() or image.any(axis=(1, 2)).all()
        for planes in [source.read_sparse(2)]:
            assert max(len(p.ids) for p in planes) <= source.max_pixels
