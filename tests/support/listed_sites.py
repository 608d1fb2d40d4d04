"""Lists of one event's sites, alone, and their comparison."""

import numpy as np

from ctjax.base.detector import Detector
from ctjax.data import joined_sites, site_lists
from ctjax.data.minibatch import SiteForm


def make_sites(image, label, shape, depth, deepest_size):
    """An event alone, with as many places as sites, and the ids of these."""
    event = site_lists.list_sites(image, label, shape, depth)
    form = SiteForm(depth, deepest_size)
    counts = site_lists.count_sites(event)
    detector = Detector(num_planes=len(image.planes))
    arrays = joined_sites.make_arrays(form, 1, counts, shape, detector)
    joined_sites.join_parts([event], shape[0] * shape[1], arrays)
    return joined_sites.part_of(arrays.sites, 0), arrays.site_ids[0]


def assert_same(found, expected):
    """Compares all arrays of two trees."""
    if expected is None:
        assert found is None
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
