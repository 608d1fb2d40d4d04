"""Runs that the tests of one section share."""

import pytest

from tests.support.small_runs import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def truth(runs):
    """Charges [8, P, H, W] and classes of the events that runs read."""
    from tests.support import larcv_fixtures, small_runs

    return larcv_fixtures.dense_truth(runs.events, small_runs.SHAPE)
