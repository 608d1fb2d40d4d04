"""Each lever of benchmarks/levers.py is found where it says."""

import pytest

from benchmarks import levers


@pytest.mark.parametrize("name", levers.LEVERS)
def test_a_lever_replaces_something_that_is_there(name):
    owner, attribute, replacement = levers.LEVERS[name]
    original = getattr(owner, attribute)
    assert original is not replacement
    with levers.without((name,)):
        assert getattr(owner, attribute) is replacement
    assert getattr(owner, attribute) is original
