"""Finds out where in a network numbers stop being finite, for the error of a run."""

from typing import Any

import jax

from ctjax.learning import activations
from ctjax.models import PixelNetwork, make


def describe_activations(
    model: PixelNetwork, variables: dict[str, Any], image: Any, train: bool
) -> str:
    """Names the modules with the largest outputs, in words for an error.

    Args:
      model: of the run, which may work on many devices.
      variables: its parameters and running statistics.
      image: as the network takes it, of this process alone.
      train: see `activations.largest_activations`.
    """
    alone = make(model.network, model.dtype)
    try:
        return activations.largest_activations(
            alone, jax.device_get(variables), jax.device_get(image), train
        )
    except jax.errors.JaxRuntimeError as error:
        return f"not found ({str(error).splitlines()[0]})"
