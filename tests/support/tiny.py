"""Configurations of runs that take seconds."""

from typing import Any

from ctjax.config import fields as config_fields
from ctjax.config import resolve

FIELDS = {
    "run.iterations": 4,
    "run.minibatch_size": 4,  # the tests have four devices
    "run.compute_mode": "CPU",
    "data.synthetic": True,
    "data.downsample": 5,  # 40 x 64 pixels
    "network.n_initial_filters": 2,
    "network.depth": 1,
    "network.blocks_per_layer": 1,
    "network.blocks_deepest_layer": 1,
    "network.blocks_final": 1,
    "network.bottleneck_deepest": 4,
    "mode.optimizer.learning_rate": 1e-2,
    "mode.optimizer.lr_schedule": "flat",
    "mode.optimizer.loss_balance_scheme": "light",
}


def make(output_dir: Any, **changes: Any) -> config_fields.Config:
    """The tiny run with changes, `run__iterations=3` for run.iterations."""
    values: dict[str, Any] = {"output_dir": str(output_dir)}
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in {**_fields(dotted), **dotted}.items():
        section = values
        *groups, field = name.split(".")
        for group in groups:
            section = section.setdefault(group, {})
        section[field] = value
    return resolve.resolve(values)


def _fields(dotted: dict[str, Any]) -> dict[str, Any]:
    """Returns FIELDS, those of the network only where none is asked for by name."""
    if "network.architecture" not in dotted:
        return FIELDS
    return {k: v for k, v in FIELDS.items() if not k.startswith("network.")}


def flags(output_dir: Any, **changes: Any) -> list[str]:
    """The same as arguments of the command line."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    fields = {**_fields(dotted), **dotted, "output_dir": output_dir}
    return [f"--config.{name}={value}" for name, value in fields.items()]
