"""Restores the tensors of a checkpoint, which are compared before any is read."""

from typing import Any

import jax
import orbax.checkpoint as ocp

from ctjax.outputs import checksums


def restore(
    manager: ocp.CheckpointManager, step: int, variables: dict[str, Any]
) -> dict[str, Any]:
    """Restores the item "variables"; it may lack collections that are empty.

    Args:
      manager: of the checkpoints.
      step: of the one to restore.
      variables: nested dictionaries of arrays, whose values are not used.

    Raises:
      Exception: of any kind, from orbax, tensorstore and zarr, where it is damaged.
    """
    saved = check_shapes(manager, step, variables)
    wanted = {name: tree for name, tree in variables.items() if tree or name in saved}
    restored = manager.restore(
        step,
        args=ocp.args.Composite(variables=ocp.args.StandardRestore(abstract(wanted))),
    )
    return {**variables, **restored["variables"]}


def check_shapes(
    manager: ocp.CheckpointManager, step: int, variables: dict[str, Any]
) -> set[str]:
    """Compares names and shapes of saved tensors with those to be restored.

    orbax reads all tensors at once. Where one does not fit, it leaves the reading of
    the others unfinished, which Python reports later, in the midst of something else.

    Args:
      manager: as in `restore`.
      step: likewise.
      variables: likewise.

    Returns:
      The names of the saved collections, such as "params".

    Raises:
      ValueError: a tensor is missing, is not expected or has another shape.
    """
    folder = manager.directory / str(step) / "variables"
    saved = ocp.StandardCheckpointHandler().metadata(folder).tree
    theirs, ours = (checksums.name_leaves(tree) for tree in (saved, variables))
    for name in sorted(theirs.keys() | ours.keys()):
        found, expected = (
            tuple(leaves[name].shape) if name in leaves else "none"
            for leaves in (theirs, ours)
        )
        if found != expected:
            raise ValueError(f"{name}: found {found}, expected {expected}")
    return set(saved)


def abstract(tree: Any) -> Any:
    """Returns shapes, types and shardings in place of arrays."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
