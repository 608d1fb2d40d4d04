"""Trains a network."""

import csv
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctjax import main
from ctjax.api.evaluation import short_names
from ctjax.base.errors import ConfigError
from ctjax.commands import command_line, configuration_files
from ctjax.config import dotted, resolve
from ctjax.config.fields import Config, ModeName


class Run:
    """A training that has ended. Made by `ctjax.train`.

    Attributes:
      config: of the run.
      folder: that it has written into; `ctjax.load` takes it.
      metrics: of every step, [N] arrays by name: "step", "loss", and the names of
        `ctjax.metrics`; those of `train_metrics.csv` without "Average/".
      validation: the same of every validation; arrays are empty without validation.
    """

    def __init__(self, config: Config):
        """Reads the tables of a run that has ended."""
        self.config, self.folder = config, config.output_dir
        self.metrics = _read_table(os.path.join(self.folder, "train_metrics.csv"))
        self.validation = _read_table(os.path.join(self.folder, "val_metrics.csv"))

    def __repr__(self) -> str:
        """Names the folder, and says how far the training has come."""
        steps = self.metrics["step"]
        done = int(steps[-1]) + 1 if len(steps) else 0
        return f"<Run {self.folder}, {done} steps>"


def train(
    config: str | os.PathLike = "default",
    *,
    run: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
    mode: Mapping[str, Any] | None = None,
    output_dir: str | os.PathLike | None = None,
) -> Run:
    """Trains a network, as `ctjax train --config CONFIG FIELD=VALUE …` does.

    The same call again goes on where the run in its folder has ended. Its log is in
    `process.log`; nothing is shown but what this program lets Python's logging show.

    Args:
      config: a configuration's name or file.
      run: fields of the section `run`, see docs/configuration.md.
      data: of the section `data`.
      network: of the section `network`.
      mode: of the section `mode`; "optimizer" is a mapping in it.
      output_dir: folder of the run; None for `output/<network.name>/<run.id>`.

    Returns:
      The run.

    Raises:
      ConfigError: no such configuration or field, or a value that cannot be used.
      LarcvFileError, CheckpointError, TrainingError: see `runs.train.run`.
      Interrupted: a signal, such as a notebook's button, or run.max_time has stopped
        it, and its state is saved.

    Examples:
      >>> run = ctjax.train("scc21", data={"file": "train.h5"}, run={"iterations": 500})
      >>> run.metrics["loss"][-1]
    """
    sections = {"run": run, "data": data, "network": network, "mode": mode}
    changes: dict[str, Any] = {}
    for name, fields in sections.items():
        if fields is not None and not isinstance(fields, Mapping):
            raise ConfigError(f"{name}: expected a mapping of fields, got {fields!r}")
        changes[name] = fields or {}
    values = dotted.flatten(changes)
    for name in values:
        resolve.check_name(name)
    for name, value in values.items():
        if isinstance(value, os.PathLike):
            values[name] = os.fspath(value)
    train_mode = ModeName.TRAIN.value
    if values.setdefault("mode.name", train_mode) != train_mode:
        raise ConfigError(
            f"mode.name={values['mode.name']}: expected none, ctjax.train stands for "
            f"{train_mode}"
        )
    if output_dir is not None:
        values["output_dir"] = os.fspath(output_dir)
    base = configuration_files.load(os.fspath(config), "config").to_dict()
    resolved = command_line.change(base, values)
    main.run(resolved, on_terminal=False)
    return Run(resolved)


def _read_table(path: str) -> dict[str, np.ndarray]:
    """Reads a table of metrics by column."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = np.array(rows, np.float64).reshape(-1, len(header)).T
    return short_names(dict(zip(header, columns, strict=True)))
