"""Runs that the tests of one module share."""

import pytest

from tests.support import larcv_fixtures, small_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> small_runs.Runs:
    return small_runs.Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def truth(runs):
    """Charges [8, P, H, W] and classes of the events that runs read."""
    return larcv_fixtures.dense_truth(runs.events, small_runs.SHAPE)
