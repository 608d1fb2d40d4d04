"""Weights of the same network for another detector, told from all other weights."""

import functools

import flax.traverse_util
import jax
import pytest

from ctjax import models
from ctjax.base.detector import Detector
from ctjax.config.architecture import Architecture
from ctjax.config.networks import SECTIONS
from ctjax.models import other_detectors
from tests.support.small_networks import OTHERS, SMALL

OPTIONS = {Architecture.URESNET: SMALL, **OTHERS}
APART = (Architecture.SEGFORMER, Architecture.URESNET3D)
"""Networks whose parameters are the same for any number of planes."""


def detector(num_planes=3, num_classes=3):
    return Detector(num_planes, tuple(f"class{n}" for n in range(num_classes)))


@functools.cache
def shapes(architecture, detector, **changes):
    network = SECTIONS[architecture](**(OPTIONS[architecture] | changes))
    model = models.make(network, detector=detector)
    tree = jax.eval_shape(model.init, jax.random.key(0), model.example_input())
    leaves = flax.traverse_util.flatten_dict(tree)
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


@pytest.mark.parametrize("architecture", OPTIONS, ids=lambda a: a.value)
def test_planes_and_classes_are_told(architecture):
    ours, classes, planes, both = (
        detector(*numbers) for numbers in ((3, 3), (3, 5), (4, 3), (6, 2))
    )
    expected = shapes(architecture, ours)
    assert other_detectors.find(expected, expected, ours) is None
    found = other_detectors.find(shapes(architecture, classes), expected, ours)
    assert found == (
        "weights of 5 classes, expected the 3 of data.classes (class0, class1, class2)",
        True,
    )
    found = other_detectors.find(shapes(architecture, classes), expected, ours, classes)
    assert found is not None
    names = ", ".join(classes.classes)
    assert found.line.startswith(f"weights of 5 classes ({names}), expected the 3")
    for other, number in ((planes, 4), (both, 6)):
        found = other_detectors.find(shapes(architecture, other), expected, ours)
        if architecture not in APART:
            assert found is not None and not found.is_of_last_layer
            assert found.line.startswith(f"weights of {number} planes, expected 3")
        else:
            assert (found is None) is (other is planes)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_initial_filters": 4},
        {"bottleneck_deepest": 6},
        {"bottleneck_deepest": 6, "blocks_deepest_layer": 0},
        {"blocks_final": 0},
        {"depth": 2},
    ],
    ids=str,
)
def test_another_network_is_none_for_another_detector(changes):
    ours = detector()
    expected = shapes(
        Architecture.URESNET,
        ours,
        **({"blocks_deepest_layer": 0} if "blocks_deepest_layer" in changes else {}),
    )
    for theirs in (ours, detector(3, 5)):
        found = shapes(Architecture.URESNET, theirs, **changes)
        assert other_detectors.find(found, expected, ours) is None
