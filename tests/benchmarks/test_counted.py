"""The step's bytes, counted from the program that is compiled for an H100."""

import importlib.util
import types

import pytest

from benchmarks import compute_jobs, counted
from benchmarks.compute_cases import CASES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(
            importlib.util.find_spec(f"jax_cuda{version}_plugin")
            for version in (12, 13)
        ),
        reason="jaxlib's CUDA plugin is not installed",
    ),
]

NETWORK = {
    "depth": 2,
    "blocks_per_layer": 1,
    "blocks_deepest_layer": 1,
    "blocks_final": 1,
    "bottleneck_deepest": 16,
}


def count(name, kernels, **network):
    cases = {case.name: case for case in CASES["gpu"]}
    fields = {
        "network": NETWORK | {"kernels": kernels} | network,
        "data": {"downsample": 3},
        "run": {"minibatch_size": 2},
    }
    options = types.SimpleNamespace(device="cpu", fields=fields)
    config = compute_jobs.configure(cases[name], options)
    return counted.count(config, cases[name].training)


@pytest.mark.parametrize("name", ["task2", "task3", "task4"])
def test_images_stay_as_they_are(name):
    found = count(name, "auto")
    assert found["broadcasts"] == 0
    assert found["transpositions"] == 0
    assert found["over"]["B"] < 1.15
