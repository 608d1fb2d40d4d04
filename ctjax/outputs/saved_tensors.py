"""Restores the tensors of a checkpoint, which are compared before any is read."""

import logging
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ctjax.base.detector import Detector
from ctjax.models import other_detectors
from ctjax.models.other_detectors import LAST_LAYERS, Difference
from ctjax.outputs import checksums
from ctjax.outputs.saved_config import CheckpointError, SavedConfig

MAX_NAMED = 5
"""Tensors that a message names."""

logger = logging.getLogger("ctjax")


def restore(
    manager: ocp.CheckpointManager,
    step: int,
    variables: dict[str, Any],
    keeps_last_layer: bool = False,
) -> dict[str, Any]:
    """Restores the item "variables"; it may lack collections that are empty.

    Args:
      manager: of the checkpoints.
      step: of the one to restore.
      variables: nested dictionaries of arrays.
      keeps_last_layer: whether that of `variables` stays, of another number of classes.

    Raises:
      Exception: of any kind, from orbax, tensorstore and zarr, where it is damaged.
    """
    ours = abstract(variables)
    last = [name for name in ours["params"] if name in LAST_LAYERS]
    if keeps_last_layer:
        saved_params = _saved_tree(manager, step)["params"]
        for name in last:
            ours["params"][name] = jax.tree.map(
                _of_shape, ours["params"][name], saved_params[name]
            )
    saved = check_shapes(manager, step, ours)
    wanted = {name: tree for name, tree in ours.items() if tree or name in saved}
    restored = manager.restore(
        step, args=ocp.args.Composite(variables=ocp.args.StandardRestore(wanted))
    )
    taken = {**variables, **restored["variables"]}
    if keeps_last_layer:
        taken["params"] |= {name: variables["params"][name] for name in last}
    return taken


def _of_shape(ours: jax.ShapeDtypeStruct, saved: Any) -> jax.ShapeDtypeStruct:
    """Returns what is to be restored, of the saved shape."""
    return jax.ShapeDtypeStruct(saved.shape, ours.dtype, sharding=ours.sharding)


def find_difference(
    manager: ocp.CheckpointManager,
    step: int,
    variables: dict[str, Any],
    detector: Detector,
    saved: SavedConfig,
) -> Difference | None:
    """Says whether the tensors are of the network for another detector.

    Args:
      manager: as in `restore`.
      step: likewise.
      variables: likewise.
      detector: of the network.
      saved: what the checkpoint says of itself.

    Returns:
      None where they are not, and where they cannot be read, which `restore` tells.
    """
    try:
        tree = _saved_tree(manager, step)
    except Exception:  # of any kind, from orbax, tensorstore and zarr
        return None
    theirs, ours = (
        {
            tuple(name.split("/")): tuple(leaf.shape)
            for name, leaf in checksums.name_leaves(tree).items()
        }
        for tree in (tree, variables)
    )
    return other_detectors.find(theirs, ours, detector, saved.detector)


def _saved_tree(manager: ocp.CheckpointManager, step: int) -> Any:
    """Returns nested dictionaries of what is known of the saved tensors."""
    folder = manager.directory / str(step) / "variables"
    return ocp.StandardCheckpointHandler().metadata(folder).tree


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
    saved = _saved_tree(manager, step)
    theirs, ours = (checksums.name_leaves(tree) for tree in (saved, variables))
    for name in sorted(theirs.keys() | ours.keys()):
        found, expected = (
            tuple(leaves[name].shape) if name in leaves else "none"
            for leaves in (theirs, ours)
        )
        if found != expected:
            raise ValueError(f"{name}: found {found}, expected {expected}")
    return set(saved)


def log_classes(
    where: str, saved: SavedConfig, detector: Detector, difference: Difference | None
) -> None:
    """Says what is taken of weights that were trained for other classes."""
    theirs = saved.detector
    if difference is not None:
        logger.info("%s: %s: all but the last layer is taken", where, difference.line)
    elif theirs.classes != detector.classes:
        logger.warning(
            "%s: weights of the classes %s are taken for %s of data.classes",
            where,
            ", ".join(theirs.classes),
            ", ".join(detector.classes),
        )


def check_finite(variables: dict[str, Any], where: str) -> None:
    """Raises CheckpointError where weights are not numbers, naming the tensors."""
    wrong = [
        name
        for name, array in checksums.named_arrays(variables).items()
        if not np.isfinite(array).all()
    ]
    if wrong:
        more = f" and {len(wrong) - MAX_NAMED} more" * (len(wrong) > MAX_NAMED)
        raise CheckpointError(
            f"{where}: found numbers that are not finite in "
            f"{', '.join(wrong[:MAX_NAMED])}{more}, expected finite ones"
        )


def abstract(tree: Any) -> Any:
    """Returns shapes, types and shardings in place of arrays."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
