"""Lists of an event's sites, against their definition by coordinates."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctjax.data import native, site_lists
from ctjax.data.voxels import Voxels
from tests.support.listed_sites import assert_same, make_sites

needs_library = pytest.mark.skipif(
    native.routines is None,
    reason="native.c is not built: pip install -e . with a C compiler",
)


def voxels_of(planes, num_rows, dtype=np.float32):
    """Voxels of planes of {(column, row): value}, as pooling gives them."""
    lists = [sorted(plane.items()) for plane in planes]
    ends = np.cumsum([0] + [len(plane) for plane in lists]).tolist()
    sites = [site for plane in lists for site in plane]
    return Voxels(
        np.array([column * num_rows + row for (column, row), _ in sites], np.int32),
        np.array([value for _, value in sites], dtype),
        tuple(map(slice, ends, ends[1:])),
        True,
    )


def squares(sites, size):
    """The definition of neighbours: by coordinates, row after row."""
    number = {site: i for i, site in enumerate(sites)}
    reach = range(-(size // 2), size // 2 + 1)
    return [
        [
            number.get((plane, column + right, row + down), len(sites))
            for down in reach
            for right in reach
        ]
        for plane, column, row in sites
    ]


def groups(fine, coarse, parent_of, number_of, size):
    """The definition of a step: parts and places."""
    parts = [[len(fine)] * size for _ in coarse]
    place = []
    for i, site in enumerate(fine):
        group = coarse.index(parent_of(site))
        parts[group][number_of(site)] = i
        place.append(group * size + number_of(site))
    return parts, place


def check(planes, classes, shape, depth, deepest_size):
    """Compares the lists of an event with their definition."""
    charged = voxels_of(planes, shape[0])
    classed = classes and voxels_of(classes, shape[0], np.uint8)
    sites, ids = make_sites(charged, classed, shape, depth, deepest_size)
    expected = sorted(
        (plane, *site) for plane, pixels in enumerate(planes) for site in pixels
    )
    assert ids.tolist() == [column * shape[0] + row for _, column, row in expected]
    charges = [planes[plane][column, row] for plane, column, row in expected]
    assert sites.charge.tolist() == charges
    classes = classes or [{}] * len(planes)
    labels = [classes[plane].get((column, row), 0) for plane, column, row in expected]
    assert sites.label.tolist() == labels
    every = set(itertools.product(range(shape[1]), range(shape[0])))
    for plane, pixels in enumerate(planes):
        left = [classes[plane].get(site, 0) for site in every - set(pixels)]
        assert sites.empty[plane].tolist() == [left.count(k) for k in range(3)]

    np.testing.assert_array_equal(
        sites.wide, np.array(squares(expected, 5), int).reshape(-1, 25)
    )
    for level in range(depth + 1):
        found = sites.levels[level]
        assert found.image.tolist() == [plane for plane, _, _ in expected]
        np.testing.assert_array_equal(
            found.neighbours, np.array(squares(expected, 3), int).reshape(-1, 9)
        )
        if level < depth:
            size = 4

            def parent_of(site):
                return site[0], site[1] // 2, site[2] // 2

            def number_of(site):
                return 2 * (site[2] % 2) + site[1] % 2
        else:
            size = len(planes)

            def parent_of(site):
                return 0, site[1], site[2]

            def number_of(site):
                return site[0]

        coarse = sorted({parent_of(site) for site in expected})
        parts, place = groups(expected, coarse, parent_of, number_of, size)
        assert sites.steps[level].parts.tolist() == parts
        assert sites.steps[level].place.tolist() == place
        expected = coarse
    assert sites.levels[-1].image.tolist() == [0] * len(expected)
    np.testing.assert_array_equal(
        sites.levels[-1].neighbours,
        np.array(squares(expected, deepest_size), int).reshape(-1, deepest_size**2),
    )
    assert len(sites.levels) == depth + 2 and len(sites.steps) == depth + 1
    check_types(sites)


def check_types(sites):
    tables = [sites.wide, *itertools.chain(*sites.levels, *sites.steps)]
    for array in (*tables, sites.empty):
        assert array.dtype == np.int32 and array.flags.c_contiguous
    assert sites.charge.dtype == np.float32 and sites.label.dtype == np.uint8


@st.composite
def events(draw):
    """Planes with very different numbers of sites, and labels at these or others."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    pixels = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    charges = st.floats(-1000, 1000, width=32)
    planes = draw(
        st.lists(
            st.integers(0, 60).flatmap(
                lambda most: st.dictionaries(pixels, charges, max_size=most)
            ),
            min_size=1,
            max_size=4,
        )
    )
    kind = draw(st.sampled_from(["none", "same", "others"]))
    if kind == "none":
        return planes, None, (height, width)
    if kind == "same":
        classes = [{site: draw(st.integers(0, 2)) for site in p} for p in planes]
    else:
        plane = st.dictionaries(pixels, st.integers(0, 2), max_size=60)
        classes = [draw(plane) for _ in planes]
    return planes, classes, (height, width)


FULL = [{site: 1.0 for site in itertools.product(range(8), range(6))}] * 3
CORNERS = {(0, 0): 1.0, (0, 5): 2.0, (7, 0): 3.0, (7, 5): 4.0}
SEAMS = {(c, r): 0.0 for c in range(8) for r in (0, 5)}
"""The ends of all columns: the last pixel of one comes just before the next's first."""


