"""What a step must at least move and compute, from the network's configuration alone.

Three ways to run the same network, by the passes that each makes over its arrays:

A  every operation reads its inputs from memory and writes its outputs;
B  convolutions are calls of a library, all that is elementwise is fused between them;
C  all is fused with the convolutions: statistics in the one before, normalization and
   activation in the one after, the 1 x 1 of the way up before the interpolation,
   poolings and concatenations never stored.

Elements read and written, with i and u those of a convolution's input and output and a
those of the larger side of an operation that resizes or joins:

| forward, backward    | A                  | B                  | C                  |
| -------------------- | ------------------ | ------------------ | ------------------ |
| convolution          | i + u, 2i + 2u     | i + u, 2i + 2u     | i + u, 2i + 2u     |
| its bias             | 0, u               | 0, 0               | 0, 0               |
| normalization        | 3u, 5u             | u, 2u              | 0, 0               |
| activation           | 2u, 3u             | 2u, 3u             | 0, 0               |
| sum in a residual    | 3u, 3u             | u, 2u              | u, u               |
| pooling              | 1.25a, 1.5a        | as A               | 0, 0               |
| interpolation        | 1.25a, 1.25a       | as A               | 0, 0               |
| concatenation        | 2a, 2a             | as A               | 0, 0               |
| sum as connection    | 3a, 2a             | as A               | a, a               |

Inference is the forward pass; its normalization takes no statistics (A: 2u, B: 0).
"""

from collections.abc import Iterator
from typing import NamedTuple

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config.architecture import AnyNetwork
from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Network,
    Normalization,
    Upsampling,
)

NUM_CLASSES = COSMIC_TAGGER.num_classes
NUM_PLANES = COSMIC_TAGGER.num_planes

ROWS = ("A", "B", "C")

JOINING = {
    "pooling": (1.25, 1.5, 0.0, 0.0),
    "interpolation": (1.25, 1.25, 0.0, 0.0),
    "concatenation": (2.0, 2.0, 0.0, 0.0),
    "sum": (3.0, 2.0, 1.0, 1.0),
}
"""Passes over a: of A and B forward and backward, of C forward and backward."""


class Operation(NamedTuple):
    """One operation of the forward pass of one event.

    Attributes:
      kind: "convolution" or one of `JOINING`.
      inputs: i of a convolution, a of the others.
      outputs: u of a convolution.
      macs: multiply-accumulates.
      is_last: whether neither normalization nor activation follows.
      is_residual: whether the sum of a residual block follows.
      upsamples: whether it is the 1 x 1 after an interpolation.
    """

    kind: str
    inputs: float
    outputs: float = 0.0
    macs: float = 0.0
    is_last: bool = False
    is_residual: bool = False
    upsamples: bool = False


def operations(network: Network, shape: tuple[int, int]) -> Iterator[Operation]:
    """Every operation of the forward pass of one event of `shape` pixels a plane."""
    pixels = NUM_PLANES * shape[0] * shape[1]
    first = network.n_initial_filters
    yield _convolution(pixels, 5, 1, first)
    yield from _level(network, pixels, first, network.depth)
    yield from _series(network, pixels, 3, first, network.blocks_final)
    yield _convolution(pixels, 1, first, NUM_CLASSES)._replace(is_last=True)


def _convolution(pixels: float, kernel: int, inputs: int, outputs: int) -> Operation:
    macs = kernel * kernel * inputs * outputs * pixels
    return Operation("convolution", pixels * inputs, pixels * outputs, macs)


def _series(
    network: Network, pixels: float, kernel: int, features: int, count: int
) -> Iterator[Operation]:
    one = _convolution(pixels, kernel, features, features)
    for _ in range(count):
        yield one
        if network.residual:
            yield one._replace(is_residual=True)


