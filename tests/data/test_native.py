"""The loops in C: the bits of those in numpy, and nothing done with unusual events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.data import images, native, pooling
from ctjax.data.larcv.records import VOXEL
from ctjax.data.voxels import Voxels

SHAPE = (8, 16)
NUM_PIXELS = SHAPE[0] * SHAPE[1]

needs_library = pytest.mark.skipif(
    native.routines is None,
    reason="native.c is not built: pip install -e . with a C compiler",
)
PLANE = st.dictionaries(
    st.integers(0, NUM_PIXELS - 1),
    st.tuples(
        st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(0, 2)
    ),
    max_size=40,
)


def voxels_of(planes, column, dtype):
    """Voxels of dictionaries id -> values, ascending."""
    lists = [sorted(plane.items()) for plane in planes]
    ends = np.cumsum([0] + [len(plane) for plane in lists]).tolist()
    return Voxels(
        np.array([i for plane in lists for i, _ in plane], np.int32),
        np.array([v[column] for plane in lists for _, v in plane], dtype),
        tuple(map(slice, ends, ends[1:])),
        True,
    )


def fill(charged, classed, downsample):
    """Image, label and the pixels, and both arrays after they were cleared."""
    shape = (3, *pooling.pooled_shape(SHAPE, downsample))
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    with np.errstate(over="ignore"):
        event = pooling.pool(charged, classed, SHAPE, downsample)
    pixels = images.fill(image, label, *event)
    found = image.tobytes(), label.tobytes(), [sorted(p.tolist()) for p in pixels]
    images.clear(image, label, pixels)
    assert not image.any() and not label.any()
    return found


@needs_library
@settings(max_examples=200, deadline=None)
@given(
    planes=st.tuples(PLANE, PLANE, PLANE),
    others=st.tuples(PLANE, PLANE, PLANE),
    labels=st.sampled_from(["same", "others", "none"]),
    downsample=st.integers(0, 3),
)
def test_both_give_the_same_bits(planes, others, labels, downsample):
    charged = voxels_of(planes, 0, np.float32)
    classed = None
    if labels != "none":
        classed = voxels_of(planes if labels == "same" else others, 1, np.uint8)
    if labels == "same":
        classed = classed._replace(ids=charged.ids)
    found = fill(charged, classed, downsample)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "routines", None)
        assert fill(charged, classed, downsample) == found


@needs_library
@pytest.mark.parametrize(
    "ids",
    [[5, 5], [5, 4], [3, 20, 19], [-1, 4], [-(2**31)], [NUM_PIXELS], [0, 2**31 - 1]],
)
def test_unusual_ids_are_not_pooled(ids):
    ids, planes = np.array(ids, np.int32), (slice(0, 0), slice(0, len(ids)))
    values = np.ones(len(ids), np.float32), np.ones(len(ids), np.uint8)
    assert native.pool(ids, planes, *values, SHAPE, 1) is None


@needs_library
@pytest.mark.parametrize("ids", [[4, -1], [-(2**31)], [NUM_PIXELS], [0, 2**31 - 1]])
def test_ids_outside_write_nothing(ids):
    image, label = np.zeros((2, *SHAPE), np.float32), np.zeros((2, *SHAPE), np.uint8)
    ids, planes = np.array(ids, np.int32), (slice(0, 0), slice(0, len(ids)))
    values = np.ones(len(ids), np.float32), np.ones(len(ids), np.uint8)
    assert native.fill(ids, planes, *values, image, label) is None
    assert not image.any() and not label.any()


def records_of(ids, values):
    records = np.zeros(len(ids), VOXEL)
    records["id"], records["value"] = ids, values
    return records


def split(records, *, limit=1e6, first=None):
    """Splits records of plane 0, or of planes 0 and 2, the latter from `first` on."""
    first = len(records) if first is None else first
    planes = (slice(0, first), slice(0, 0), slice(first, len(records)))
    are_charges = limit is not None
    limit = limit if are_charges else 2.0
    return native.split_records(records, planes, NUM_PIXELS, limit, are_charges)


@needs_library
def test_records_are_split():
    ids, values = split(records_of([3, 7, 0, 127], [5.5, -0.0, -999, 9e5]), first=2)
    assert (ids.dtype, values.dtype) == (np.int32, np.float32)
    assert ids.tolist() == [3, 7, 0, 127]
    assert values.tobytes() == np.array([5.5, -0.0, -999, 9e5], "f4").tobytes()
    ids, values = split(records_of([3, 4, 5], [0, 2, 1]), limit=None)
    assert (ids.tolist(), values.tolist()) == ([3, 4, 5], [0, 2, 1])
    assert values.dtype == np.uint8
    ids, values = split(records_of([], []))
    assert len(ids) == len(values) == 0


@needs_library
@pytest.mark.parametrize(
    "ids", [[4, 4], [4, 3], [NUM_PIXELS], [2**32 + 5], [2**63], [2**64 - 1]]
)
def test_unusual_ids_are_not_split(ids):
    assert split(records_of(np.array(ids, np.uint64), 1)) is None
    assert split(records_of([4, 3], 1), first=1) is not None


@needs_library
def test_unusual_values_are_not_split():
    for value in (np.nan, np.inf, -np.inf, 2e6):
        assert split(records_of([1, 2], [1, value])) is None
    for limit, value in ((99.5, -100), (3e38, np.inf), (3e38, np.nan)):
        assert split(records_of([1, 2], [1, value]), limit=limit) is None
    for limit, value in ((100, -100), (3e38, 2e38), (0.0, 0)):
        assert split(records_of([1], [value]), limit=limit) is not None
    for value in (3, 0.5, -1, 256, np.nan, np.inf):
        assert split(records_of([1, 2], [1, value]), limit=None) is None
    other = records_of([1], [1]).astype([("id", ">u8"), ("value", "f4")])
    assert split(other) is None


@needs_library
def test_arrays_that_c_cannot_take_are_refused():
    ids, planes = np.arange(2, dtype=np.int32), (slice(0, 2),)
    charges = np.ones(2, np.float32)
    image, label = np.zeros((1, *SHAPE), np.float32), np.zeros((1, *SHAPE), np.uint8)
    good = [ids, planes, charges, None, image, label]
    assert native.fill(*good).tolist() == [0, SHAPE[1]]
    for place, wrong in (
        (0, ids.astype(np.int64)),
        (1, (slice(0, 3),)),
        (1, (slice(0, 1),)),
        (2, charges.astype(np.float64)),
        (1, (slice(0, 1), slice(1, 2))),
        (1, (slice(1, 3),)),
        (4, image[..., ::2]),
        (4, np.zeros((1, *SHAPE[::-1]), np.float32)),
        (5, image),
    ):
        with pytest.raises(ValueError, match="expected"):
            native.fill(*[*good[:place], wrong, *good[place + 1 :]])


def test_language(loops):
    assert native.language() == loops
