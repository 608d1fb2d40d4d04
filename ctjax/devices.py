"""The device that a run computes on."""

import os
from typing import Any

import jax

from ctjax import cache
from ctjax.config import ComputeMode, ConfigError


def select(compute_mode: ComputeMode) -> Any:
    """Makes jax use the device asked for; to be called before any other use of jax.

    Args:
      compute_mode: auto takes a GPU where there is one.

    Returns:
      The jax device.

    Raises:
      ConfigError: a GPU is asked for and there is none.
    """
    _keep_compiled_programs()
    if compute_mode is ComputeMode.CPU:
        jax.config.update("jax_platforms", "cpu")
    device = jax.local_devices()[0]
    if compute_mode is ComputeMode.GPU and device.platform != "gpu":
        raise ConfigError(
            f"run.compute_mode=GPU: expected a GPU, jax found {device.platform} only; "
            "install ctjax[cuda12] or ctjax[cuda13]"
        )
    return device


def _keep_compiled_programs() -> None:
    """Lets later runs load programs instead of compiling them, half a minute each.

    The folder is that of JAX_COMPILATION_CACHE_DIR, else one in the user's cache.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache.folder("compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