def _level(
    network: Network, pixels: float, features: int, depth: int
) -> Iterator[Operation]:
    if depth == 0:
        joined = 1 if network.block_concat else NUM_PLANES
        pixels, features = pixels / joined, features * joined
        narrow, kernel = network.bottleneck_deepest, network.filter_size_deepest
        yield _convolution(pixels, 1, features, narrow)
        yield from _series(
            network, pixels, kernel, narrow, network.blocks_deepest_layer
        )
        yield _convolution(pixels, 1, narrow, features)
        return
    below = features + network.n_initial_filters
    if network.growth_rate is GrowthRate.MULTIPLICATIVE:
        below = 2 * features
    yield from _series(network, pixels, 3, features, network.blocks_per_layer)
    if network.downsampling is Downsampling.MAX_POOLING:
        yield Operation("pooling", pixels * features)
        yield _convolution(pixels / 4, 1, features, below)
    else:
        stride = _convolution(pixels / 4, 2, features, below)
        yield stride._replace(inputs=pixels * features)
    yield from _level(network, pixels / 4, below, depth - 1)
    if network.upsampling is Upsampling.INTERPOLATION:
        yield Operation("interpolation", pixels * below)
        yield _convolution(pixels, 1, below, features)._replace(upsamples=True)
    else:
        transposed = _convolution(pixels / 4, 2, below, features)
        yield transposed._replace(outputs=pixels * features)
    if network.connections is Connection.SUM:
        yield Operation("sum", pixels * features)
    elif network.connections is Connection.CONCAT:
        yield Operation("concatenation", 2 * pixels * features)
        yield _convolution(pixels, 1, 2 * features, features)
    yield from _series(network, pixels, 3, features, network.blocks_per_layer)


def elements(network: Network, shape: tuple[int, int], training: bool) -> dict:
    """Elements that one event moves through memory, by row.

    Args:
      network: its configuration.
      shape: rows and columns of the image.
      training: forward and backward, else the forward pass alone.

    Returns:
      Row to number of elements.
    """
    has_norm = network.normalization is not Normalization.NONE
    found = dict.fromkeys(ROWS, 0.0)
    for op in operations(network, shape):
        if op.kind != "convolution":
            apart, apart_back, fused, fused_back = JOINING[op.kind]
            both = (apart + training * apart_back) * op.inputs
            found["A"] += both
            found["B"] += both
            found["C"] += (fused + training * fused_back) * op.inputs
            continue
        u = op.outputs
        convolution = (3 if training else 1) * (op.inputs + u)
        found["A"] += convolution + training * u
        found["B"] += convolution
        # The 1 x 1 and its result are a quarter where the interpolation is later.
        found["C"] += convolution / 4 if op.upsamples else convolution
        if not op.is_last:
            norm_a, norm_b = (8, 3) if training else (2, 0)
            found["A"] += (has_norm * norm_a + (5 if training else 2)) * u
            found["B"] += (has_norm * norm_b + (5 if training else 2)) * u
        if op.is_residual:
            found["A"] += (6 if training else 3) * u
            found["B"] += (3 if training else 1) * u
            found["C"] += (2 if training else 1) * u
    return found


def flops(network: Network, shape: tuple[int, int], training: bool) -> float:
    """Operations of one event's convolutions, two a multiply-accumulate."""
    forward = 2 * sum(op.macs for op in operations(network, shape))
    return 3 * forward if training else forward


def seconds(
    network: AnyNetwork,
    shape: tuple[int, int],
    training: bool,
    element_size: int,
    bytes_per_s: float,
    flops_per_s: float,
) -> dict[str, float]:
    """Least time of one event by row: what takes longer, its bytes or its operations.

    Args:
      network: its configuration.
      shape: rows and columns of the image.
      training: forward and backward, else the forward pass alone.
      element_size: bytes of an element, 4 or 2.
      bytes_per_s: of the memory.
      flops_per_s: of matrix products in the same precision.

    Returns:
      Row to seconds; none for a network whose arrays are not counted.
    """
    if not isinstance(network, Network):
        return {}
    compute_s = flops(network, shape, training) / flops_per_s
    return {
        row: max(number * element_size / bytes_per_s, compute_s)
        for row, number in elements(network, shape, training).items()
    }
