"""What several test modules share; they import nothing from one another."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
"""The repository."""

# Their assertions tell what they compared, as those of test modules do.
for name in ("golden", "golden_networks", "larcv_reads", "processes"):
    pytest.register_assert_rewrite(f"tests.support.{name}")
