"""What benchmarks/compute.py runs: its cases, and what ctjax is compared with."""

import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, what is done with it, and on how much at a time.

    Attributes:
      name: short, for the command line.
      words: for the table.
      network: the file of configs/ that has it.
      training: whether it trains, else it predicts.
      precision: a value of run.precision.
      downsample: halvings of 1280 x 2048.
      minibatch_size: events.
      contenders: what it is compared with, whatever the command line names; the usual
        ones where there are none.
    """

    name: str
    words: str
    network: str
    training: bool
    precision: str
    downsample: int
    minibatch_size: int
    contenders: tuple[str, ...] = ()


CASES = {
    "gpu": (
        Case("task2", "Task 2: training", "scc21_master", True, "float32", 2, 8),
        Case("task3", "Task 3: training", "scc21_master", True, "bfloat16", 0, 1),
        Case("task4", "Task 4: inference", "scc21_master", False, "bfloat16", 0, 2),
        Case("a21-inference", "a21: inference", "a21", False, "float32", 1, 8),
        Case("a21", "a21: training", "a21", True, "float32", 1, 8),
        Case(
            "sparse-inference",
            "sparse: inference",
            "sparse",
            False,
            "bfloat16",
            0,
            8,
            ("dense",),
        ),
        Case(
            "sparse", "sparse: training", "sparse", True, "bfloat16", 0, 1, ("dense",)
        ),
    ),
    "cpu": (
        Case("task2", "Task 2: training", "scc21_master", True, "float32", 2, 1),
        Case(
            "task4",
            "Task 4, smaller: inference",
            "scc21_master",
            False,
            "float32",
            2,
            1,
        ),
        Case("a21", "a21: training", "a21", True, "float32", 1, 1),
        Case("a21-inference", "a21: inference", "a21", False, "float32", 1, 1),
        Case("v21", "v2.1's uresnet: training", "uresnet_v21", True, "float32", 1, 1),
        Case("uresnet3d", "uresnet3d: training", "uresnet3d", True, "float32", 2, 1),
        Case(
            "tensorflow",
            "TensorFlow's uresnet: training",
            "uresnet_tensorflow",
            True,
            "float32",
            2,
            1,
        ),
        Case("segformer", "segformer: training", "segformer", True, "float32", 2, 1),
        Case("cvt", "cvt: training", "cvt", True, "float32", 3, 1),
        Case(
            "sparse-inference",
            "sparse: inference",
            "sparse",
            False,
            "float32",
            0,
            1,
            ("dense",),
        ),
        Case("sparse", "sparse: training", "sparse", True, "float32", 1, 1, ("dense",)),
    ),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """What ctjax is compared with.

    Attributes:
      options: of PyTorch; None for ctjax itself, otherwise set up.
      environment: of its process, beside this one's.
      fields: changes to the configuration.
      limit_s: seconds that it may take, compilation included, where time is limited.
    """

    options: dict[str, bool] | None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    limit_s: float = 60.0


EAGER = {"channels_last": False, "compile": False}
CHANNELS_LAST = {"channels_last": True, "compile": False}

CONV_FUSION = "--xla_gpu_experimental_enable_conv_fusion=true"


def _kernels(name: str) -> Contender:
    """Returns ctjax with a value of network.kernels."""
    return Contender(None, fields={"network": {"kernels": name}}, limit_s=90.0)


CONTENDERS = {
    "channels-last": Contender(CHANNELS_LAST),
    "compile": Contender({"channels_last": True, "compile": True}, limit_s=130.0),
    "eager": Contender(EAGER),
    "xla": _kernels("xla"),
    "columns": _kernels("columns"),
    "fused": _kernels("fused"),
    # The network on images of the same shape as a sparse one.
    "dense": Contender(
        None, fields={"network": {"architecture": "uresnet", "name": "dense"}}
    ),
    "conv-fusion": Contender(
        None,
        {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {CONV_FUSION}"},
        limit_s=90.0,
    ),
}

USUAL = {
    "cpu": ["channels-last", "compile", "eager"],
    "gpu": [
        "channels-last",
        "compile",
        "xla",
        "columns",
        "fused",
        "eager",
        "conv-fusion",
    ],
}
"""Those of a run that names none; the last are left out where time runs out, and come
first when the same commit runs again."""
