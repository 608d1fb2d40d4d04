"""Writes down what a run was started with: configuration, versions, machine."""

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import time

import ctjax
from ctjax.config import fields
from ctjax.config.fields import Config

logger = logging.getLogger("ctjax")


def save_config(config: Config) -> None:
    """Writes `<mode>_config.json`: configuration, versions and machine of a run.

    Args:
      config: of the run; its output folder exists.
    """
    record = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("ctjax", "jax", "flax", "optax")},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "config": fields.to_dict(config),
    }
    name = f"{config.mode.name.value}_config.json"
    with open(os.path.join(config.output_dir, name), "w") as file:
        json.dump(record, file, indent=1)


def _version(package: str) -> str:
    """Returns the version of a package."""
    if package == "ctjax":
        return ctjax.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    """Returns the processor's own name where Linux tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
