"""Runs of a second or two, and by hand the numbers that they should report.

The network has no normalization and, unless a test says so, a learning rate of 0: its
output for an event is then the same in every step, alone or in any minibatch.
"""

import contextlib
import csv
import logging
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np
import pytest

from ctjax import models
from ctjax.config.fields import Config
from ctjax.data import order
from ctjax.learning import sharding
from ctjax.runs import inference, iotest, train
from tests.support import larcv_fixtures, summaries, tiny

SHAPE = (16, 24)
NUM_EVENTS = 8

FIELDS = {
    "run__iterations": 2,
    "data__synthetic": False,
    "data__downsample": 0,
    "network__depth": 1,
    "network__normalization": "none",
    "network__blocks_per_layer": 0,
    "network__blocks_deepest_layer": 0,
    "network__blocks_final": 0,
    "network__bottleneck_deepest": 3,
    "network__filter_size_deepest": 3,
    "mode__optimizer__name": "sgd",
    "mode__optimizer__learning_rate": 0.0,
    "mode__optimizer__loss_balance_scheme": "none",
}

MODES = {"train": train, "inference": inference, "iotest": iotest}


NOT_COMPARED = ("file", "time_s", "images_per_s")
"""Columns that are no numbers, or others in every run."""


class Finished(NamedTuple):
    """A run that has ended: its configuration, what it returned and what it logged."""

    config: Config
    result: Any
    messages: list[str]

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.config.output_dir)

    def table(self, name: str) -> list[dict[str, float]]:
        """Numbers of the rows of `<name>.csv` that a second run has, too."""
        with open(self.folder / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {key: float(value) for key, value in row.items() if key not in NOT_COMPARED}
            for row in rows
        ]

    def column(self, name: str, column: str) -> list[float]:
        return [row[column] for row in self.table(name)]

    @property
    def losses(self) -> list[float]:
        return self.column("train_metrics", "loss")

    @property
    def params(self) -> dict[tuple[str, ...], np.ndarray]:
        """Trained parameters by their path."""
        return flat(self.result.params)

    @property
    def variables(self) -> Any:
        """What the network's `apply` takes."""
        return jax.device_get(self.result.variables)

    def scalars(self, kind: str) -> dict[str, dict[int, float]]:
        return summaries.read_scalars(self.folder / kind)

    def timings(self, name: str) -> np.ndarray:
        return np.load(self.folder / "profiles" / f"{name}_timings.npy")

    def steps_logged(self, kind: str) -> list[int]:
        """Steps that have a line in the log."""
        start = f"{kind} Step "
        lines = [m for m in self.messages if m.startswith(start) and "metrics" in m]
        return [int(line.removeprefix(start).split()[0]) for line in lines]

    def predictions(self, product: str) -> list[list[np.ndarray]]:
        """(id, value) of the stored pixels, by event and plane."""
        with h5py.File(self.folder / "predictions.h5") as file:
            group = f"Data/sparse2d_{product}_group"
            tables = {name: file[f"{group}/{name}"][...] for name in file[group]}
        return [
            [
                tables["voxels"][row["first"] : row["first"] + row["N"]]
                for row in tables["voxel_extents"][span["first"] :][: span["N"]]
            ]
            for span in tables["extents"]
        ]


