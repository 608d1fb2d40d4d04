"""Checkpoints in folders whose names the storage library takes for something else."""

import os
import tempfile

import numpy as np
import pytest

from ctjax.outputs import checkpoint
from ctjax.outputs.plain_names import plain_name
from tests.support import tiny

WEIGHTS = {"params": {"a": np.arange(3.0)}, "batch_stats": {"b": np.ones(2)}}


@pytest.mark.parametrize(
    "name", ["a[1]", "a*", "a\\b", os.fsdecode(b"caf\xe9"), "~ {}"]
)
def test_weights_are_restored_from_where_they_were_saved(tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    os.mkdir(tmp_path / "temporary")
    # A neighbour that the name would match as a pattern.
    for folder in ("a1", name):
        config = tiny.make(tmp_path / folder)
        checkpoint.save_weights(config.output_dir, WEIGHTS, 7, config)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "a1", "temporary"])
    zeros = {"params": {"a": np.zeros(3)}, "batch_stats": {"b": np.zeros(2)}}
    found, step = checkpoint.restore_weights(config.output_dir, zeros, config)
    assert step == 7 and found["params"]["a"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path / "temporary") == []


def test_names_that_are_taken_as_they_are_stay():
    with plain_name("/a b/~c/{d}", is_written=True) as name:
        assert name == "/a b/~c/{d}"
    with plain_name("/a[1]", is_written=False) as name:
        assert name == "/a[1]"


def test_checksums_are_beside_the_link(tmp_path):
    folder = tmp_path / "a[1]" / "checkpoints"
    with plain_name(str(folder), is_written=True) as name:
        assert os.readlink(name) == str(folder)
        assert os.readlink(f"{name}_checksums") == f"{folder}_checksums"
