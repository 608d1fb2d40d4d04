"""The figures of the study of the vertex."""

import numpy as np
import pytest

from benchmarks import vertex
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.voxels import Voxels


def test_the_centre_is_weighted_by_charge():
    # Of 4 rows: pixels (1, 0), (1, 2) and, in the other plane, (3, 1).
    ids = np.array([1, 9, 7], np.int32)
    image = Voxels(
        ids, np.array([1, 3, 2], np.float32), (slice(0, 2), slice(2, 3)), True
    )
    metas = [PlaneMeta((5, 4), (10.0, 12.0), (1.0, -1.0))] * 2
    # Columns of 2 cm, rows of 3 cm.
    expected = [[-1 + 1.5 * 3, 1 + (0.25 * 0.5 + 0.75 * 2.5) * 2], [-1 + 3.5 * 3, 4]]
    np.testing.assert_allclose(vertex.find_centres(image, metas, 4), expected)


def test_distances_are_read_and_summed_up(tmp_path):
    path = tmp_path / "inference_metrics.csv"
    path.write_text(
        "entry,Average/VertexResolution,plane0/VertexResolution,"
        "plane1/VertexResolution\n0,2,1,3\n1,nan,nan,nan\n2,3,2,10\n"
    )
    found = vertex.read_distances(path)
    np.testing.assert_array_equal(found, [[1, 3], [np.nan, np.nan], [2, 10]])
    assert vertex.summary(found[:, 1]) == "6.5 / 6.5 (2)"
    assert vertex.summary(found[1:2, 0]) == "none"
    assert vertex.plain(np.nan) is None and vertex.plain(0.12345) == pytest.approx(
        0.123
    )