@settings(max_examples=60, deadline=None)
@given(event=events(), depth=st.integers(1, 4), deepest_size=st.sampled_from([1, 3, 5]))
@example(event=(FULL, None, (6, 8)), depth=2, deepest_size=5)
@example(event=([{}, {}, {}], None, (6, 8)), depth=3, deepest_size=5)
@example(event=([{}, {}, {}], [{(1, 1): 2}, {}, {}], (6, 8)), depth=1, deepest_size=3)
@example(event=([{}, {(3, 3): 1.0}, {}], None, (6, 8)), depth=4, deepest_size=1)
@example(
    event=([CORNERS, {}, FULL[0]], [SEAMS, {}, {}], (6, 8)), depth=2, deepest_size=3
)
@example(event=([SEAMS, SEAMS, CORNERS], None, (6, 8)), depth=1, deepest_size=5)
def test_lists_are_what_the_coordinates_say(event, depth, deepest_size):
    planes, classes, shape = event
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "routines", None)
        check(planes, classes, shape, depth, deepest_size)


@needs_library
@settings(max_examples=70, deadline=None)
@given(
    event=events(), depth=st.integers(0, 4), deepest_size=st.sampled_from([1, 3, 5, 9])
)
@example(event=(FULL, None, (6, 8)), depth=2, deepest_size=5)
@example(event=([SEAMS, {}, CORNERS], None, (6, 8)), depth=2, deepest_size=5)
def test_both_give_the_same(event, depth, deepest_size):
    planes, _, shape = event
    arguments = voxels_of(planes, shape[0]), None, shape, depth, deepest_size
    assert_same_in_both(arguments)


@needs_library
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_both_give_the_same_for_larger_images(share):
    for shape in ((64, 96), (7, 129), (130, 1)):
        assert_same_in_both((*random_event(shape, share=share), shape, 5, 5))


def assert_same_in_both(arguments):
    """Compares lists made in C with those made in numpy."""
    asked = []

    def deny(*_):
        asked.append(True)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_find_neighbours_in_numpy", "_group"):
            patch.setattr(site_lists, name, deny)
        found = make_sites(*arguments)
        assert not asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "routines", None)
        assert_same(found, make_sites(*arguments))


def finds(ids, planes, shape, size):
    """Whether the library finds neighbours."""
    out = np.empty((len(ids), size * size), np.int32)
    return native.find_neighbours(ids, planes, shape, size, 0, len(ids), out)


@needs_library
@pytest.mark.parametrize(
    "ids, planes",
    [
        ([3, 2], (slice(0, 2),)),
        ([3, 3], (slice(0, 2),)),
        ([-1, 2], (slice(0, 2),)),
        ([3, 20], (slice(0, 2),)),
        ([3, 2], (slice(1, 2), slice(0, 1))),
    ],
)
def test_unusual_sites_are_left_to_numpy(ids, planes):
    ids = np.array(ids, np.int32)
    assert not finds(ids, planes, (4, 5), 3)
    assert native.halve(ids, planes, (4, 5)) is None
    assert native.merge_planes(ids, planes, (4, 5)) is None


@needs_library
def test_unusual_squares_and_images_are_left_to_numpy():
    ids, planes = np.arange(2, dtype=np.int32), (slice(0, 2),)
    assert finds(ids, planes, (4, 5), 3)
    for size in (0, 2, -1):
        assert not finds(ids, planes, (4, 5), size)
    for shape in ((0, 0), (4, -1), (2**16, 2**16)):
        assert not finds(ids, planes, shape, 3)
        assert native.halve(ids, planes, shape) is None
    many = (*planes, *[slice(2, 2)] * 16)
    assert native.halve(ids, many, (4, 5)) is not None
    assert native.merge_planes(ids, many, (4, 5)) is None


def random_event(shape, seed=0, share=0.3):
    random = np.random.default_rng(seed)
    planes, classes = [], []
    for density in (share, 0.0, share / 5):
        pixels = np.argwhere(random.random(shape[::-1]) < density).tolist()
        planes.append({tuple(site): random.random() for site in pixels})
        classes.append({tuple(site): random.integers(0, 3) for site in pixels})
    return voxels_of(planes, shape[0]), voxels_of(classes, shape[0], np.uint8)


def test_neighbourhood_is_mutual():
    sites, _ = make_sites(*random_event((40, 30)), (40, 30), 3, 5)
    for table in (sites.wide, *(level.neighbours for level in sites.levels)):
        site, number = np.nonzero(table < len(table))
        assert len(site) > len(table)
        back = table[table[site, number], table.shape[1] - 1 - number]
        np.testing.assert_array_equal(back, site)
        middle = table[:, table.shape[1] // 2]
        np.testing.assert_array_equal(middle, np.arange(len(table)))


def test_parts_and_places_are_inverse():
    sites, _ = make_sites(*random_event((40, 30)), (40, 30), 3, 5)
    for step in sites.steps:
        flat = step.parts.reshape(-1)
        np.testing.assert_array_equal(flat[step.place], np.arange(len(step.place)))
        assert (flat < len(step.place)).sum() == len(step.place)


def test_planes_in_another_order_in_the_file():
    charged, classed = random_event((16, 24))
    expected, ids = make_sites(charged, classed, (16, 24), 2, 3)

    def turned(voxels):
        order = (2, 0, 1)
        parts = [voxels.planes[plane] for plane in order]
        ends = np.cumsum([0] + [p.stop - p.start for p in parts]).tolist()
        spans = dict(zip(order, map(slice, ends, ends[1:]), strict=True))
        return Voxels(
            np.concatenate([voxels.ids[p] for p in parts]),
            np.concatenate([voxels.values[p] for p in parts]),
            tuple(spans[plane] for plane in range(3)),
            True,
        )

    charged, classed = turned(charged), turned(classed)
    classed = classed._replace(ids=charged.ids)
    found, found_ids = make_sites(charged, classed, (16, 24), 2, 3)
    np.testing.assert_array_equal(found_ids, ids)
    assert_same(found, expected)
