"""Restores the tensors of a checkpoint, which are compared before any is read."""

import functools
import logging
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ctjax.base.detector import Detector
from ctjax.models import other_detectors, other_heads
from ctjax.models.other_detectors import LAST_LAYERS, Difference
from ctjax.models.other_heads import SAME_HEADS, HeadDifference
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
    heads: HeadDifference = SAME_HEADS,
) -> dict[str, Any]:
    """Restores the item "variables"; it may lack collections that are empty.

    Args:
      manager: of the checkpoints.
      step: of the one to restore.
      variables: nested dictionaries of arrays.
      keeps_last_layer: whether that of `variables` stays, of another number of classes.
      heads: see `find_heads`; those that are lacking stay as in `variables`.

    Raises:
      Exception: of any kind, from orbax, tensorstore and zarr, where it is damaged.
    """
    ours = abstract(variables)
    last = [name for name in ours["params"] if name in LAST_LAYERS]
    others = heads.spare_modules | set(last if keeps_last_layer else ())
    wanted = other_heads.without(ours, heads.lacking_modules)
    if others:
        # orbax restores whole trees alone, what is not taken among it.
        like = jax.tree.leaves(ours)[0]
        for collection, tree in _saved_tree(manager, step).items():
            wanted.setdefault(collection, {}).update(
                (name, jax.tree.map(functools.partial(_as_saved, like), part))
                for name, part in tree.items()
                if name in others
            )
    saved = check_shapes(manager, step, wanted)
    wanted = {name: tree for name, tree in wanted.items() if tree or name in saved}
    restored = manager.restore(
        step, args=ocp.args.Composite(variables=ocp.args.StandardRestore(wanted))
    )
    return other_heads.with_own(
        restored["variables"], variables, others | heads.lacking_modules
    )


def _as_saved(like: jax.ShapeDtypeStruct, saved: Any) -> jax.ShapeDtypeStruct:
    """Returns what is to be restored, of the saved shape, where `like` is."""
    return jax.ShapeDtypeStruct(saved.shape, like.dtype, sharding=like.sharding)


def find_heads(
    manager: ocp.CheckpointManager, step: int, variables: dict[str, Any]
) -> HeadDifference:
    """Compares the heads of a checkpoint with those of a network.

    Args:
      manager: as in `restore`.
      step: likewise.
      variables: likewise.

    Returns:
      No difference where tensors cannot be read, which `restore` tells.
    """
    try:
        theirs = _saved_tree(manager, step)["params"]
    except Exception:  # of any kind, from orbax, tensorstore and zarr
        return SAME_HEADS
    return other_heads.find(theirs, variables["params"])


def find_difference(
    manager: ocp.CheckpointManager,
    step: int,
    variables: dict[str, Any],
    detector: Detector,
    saved: SavedConfig,
    heads: HeadDifference = SAME_HEADS,
) -> Difference | None:
    """Says whether the tensors are of the network for another detector.

    Args:
      manager: as in `restore`.
      step: likewise.
      variables: likewise.
      detector: of the network.
      saved: what the checkpoint says of itself.
      heads: see `find_heads`; these are not compared.

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
            for name, leaf in checksums.name_leaves(
                other_heads.without(tree, heads.modules)
            ).items()
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
