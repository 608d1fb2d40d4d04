"""Tells whether the files of a checkpoint are still those that were written.

The storage library notices files that are cut or missing, but not every flipped bit.
Checksums lie beside the checkpoints, one JSON file a step.
"""

import contextlib
import hashlib
import json
import logging
import os

logger = logging.getLogger("ctjax")


def write_checksums(folder: str, step: int) -> None:
    """Writes the checksums of a checkpoint that is complete.

    Args:
      folder: of the checkpoints.
      step: of the checkpoint. Checksums of checkpoints that are gone are removed.
    """
    try:
        sums = _sums(os.path.join(folder, str(step)))
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

    A run that was killed right after a save may not have written them yet.
    """
    try:
        with open(_path(folder, step), encoding="utf-8") as file:
            expected = json.load(file)
    except (OSError, ValueError):
        return False
    with contextlib.suppress(OSError):
        return _sums(os.path.join(folder, str(step))) != expected
    return True


def _path(folder: str, step: int) -> str:
    """Returns the name of the file with the checksums of a step."""
    return os.path.join(f"{folder}_checksums", f"{step}.json")


def _sums(folder: str) -> dict[str, str]:
    """Returns the SHA-256 of every file of a folder, by its path inside it."""
    sums = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[os.path.relpath(path, folder)] = digest
    return sums