def flat(tree: Any) -> dict[tuple[str, ...], np.ndarray]:
    """Leaves of nested dictionaries by their path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))
    return {tuple(part.key for part in path): np.asarray(leaf) for path, leaf in leaves}


class Runs:
    """Makes runs on the same eight events, each once.

    Attributes:
      folder: that holds the files of events and the runs' own.
      events: of `file`.
      file: that runs read unless they are told otherwise.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.events = larcv_fixtures.make_events(NUM_EVENTS, SHAPE)
        self.file = self.write("events.h5", self.events)
        self._finished: dict[Any, Finished] = {}

    def write(self, name: str, events: Any, shape: tuple[int, int] = SHAPE) -> str:
        """Writes a file of events, once."""
        path = self.folder / name
        if not path.exists():
            larcv_fixtures.write_larcv(path, events, shape)
        return str(path)

    def config(self, mode: str, folder: Any, **changes: Any) -> Config:
        fields = {**FIELDS, "data__file": self.file, "mode__name": mode, **changes}
        if "network__architecture" in changes:  # whose fields FIELDS does not have
            for name in FIELDS.keys() - changes.keys():
                if name.startswith("network__"):
                    del fields[name]
        return tiny.make(folder, **fields)

    def run(self, mode: str, one_device: bool = False, **changes: Any) -> Finished:
        """Runs a mode, or takes the same run made before."""
        key = mode, one_device, tuple(sorted(changes.items()))
        if key not in self._finished:
            folder = self.folder / f"run{len(self._finished)}"
            config = self.config(mode, folder, **changes)
            self._finished[key] = run_and_listen(config, one_device)
        return self._finished[key]

    def train(self, **changes: Any) -> Finished:
        return self.run("train", **changes)

    def infer(self, **changes: Any) -> Finished:
        """Predicts with the initial parameters of a training of the same network."""
        fields = {
            name: value
            for name, value in changes.items()
            if name.startswith("network__") or name == "run__seed"
        }
        trained = self.train(**fields)
        usual = {
            "mode__weights_location": str(trained.folder),
            "mode__write_predictions": True,
            # Trained with the images as they are, and asked what it makes of others.
            "mode__allow_other_images": True,
            "run__iterations": None,
        }
        changes = {**usual, **changes}
        return self.run("inference", **changes)

    def read(self, **changes: Any) -> Finished:
        return self.run("iotest", **changes)


def run_and_listen(config: Config, one_device: bool = False) -> Finished:
    """Runs a configuration and keeps what it logs."""
    with pytest.MonkeyPatch.context() as patch, listening() as messages:
        if one_device:
            make_mesh = sharding.make_mesh
            first = jax.devices()[:1]
            patch.setattr(sharding, "make_mesh", lambda: make_mesh(first))
        result = MODES[config.mode.name.value].run(config)
    return Finished(config, result, messages)


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Collects the messages of ctjax's log."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("ctjax")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def lowered_programs() -> Iterator[Callable[[], str]]:
    """Yields a function that returns all that jax has given to its compiler since."""
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_dump_ir_to", folder)
        try:
            yield lambda: "".join(
                path.read_text() for path in sorted(pathlib.Path(folder).iterdir())
            )
        finally:
            jax.config.update("jax_dump_ir_to", "")


def entries_of(step: int, size: int = 4, seed: int = 0) -> np.ndarray:
    """Entries of a training step's minibatch, or of a validation's by its number."""
    return order.training_entries(NUM_EVENTS, size, seed, step)


def logits_of(config: Config, variables: Any, image: np.ndarray, **options) -> Any:
    """The network's class scores for images [B, P, H, W], outside of any run."""
    apply = jax.jit(models.make(config.network, **options).apply)
    return np.asarray(apply(variables, image), np.float64)


def loss_by_hand(
    logits: np.ndarray,
    label: np.ndarray,
    charge: np.ndarray,
    scheme: str = "none",
    charged_only: bool = False,
    average: str = "weights",
) -> float:
    """The sum over the planes of the weighted mean of -log p(true class).

    With the average over pixels, of the mean of what is weighted.

    Source:
      CosmicTagger, src/networks/torch/LossCalculator.py.
    """
    total = 0.0
    for plane in range(3):
        z, true = logits[:, plane].reshape(-1, 3), label[:, plane].ravel()
        if charged_only:
            kept = charge[:, plane].ravel() != 0
            z, true = z[kept], true[kept]
        z = z - z.max(-1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        own = log_p[np.arange(len(true)), true]
        weights = {
            "none": np.ones(len(true)),
            "light": np.array([1, 1.5, 10])[true],
            "even": 0.3333 / (np.bincount(true, minlength=3)[true] + 1),
            "focal": (1 - np.exp(own)) ** 2,
        }[scheme]
        if average == "pixels":
            third = 3 if scheme == "focal" else 1
            total += (weights * -own).mean() / third
        else:
            total += (weights * -own).sum() / weights.sum()
    return total


def accuracy_by_hand(
    logits: np.ndarray, label: np.ndarray, charge: np.ndarray, masked: bool
) -> float:
    """Average/Total_Accuracy: the share of all pixels whose class is right."""
    prediction = logits.argmax(-1)
    if masked:
        prediction = np.where(charge == 0, 0, prediction)
    return float((prediction == label).mean())
