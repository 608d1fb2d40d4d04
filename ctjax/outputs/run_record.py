"""Writes down what a run was started with: configuration, versions, machine."""

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import time

import ctjax
from ctjax.base import native_library, version
from ctjax.base.native_library import CONVOLUTIONS, READING, SIMULATION
from ctjax.config import fields
from ctjax.config.fields import Config, ModeName

logger = logging.getLogger("ctjax")

LIBRARIES = {
    ModeName.TRAIN: (READING, CONVOLUTIONS),
    ModeName.INFERENCE: (READING, CONVOLUTIONS),
    ModeName.IOTEST: (READING,),
    ModeName.QUICKSTART: (SIMULATION, READING, CONVOLUTIONS),
}
"""Libraries in C that each mode has work for."""


def log_missing_libraries(mode: ModeName) -> None:
    """Logs which libraries a run has to do without, and what serves instead.

    Args:
      mode: of the run.
    """
    for library in LIBRARIES[mode]:
        obstacle = native_library.find_obstacle(library)
        if obstacle is not None:
            logger.warning(
                "Using %s instead of C for %s, which is slower: %s",
                library.replacement,
                library.work,
                obstacle,
            )


def save_config(config: Config) -> None:
    """Writes `<mode>_config.json`: configuration, versions and machine of a run.

    Also which libraries in C it uses, or what instead and why.

    Args:
      config: of the run, whose output folder is made.
    """
    record = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": {
            "python": platform.python_version(),
            "ctjax": ctjax.__version__,
            "ctjax_commit": version.find_commit(),
            **{name: _version(name) for name in ("jax", "flax", "optax")},
        },
        "libraries": {
            library.work: _in_use(library) for library in LIBRARIES[config.mode.name]
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "config": fields.to_dict(config),
    }
    name = f"{config.mode.name.value}_config.json"
    os.makedirs(config.output_dir, exist_ok=True)
    path = os.path.join(config.output_dir, name)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)


def _version(package: str) -> str:
    """Returns the version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _in_use(library: native_library.Library) -> str:
    """Returns "C", or what serves instead and why."""
    obstacle = native_library.find_obstacle(library)
    return "C" if obstacle is None else f"{library.replacement}: {obstacle}"


def _processor() -> str:
    """Returns the processor's own name where Linux tells it."""
    with contextlib.suppress(OSError):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
