"""Compares a checkpoint's tensors with those to be restored, before any is read."""

from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from ctjax.outputs import checksums


def check_shapes(folder: str, variables: dict[str, Any]) -> set[str]:
    """Compares names and shapes of saved tensors with those to be restored.

    orbax reads all tensors at once. Where one does not fit, it leaves the reading of
    the others unfinished, which Python reports later, in the midst of something else.

    Args:
      folder: of the item "variables" of a checkpoint.
      variables: nested dictionaries of arrays, whose values are not used.

    Returns:
      The names of the saved collections, such as "params".

    Raises:
      ValueError: a tensor is missing, is not expected or has another shape.
    """
    saved = ocp.StandardCheckpointHandler().metadata(epath.Path(folder)).tree
    theirs, ours = (checksums.name_leaves(tree) for tree in (saved, variables))
    for name in sorted(theirs.keys() | ours.keys()):
        found, expected = (
            tuple(leaves[name].shape) if name in leaves else "none"
            for leaves in (theirs, ours)
        )
        if found != expected:
            raise ValueError(f"{name}: found {found}, expected {expected}")
    return set(saved)
