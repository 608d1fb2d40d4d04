"""Makes what workers of `benchmarks.compute` are given: configuration and arrays."""

import argparse
import os
import runpy
from typing import Any

import numpy as np

from benchmarks import compute_worker
from benchmarks.compute_cases import Case
from benchmarks.compute_process import ROOT
from ctjax.config import fields as config_fields
from ctjax.config import resolve
from ctjax.learning import state
from ctjax.models import torch_weights
from ctjax.runs import parts


def configure(case: Case, options: argparse.Namespace) -> config_fields.Config:
    """The configuration of a case."""
    path = ROOT / "configs" / f"{case.network}.py"
    config = runpy.run_path(str(path))["get_config"]()
    config.run.minibatch_size = case.minibatch_size
    config.run.precision = case.precision
    config.run.compute_mode = options.device.upper()
    config.data.synthetic = True
    config.data.downsample = case.downsample
    # What the peer has: Adam at one learning rate.
    config.mode.optimizer.lr_schedule = "flat"
    config.update(options.fields)
    if config.data.file and not config.data.synthetic:
        # The workers run in another folder.
        config.data.file = os.path.abspath(config.data.file)
    return resolve.resolve(config)


def write_arrays(config: config_fields.Config, folder: str) -> dict[str, Any]:
    """Writes a minibatch and initial weights where the peer needs them.

    Returns:
      The part of a job about them.
    """
    minibatch, image_shape = compute_worker.read_minibatch(config)
    _, variables = parts.make_network(config, image_shape)
    job = {
        "config": config_fields.to_dict(config),
        "image_shape": list(image_shape),
        "parameters": state.count_parameters(variables["params"]),
    }
    if isinstance(config.network, config_fields.Network):
        # For the peer; ctjax makes both itself, the same.
        given = minibatch._asdict().items()
        files = {
            "minibatch": {name: array for name, array in given if array is not None},
            "weights": torch_weights.from_variables(variables),
        }
        for name, arrays in files.items():
            job[name] = os.path.join(folder, f"{name}.npz")
            np.savez(job[name], **arrays)
    return job
