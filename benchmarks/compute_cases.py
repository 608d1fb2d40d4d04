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
      share: weight of this case when the time left is divided among the cases left.
    """

    name: str
    words: str
    network: str
    training: bool
    precision: str
    downsample: int
    minibatch_size: int
    share: float = 1.0


CASES = {
    "gpu": (
        Case("task2", "Task 2: training", "scc21_master", True, "float32", 2, 8, 3),
        Case("task3", "Task 3: training", "scc21_master", True, "bfloat16", 0, 1, 4),
        Case("task4", "Task 4: inference", "scc21_master", False, "bfloat16", 0, 2, 3),
        Case("a21-inference", "a21: inference", "a21", False, "float32", 1, 8),
        Case("a21", "a21: training", "a21", True, "float32", 1, 8),
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
    ),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """What ctjax is compared with.

    Attributes:
      options: of PyTorch; None for ctjax itself, otherwise set up.
      environment: of its process, beside this one's.
      fields: changes to the configuration.
    """

    options: dict[str, bool] | None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


EAGER = {"channels_last": False, "compile": False}
CHANNELS_LAST = {"channels_last": True, "compile": False}

CONV_FUSION = "--xla_gpu_experimental_enable_conv_fusion=true"

CONTENDERS = {
    "channels-last": Contender(CHANNELS_LAST),
    "compile": Contender({"channels_last": True, "compile": True}),
    "eager": Contender(EAGER),
    "fused": Contender(None, fields={"network": {"kernels": "fused"}}),
    "conv-fusion": Contender(
        None, {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {CONV_FUSION}"}
    ),
}

USUAL = {
    "cpu": ["channels-last", "compile", "eager"],
    "gpu": ["channels-last", "fused", "eager", "compile", "conv-fusion"],
}
"""Those of a run that names none; the last are left out where time runs out."""
