"""Predicts how training scales over a cluster: the model of docs/scaling.md.

    python -m benchmarks.scaling_model

Prints one table a cluster. Times of a step on one device are measured ones, of
CosmicTagger or of docs/benchmarks/gpu.md; all else is arithmetic.
"""

import dataclasses
import math
import sys

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
BACKWARD_SHARE = 2 / 3
"""Of a step; gradients of the last layers are there when it begins."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A machine, as its centre describes it.

    Attributes:
      name: of the machine.
      devices_per_node: devices of one node.
      local_bytes_per_s: between devices of a node, one direction, each.
      node_bytes_per_s: out of a node, one direction, all its adapters.
      latency_s: of one message between nodes, software included.
      spread: standard deviation of the speed of devices, relative.
    """

    name: str
    devices_per_node: int
    local_bytes_per_s: float
    node_bytes_per_s: float
    latency_s: float
    spread: float


POLARIS = Cluster(
    "Polaris, 4 A100 a node, two 100 Gb/s adapters", 4, 250e9, 25e9, 2e-5, 0.01
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What each device does.

    Attributes:
      name: of the row.
      parameters: of the network.
      bytes_each: of a gradient's number on the wire.
      step_s: seconds of a step on one device alone.
      buckets: pieces in which gradients are summed; all but the last can overlap with
        the backward pass.
      overlap: whether they do.
    """

    name: str
    parameters: int
    bytes_each: int
    step_s: float
    buckets: int = 3
    overlap: bool = True


def allreduce_s(cluster: Cluster, num_bytes: float, num_devices: int) -> float:
    """Seconds to sum over devices: within nodes, then between them in a ring.

    Each node sends and receives 2 (n - 1) / n of the bytes through its adapters, and
    each device likewise within its node; latency is that of a tree.
    """
    local = min(cluster.devices_per_node, num_devices)
    nodes = math.ceil(num_devices / cluster.devices_per_node)
    inside = 2 * (local - 1) / local * num_bytes / cluster.local_bytes_per_s
    between = 2 * (nodes - 1) / nodes * num_bytes / cluster.node_bytes_per_s
    return inside + between + 2 * math.ceil(math.log2(nodes or 1)) * cluster.latency_s


def efficiency(cluster: Cluster, run: Run, num_devices: int) -> float:
    """Speed of a device among others over its speed alone."""
    if num_devices == 1:
        return 1.0
    num_bytes = run.parameters * run.bytes_each
    bucket_s = allreduce_s(cluster, num_bytes / run.buckets, num_devices)
    exposed_s = run.buckets * bucket_s
    if run.overlap:
        hidden_s = min((run.buckets - 1) * bucket_s, BACKWARD_SHARE * run.step_s)
        exposed_s -= hidden_s
    # The slowest of n normally distributed devices sets the pace.
    slowest = 1 + cluster.spread * math.sqrt(2 * math.log(num_devices))
    return run.step_s / (run.step_s * slowest + exposed_s)


H200 = Cluster("8 H200 a node, eight 400 Gb/s adapters", 8, 450e9, 400e9, 2e-5, 0.01)

UNET_PARAMETERS = 18_367_891
FULL_SIZE_S, QUARTER_SIZE_S = 1 / 31.4, 8 / 198  # one and eight events, one H200


def _gradients(name: str, step_s: float, **changes) -> Run:
    """Returns a run of uresnet with float32 gradients, unless changed."""
    whole = {"parameters": UNET_PARAMETERS, "bytes_each": FLOAT32_BYTES}
    return Run(name, step_s=step_s, **(whole | changes))


ROWS = {
    POLARIS: (_gradients("CosmicTagger's rate, 1 event", 1 / 3.35),),
    H200: (
        _gradients("full size, bf16, 1 event", FULL_SIZE_S),
        _gradients("the same, no overlap", FULL_SIZE_S, overlap=False),
        _gradients("320 x 512, TF32, 8 events", QUARTER_SIZE_S),
        _gradients("the same, no overlap", QUARTER_SIZE_S, overlap=False),
        _gradients(
            "the same, bfloat16 gradients", QUARTER_SIZE_S, bytes_each=BFLOAT16_BYTES
        ),
        _gradients("the same, ten buckets", QUARTER_SIZE_S, buckets=10),
    ),
}
DEVICES = (8, 16, 32, 64, 128, 256, 512, 1024)


def table(cluster: Cluster) -> list[str]:
    """Lines of a table: efficiency by row and number of devices."""
    lines = [
        f"| {cluster.name} | ms a step alone | " + " | ".join(map(str, DEVICES)) + " |",
        "|---" * (len(DEVICES) + 2) + "|",
    ]
    for run in ROWS[cluster]:
        numbers = [f"{efficiency(cluster, run, n):.0%}" for n in DEVICES]
        lines.append(
            f"| {run.name} | {1e3 * run.step_s:.1f} | " + " | ".join(numbers) + " |"
        )
    return lines


if __name__ == "__main__":
    for cluster in ROWS:
        sys.stdout.write("\n".join([*table(cluster), "", ""]))
