"""Fetches what a network says of a minibatch, and decides which devices compute it."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ctjax.base.errors import UserError
from ctjax.data.minibatch import HostMinibatch
from ctjax.data.order import PADDING
from ctjax.data.sources import EventSource
from ctjax.learning import head_steps, sharding
from ctjax.outputs import predictions


class Evaluated(NamedTuple):
    """Holds a minibatch that has been evaluated.

    Attributes:
      minibatch: on the host.
      results: those of the evaluation step that predictions are made of, on the host,
        of images without the rows and columns that were added for the network.
    """

    minibatch: HostMinibatch
    results: dict[str, np.ndarray]


def check_batch_size(batch_size: Any) -> None:
    """Refuses what is no number of events."""
    is_number = isinstance(batch_size, int | np.integer)
    if not is_number or isinstance(batch_size, bool) or batch_size < 1:
        raise UserError(f"batch_size: expected at least 1, got {batch_size!r}")


def mesh_for(batch_size: int) -> Mesh:
    """Returns all devices where they can share a minibatch, else the first."""
    mesh = sharding.make_mesh()
    if batch_size % mesh.size == 0:
        return mesh
    return sharding.make_mesh(list(mesh.devices.flat[:1]))


def fetch(
    minibatch: HostMinibatch, results: dict[str, jax.Array], source: EventSource
) -> Evaluated:
    """Fetches the results of a minibatch, or says which event has none."""
    is_bad = (np.asarray(results["is_finite"]) == 0) & (minibatch.entries != PADDING)
    for entry in minibatch.entries[is_bad].tolist():
        raise UserError(
            f"found class scores that are not finite, expected numbers: entry {entry} "
            f"of {source.file_of(entry)}"
        )
    arrays = {name: sharding.local(results[name]) for name in predictions.NEEDED}
    if minibatch.sites is None:
        height, width = source.image_shape
        arrays = {name: a[:, :, :height, :width] for name, a in arrays.items()}
    heads = {n: np.array(results[n]) for n in head_steps.ALL_RESULTS if n in results}
    return Evaluated(minibatch, arrays | heads)
