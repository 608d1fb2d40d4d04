"""Writes down what a run was started with, what it ran on and how it ended.

docs/data-format.md lists the keys of the record.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import ctjax
from ctjax.base import native_library, version
from ctjax.base.native_library import CONVOLUTIONS, READING, SIMULATION
from ctjax.config import fields
from ctjax.config.fields import Config, ModeName
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.sources import EventSource
from ctjax.processes import join
from ctjax.processes.join import Processes
from ctjax.processes.stop_requests import Interrupted

logger = logging.getLogger("ctjax")

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "h5py", "numpy")
"""What computes, reads and stores, whose versions are written down."""

OF_FORMER_STARTS = (
    *("started", "command", "versions", "devices", "steps", "images_per_s"),
    *("metrics", "weights", "ended"),
)
"""What is kept of the starts of a training that the last one went on from."""

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


@contextlib.contextmanager
def keep(config: Config) -> Iterator[None]:
    """Writes the record of the run in the block: its start, and at last its end.

    Args:
      config: of the run, whose output folder is made; only its first process may call
        this.

    Yields:
      Nothing. `add` adds to the record what is known later.
    """
    begin = time.perf_counter()
    save_config(config)
    how, why = "finished", None
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        how, why = "stopped", str(stop) or "interrupted"
        raise
    except BaseException as error:
        how, why = "failed", " ".join(f"{type(error).__name__}: {error}".split())
        raise
    finally:
        ended = {
            "how": how,
            "why": why,
            "at": _now(),
            "duration_s": time.perf_counter() - begin,
        }
        add(config, ended=ended)


def save_config(config: Config) -> None:
    """Writes `<mode>_config.json`: configuration, versions and machine of a run.

    Also which libraries in C it uses, or what instead and why.

    Args:
      config: of the run, whose output folder is made.
    """
    record = {
        "started": _now(),
        "command": shlex.join(sys.argv),
        "versions": {
            "python": platform.python_version(),
            "ctjax": ctjax.__version__,
            "ctjax_commit": version.find_commit(),
            **{name: _version(name) for name in PACKAGES},
        },
        "libraries": {
            library.work: in_use(library) for library in LIBRARIES[config.mode.name]
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "host": socket.gethostname(),
        },
        "ended": None,
        "config": fields.to_dict(config),
    }
    path = _path(config)
    if config.mode.name is ModeName.TRAIN:
        record["former_starts"] = _former_starts(path)
    os.makedirs(config.output_dir, exist_ok=True)
    _write(path, record)


def add(config: Config, /, **found: Any) -> None:
    """Adds to the record of a run what is known only now.

    A run goes on without it: a full disk costs a line of the log.

    Args:
      config: of the run; only its first process may call this. Where nobody has begun
        a record there is nothing to add to.
      found: by key of the record, values that JSON can hold.
    """
    path = _path(config)
    try:
        _write(path, {**_read(path), **found})
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        logger.error("%s: lacks %s: %s", path, ", ".join(found), error)


def describe_events(source: EventSource) -> dict[str, Any]:
    """Returns the number of a run's events, and its files.

    Args:
      source: of the events.

    Returns:
      "events", and "files": of each its name, bytes, events and the SHA-256 of what
      `EventSource.describe` says of it, None where it cannot be read. That is a sample
      of its bytes, smaller in each file where there are several: such sums can be
      compared for equal lists of files.
    """
    by_file: dict[str, dict[str, Any]] = {}
    # What cannot be read is for the reader to say, who may skip it.
    with contextlib.suppress(LarcvFileError):
        for name, value in source.describe().items():
            path, _, item = name.rpartition(": ")
            by_file.setdefault(path, {})[item] = value
    files = [
        {
            "file": path,
            "bytes": num_bytes,
            "events": num_events,
            "sample_sha256": _sum_json(by_file[path]) if path in by_file else None,
        }
        for path, num_bytes, num_events in source.files()
    ]
    return {"events": source.num_events, "files": files}


def count_hosts(processes: Processes) -> int:
    """Counts the hosts of a run; all of its processes must call this."""
    if processes.count == 1:
        return 1
    name = hashlib.sha256(socket.gethostname().encode()).digest()
    return len(np.unique(join.gather(np.frombuffer(name, np.uint8)), axis=0))


def _former_starts(path: str) -> list[dict[str, Any]]:
    """Returns what is kept of the record before, and of those before it."""
    try:
        before = _read(path)
    except (OSError, ValueError):
        return []
    kept = {name: before[name] for name in OF_FORMER_STARTS if name in before}
    older = before.get("former_starts")
    return [*(older if isinstance(older, list) else []), kept]


def _path(config: Config) -> str:
    return os.path.join(config.output_dir, f"{config.mode.name.value}_config.json")


def _read(path: str) -> dict[str, Any]:
    """Reads a record; raises OSError, and ValueError for what is none."""
    with open(path, encoding="utf-8") as file:
        try:
            record = json.load(file)
        except RecursionError as error:
            raise ValueError("expected JSON") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    return record


def _write(path: str, record: dict[str, Any]) -> None:
    """Writes a record beside the old one and renames it."""
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        json.dump(_without_nan(record), file, indent=1, allow_nan=False)
    os.replace(f"{path}.partial", path)


def _without_nan(value: Any) -> Any:
    """Returns None for numbers that are none, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sum_json(values: dict[str, Any]) -> str:
    """Returns the SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _version(package: str) -> str:
    """Returns the version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def in_use(library: native_library.Library) -> str:
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
