"""The bytes and operations of a step, against counts made by hand and by others."""

import pytest

from benchmarks import roofline
from ctjax.config.fields import Connection, Network, Normalization

URESNET = Network()
A21 = Network(
    n_initial_filters=8, residual=False, blocks_final=0, connections=Connection.SUM
)
FULL, HALF, QUARTER = (1280, 2048), (640, 1024), (320, 512)


# GB an event in float32, counted by a program of its own.
@pytest.mark.parametrize(
    ("network", "shape", "training", "expected"),
    [
        (URESNET, FULL, True, (351.6, 244.7, 100.4)),
        (URESNET, QUARTER, True, (22.0, 15.3, 6.3)),
        (URESNET, FULL, False, (115.7, 73.8, 35.5)),
        (A21, FULL, True, (60.1, 43.8, 15.5)),
        (A21, HALF, True, (15.0, 10.9, 3.9)),
        (A21, HALF, False, (4.8, 3.5, 1.3)),
    ],
)
def test_bytes_of_an_event(network, shape, training, expected):
    found = roofline.elements(network, shape, training)
    for row, number in zip(roofline.ROWS, expected, strict=True):
        assert 4 * found[row] / 1e9 == pytest.approx(number, rel=0.02)


def test_operations_of_an_event():
    convolutions = [
        op for op in roofline.operations(URESNET, FULL) if op.kind == "convolution"
    ]
    assert len(convolutions) == 90
    assert sum(op.macs for op in convolutions) == pytest.approx(646.0e9, rel=1e-3)
    assert sum(op.outputs for op in convolutions) == pytest.approx(3741e6, rel=1e-3)
    assert sum(op.inputs for op in convolutions) == pytest.approx(4075e6, rel=1e-3)
    assert roofline.flops(A21, FULL, True) == pytest.approx(0.380e12, rel=2e-3)


def test_without_normalization_there_is_less_to_move_in_a_and_b():
    without = Network(normalization=Normalization.NONE)
    for training in (False, True):
        most = roofline.elements(URESNET, QUARTER, training)
        less = roofline.elements(without, QUARTER, training)
        assert less["A"] < most["A"] and less["C"] == most["C"]
        # Inference folds normalization into the convolutions' weights and biases.
        assert less["B"] < most["B"] if training else less["B"] == most["B"]


def test_the_slower_of_memory_and_arithmetic_binds():
    by_memory = roofline.seconds(URESNET, QUARTER, True, 4, 1e9, 1e15)
    assert by_memory["A"] == pytest.approx(22.0, rel=0.02)
    halved = roofline.seconds(URESNET, QUARTER, True, 2, 1e9, 1e15)
    assert halved["A"] == by_memory["A"] / 2
    by_compute = roofline.seconds(URESNET, QUARTER, True, 4, 1e15, 1e12)
    assert by_compute == dict.fromkeys("ABC", pytest.approx(0.242, rel=2e-3))
