"""Dense images and pooling: by hand, by larcv3's own numbers, by the rule in words."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.data import images
from ctjax.data.larcv_file import Voxels
from ctjax.data.sources import open_source
from tests import larcv_fixtures as fx

EMPTY = slice(0, 0)


def voxels_of(triples, num_rows, plane=0):
    """Voxels (column, row, value) on one plane."""
    ids = np.array([c * num_rows + r for c, r, _ in triples], np.int32)
    values = np.array([v for _, _, v in triples], np.float32)
    planes = [EMPTY] * 3
    planes[plane] = slice(0, len(ids))
    return Voxels(ids, values, tuple(planes), True)


def test_column_and_row_of_a_voxel():
    # The file counts wires (columns) first: 4 wires of 6 ticks.
    voxels = voxels_of([(3, 1, 7.0), (0, 5, 2.0)], 6, plane=1)
    image = np.zeros((3, 6, 4), np.float32)
    images.fill_image(image, images.find_pixels(voxels, (6, 4), 0), voxels.values, 0)
    assert image[1, 1, 3] == 7.0
    assert image[1, 5, 0] == 2.0
    assert np.count_nonzero(image) == 2


def test_pooling_by_hand():
    triples = [
        *[(0, 0, 8), (0, 1, 4), (1, 0, -2), (1, 4, 0)],
        *[(2, 2, -5), (3, 2, 5), (3, 5, -1)],
    ]
    voxels = voxels_of(triples, 6)
    pixels = images.find_pixels(voxels, (6, 4), 1)
    image = np.zeros((3, 3, 2), np.float32)
    images.fill_image(image, pixels, voxels.values, 1)
    # Cells by larcv3: columns 0 and 1 of rows 0 to 2.
    expected = [[2.5, 0.0], [0.0, 0.0], [0.0, -0.25]]
    np.testing.assert_array_equal(image[0], expected)
    assert not image[1:].any()
    label = np.zeros((3, 3, 2), np.uint8)
    classes = np.array([1, 0, 2, 1, 0, 0, 1], np.uint8)
    images.fill_label(label, pixels, classes, 1)
    np.testing.assert_array_equal(label[0], [[2, 0], [0, 0], [1, 1]])


def test_repeated_pixel_keeps_its_last_value():
    voxels = voxels_of([(0, 0, 8), (0, 0, 3)], 2)
    image = np.zeros((3, 2, 2), np.float32)
    images.fill_image(image, images.find_pixels(voxels, (2, 2), 0), voxels.values, 0)
    assert image[0, 0, 0] == 3


def test_sum_is_sequential_float32():
    # In float64, or pairwise, the small ones would not be lost.
    values = [2.0**24, 1.0, 1.0, 1.0]
    triples = [(c, r, v) for (c, r), v in zip(np.ndindex(2, 2), values, strict=True)]
    voxels = voxels_of(triples, 2)
    image = np.zeros((3, 1, 1), np.float32)
    images.fill_image(image, images.find_pixels(voxels, (2, 2), 1), voxels.values, 1)
    assert image[0, 0, 0] == np.float32(2.0**22)


def test_sum_of_the_smallest_values():
    # A quarter of each is lost to rounding, a quarter of their sum is not.
    smallest = np.float32(2.0**-149)
    voxels = voxels_of([(c, r, smallest) for c in range(2) for r in range(2)], 2)
    image = np.zeros((3, 1, 1), np.float32)
    images.fill_image(image, images.find_pixels(voxels, (2, 2), 1), voxels.values, 1)
    assert image[0, 0, 0] == smallest


def test_clear_undoes_fill():
    voxels = voxels_of([(0, 0, 8), (1, 1, 3)], 2)
    image = np.zeros((3, 2, 2), np.float32)
    pixels = images.find_pixels(voxels, (2, 2), 0)
    images.fill_image(image, pixels, voxels.values, 0)
    assert image.any()
    images.clear(image, pixels)
    assert not image.any()


@pytest.mark.parametrize(
    "shape, downsample", [((5, 8), 1), ((8, 12), 3), ((8, 8), -1), ((8, 8), 4)]
)
def test_shape_that_cannot_be_pooled(shape, downsample):
    with pytest.raises(ValueError, match=r"data\.downsample"):
        images.pooled_shape(shape, downsample)


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 8 * 16 - 1),
            st.floats(-(2.0**90), 2.0**90, width=32),
            st.integers(0, 2),
        ),
        max_size=80,
    ),
    downsample=st.integers(0, 3),
)
def test_agrees_with_the_rule_in_words(data, downsample):
    planes = [
        tuple(np.array([v[i] for v in data if v[0] == plane]) for i in (1, 2, 3))
        for plane in range(3)
    ]
    starts = np.cumsum([0] + [len(plane[0]) for plane in planes])
    slices = tuple(slice(a, b) for a, b in itertools.pairwise(starts))
    ids, values, classes = (np.concatenate(c) for c in zip(*planes, strict=True))
    voxels = Voxels(ids.astype(np.int32), values.astype(np.float32), slices, False)
    shape = images.pooled_shape((8, 16), downsample)
    image, label = np.zeros((3, *shape), np.float32), np.zeros((3, *shape), np.uint8)
    pixels = images.find_pixels(voxels, (8, 16), downsample)
    images.fill_image(image, pixels, voxels.values, downsample)
    images.fill_label(label, pixels, classes.astype(np.uint8), downsample)
    truth = fx.dense_truth([planes], (8, 16), downsample)
    np.testing.assert_array_equal(image, truth[0][0])
    np.testing.assert_array_equal(label, truth[1][0])


@fx.needs_shared
@pytest.mark.parametrize("raw_chunks", [True, False])
@pytest.mark.parametrize("downsample", [0, 1, 2, 3])
def test_light_events_equal_larcv3_bit_for_bit(downsample, raw_chunks):
    golden = np.load(fx.shared("golden/downsample", f"downsample{downsample}.npz"))
    with open_source(
        file=fx.shared("data/cosmic_tagging_light.h5"),
        downsample=downsample,
        raw_chunks=raw_chunks,
        strict=True,
    ) as source:
        assert (3, *source.image_shape) == tuple(golden["shape"])
        assert source.num_events == 5
        image = np.zeros(golden["shape"], np.float32)
        label = np.zeros(golden["shape"], np.uint8)
        for entry in range(5):
            expected_image, expected_label = np.zeros_like(image), np.zeros_like(label)
            name = f"event{entry}"
            expected_image.reshape(-1)[golden[f"{name}/index"]] = golden[
                f"{name}/value"
            ]
            at = golden[f"{name}/label_index"]
            expected_label.reshape(-1)[at] = golden[f"{name}/label"]
            written = source.read(entry, image, label)
            assert image.tobytes() == expected_image.tobytes()
            assert label.tobytes() == expected_label.tobytes()
            images.clear(image, written[0])
            images.clear(label, written[1])
            assert not image.any()
            assert not label.any()
