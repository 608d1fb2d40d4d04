"""Dense images and pooling: by hand, by larcv3's own numbers, by the rule in words."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.data import images, pooling
from ctjax.data.sources import open_source
from ctjax.data.voxels import Voxels
from tests.support import larcv_fixtures

EMPTY = slice(0, 0)


pytestmark = pytest.mark.usefixtures("loops")


def voxels_of(triples, num_rows, plane=0):
    """Voxels (column, row, value) on one plane."""
    ids = np.array([c * num_rows + r for c, r, _ in triples], np.int32)
    values = np.array([v for _, _, v in triples], np.float32)
    planes = [EMPTY] * 3
    planes[plane] = slice(0, len(ids))
    return Voxels(ids, values, tuple(planes), bool((np.diff(ids) > 0).all()))


def fill(voxels, classes, shape, downsample=0):
    """Image and label made from zeros, and the pixels written."""
    pooled = (3, *pooling.pooled_shape(shape, downsample))
    image, label = np.zeros(pooled, np.float32), np.zeros(pooled, np.uint8)
    classed = None
    if classes is not None:
        classed = voxels._replace(values=np.array(classes, np.uint8))
    event = pooling.pool(voxels, classed, shape, downsample)
    return image, label, images.fill(image, label, *event)


@pytest.mark.parametrize(
    "triples", [[(0, 5, 2.0), (3, 1, 7.0)], [(3, 1, 7), (0, 5, 2)]]
)
def test_column_and_row_of_a_voxel(triples):
    # The file counts wires (columns) first: 4 wires of 6 ticks.
    image, label, _ = fill(voxels_of(triples, 6, plane=1), [1, 1], (6, 4))
    assert image[1, 1, 3] == 7.0
    assert image[1, 5, 0] == 2.0
    assert np.count_nonzero(image) == np.count_nonzero(label) == 2
    assert label[1, 1, 3] == label[1, 5, 0] == 1


def test_pooling_by_hand():
    triples = [
        *[(0, 0, 8), (0, 1, 4), (1, 0, -2), (1, 4, 0)],
        *[(2, 2, -5), (3, 2, 5), (3, 5, -1)],
    ]
    image, label, _ = fill(voxels_of(triples, 6), [1, 0, 2, 1, 0, 0, 1], (6, 4), 1)
    # Cells by larcv3: columns 0 and 1 of rows 0 to 2.
    expected = [[2.5, 0.0], [0.0, 0.0], [0.0, -0.25]]
    np.testing.assert_array_equal(image[0], expected)
    assert not image[1:].any()
    np.testing.assert_array_equal(label[0], [[2, 0], [0, 0], [1, 1]])


def test_repeated_pixel_keeps_its_last_value():
    voxels = voxels_of([(0, 0, 8), (0, 0, 3)], 2)
    image, label, _ = fill(voxels, [2, 1], (2, 2))
    assert image[0, 0, 0] == 3
    assert label[0, 0, 0] == 1


def test_sum_is_sequential_float32():
    # In float64, or pairwise, the small ones would not be lost.
    values = [2.0**24, 1.0, 1.0, 1.0]
    triples = [(c, r, v) for (c, r), v in zip(np.ndindex(2, 2), values, strict=True)]
    image, _, _ = fill(voxels_of(triples, 2), None, (2, 2), 1)
    assert image[0, 0, 0] == np.float32(2.0**22)


def test_sum_of_the_smallest_values():
    # A quarter of each is lost to rounding, a quarter of their sum is not.
    smallest = np.float32(2.0**-149)
    voxels = voxels_of([(c, r, smallest) for c in range(2) for r in range(2)], 2)
    image, _, _ = fill(voxels, None, (2, 2), 1)
    assert image[0, 0, 0] == smallest


def test_negative_zero_stays_only_where_nothing_is_added():
    voxels = voxels_of([(0, 0, -0.0)], 2)
    assert np.signbit(fill(voxels, None, (2, 2))[0][0, 0, 0])
    assert not np.signbit(fill(voxels, None, (2, 2), 1)[0][0, 0, 0])


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("downsample", [0, 1])
def test_clear_undoes_fill(downsample, same):
    charged = voxels_of([(0, 0, 8), (1, 0, 1), (1, 1, 3)], 4)
    classed = charged if same else voxels_of([(1, 1, 3), (2, 2, 1)], 4)
    classed = classed._replace(values=np.full(len(classed.ids), 2, np.uint8))
    shape = (3, *pooling.pooled_shape((4, 4), downsample))
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    event = pooling.pool(charged, classed, (4, 4), downsample)
    pixels = images.fill(image, label, *event)
    assert (pixels[0] is pixels[1]) == same
    assert image.any() and label.any()
    images.clear(image, label, pixels)
    assert not image.any()
    assert not label.any()


@pytest.mark.parametrize(
    "shape, downsample", [((5, 8), 1), ((8, 12), 3), ((8, 8), -1), ((8, 8), 4)]
)
def test_shape_that_cannot_be_pooled(shape, downsample):
    with pytest.raises(ValueError, match=r"data\.downsample"):
        pooling.pooled_shape(shape, downsample)


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
    is_sorted=st.booleans(),
)
def test_agrees_with_the_rule_in_words(data, downsample, is_sorted):
    if is_sorted:
        data = sorted({(p, i): (p, i, v, c) for p, i, v, c in data}.values())
    planes = [
        tuple(np.array([v[i] for v in data if v[0] == plane]) for i in (1, 2, 3))
        for plane in range(3)
    ]
    starts = np.cumsum([0] + [len(plane[0]) for plane in planes])
    slices = tuple(slice(a, b) for a, b in itertools.pairwise(starts))
    ids, values, classes = (np.concatenate(c) for c in zip(*planes, strict=True))
    voxels = Voxels(ids.astype(np.int32), values.astype(np.float32), slices, False)
    image, label, _ = fill(voxels, classes, (8, 16), downsample)
    truth = larcv_fixtures.dense_truth([planes], (8, 16), downsample)
    np.testing.assert_array_equal(image, truth[0][0])
    np.testing.assert_array_equal(label, truth[1][0])


@larcv_fixtures.needs_shared
@pytest.mark.parametrize("raw_chunks", [True, False])
@pytest.mark.parametrize("downsample", [0, 1, 2, 3])
def test_light_events_equal_larcv3_bit_for_bit(downsample, raw_chunks):
    golden = np.load(
        larcv_fixtures.shared("golden/downsample", f"downsample{downsample}.npz")
    )
    with open_source(
        file=larcv_fixtures.shared("data/cosmic_tagging_light.h5"),
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
            pixels = source.read(entry, image, label)
            assert image.tobytes() == expected_image.tobytes()
            assert label.tobytes() == expected_label.tobytes()
            images.clear(image, label, pixels)
            assert not image.any()
            assert not label.any()
