"""Reads what a run has left in its folder."""

import csv

import jax
import numpy as np

from ctjax.learning import sharding
from ctjax.outputs import checkpoint
from ctjax.runs import parts


def read_table(folder, name="train_metrics.csv"):
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def column(folder, name, file="train_metrics.csv"):
    return np.array([float(row[name]) for row in read_table(folder, file)])


def last_variables(folder, config):
    """Parameters of the newest checkpoint, on one device of this process."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    _, variables = parts.make_network(config, (40, 64))
    variables = sharding.replicate(variables, mesh)
    restored, step = checkpoint.restore_weights(str(folder), variables, config)
    return jax.device_get(restored), step
