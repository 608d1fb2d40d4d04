"""The device that a run computes on."""

import jax

from ctjax.config import ComputeMode, ConfigError


def select(compute_mode: ComputeMode) -> jax.Device:
    """Makes jax use the device asked for; to be called before any other use of jax.

    Args:
      compute_mode: auto takes a GPU where there is one.

    Returns:
      The device.

    Raises:
      ConfigError: a GPU is asked for and there is none.
    """
    if compute_mode is ComputeMode.CPU:
        jax.config.update("jax_platforms", "cpu")
    device = jax.local_devices()[0]
    if compute_mode is ComputeMode.GPU and device.platform != "gpu":
        raise ConfigError(
            f"run.compute_mode=GPU: expected a GPU, jax found {device.platform} only; "
            "install ctjax[cuda12] or ctjax[cuda13]"
        )
    return device
