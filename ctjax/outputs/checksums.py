"""Takes checksums of weights, and tells whether files are still those written.

The storage library notices files that are cut or missing, but not every flipped bit.
Checksums lie beside the checkpoints, one JSON file a step.
"""

import contextlib
import hashlib
import json
import logging
import os
from typing import Any

import jax
import numpy as np

logger = logging.getLogger("ctjax")


def write_checksums(folder: str, step: int) -> None:
    """Writes the checksums of a checkpoint that is complete.

    Args:
      folder: of the checkpoints.
      step: of the checkpoint. Checksums of checkpoints that are gone are removed.
    """
    try:
        sums = sum_files(os.path.join(folder, str(step)))
        path = _path(folder, step)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.partial", "w", encoding="utf-8") as file:
            json.dump(sums, file)
        os.replace(f"{path}.partial", path)
        for name in os.listdir(os.path.dirname(path)):
            if not os.path.isdir(os.path.join(folder, name.partition(".")[0])):
                os.unlink(os.path.join(os.path.dirname(path), name))
    except OSError as error:
        logger.error("No checksums of checkpoint %d: %s", step, error)


def find_damage(folder: str, step: int) -> bool:
    """Says whether a checkpoint differs from its checksums; False where it has none.

    A run that was killed right after a save may not have written them yet. Checksums
    that cannot be read are damage, too.
    """
    with contextlib.suppress(OSError, ValueError):
        try:
            with open(_path(folder, step), encoding="utf-8") as file:
                expected = json.load(file)
        except FileNotFoundError:
            return False
        return sum_files(os.path.join(folder, str(step))) != expected
    return True


def describe(name: str, folder: str, step: int | None) -> dict[str, Any]:
    """Returns what tells a checkpoint from that of another process.

    Args:
      name: of the checkpoints, the same in all processes.
      folder: that holds them.
      step: None for the last one.

    Returns:
      The step, None where there is none, and the start of the SHA-256 of each file.

    Raises:
      OSError: it cannot be read.
    """
    if step is None:
        steps = [int(name) for name in os.listdir(folder) if name.isdigit()]
        step = max(steps, default=None)
    found: dict[str, Any] = {f"step of {name}": step}
    if step is not None:
        sums = sum_files(os.path.join(folder, str(step)))
        found |= {f"{name}: {step}/{file}": total[:16] for file, total in sums.items()}
    return found


def sum_arrays(tree: Any) -> str:
    """Returns the SHA-256 of arrays, however they are stored.

    Args:
      tree: nested dictionaries of arrays, whole in this process.

    Returns:
      Hexadecimal digits; of each array in the order of their names the name
      ("params/net_core/..."), type, shape and bytes count.
    """
    total = hashlib.sha256()
    for name, array in sorted(named_arrays(tree).items()):
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def named_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of nested dictionaries by their path, on the host."""
    return {name: np.asarray(leaf) for name, leaf in name_leaves(tree).items()}


def name_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path, "params/net_core/..."."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def _path(folder: str, step: int) -> str:
    """Returns the name of the file with the checksums of a step."""
    return os.path.join(f"{folder}_checksums", f"{step}.json")


def sum_files(folder: str) -> dict[str, str]:
    """Returns the SHA-256 of every file of a folder, by its path inside it."""
    sums = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[os.path.relpath(path, folder)] = digest
    return sums
