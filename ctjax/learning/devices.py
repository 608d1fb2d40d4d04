"""Selects the devices that a run computes on."""

import logging
import os

import jax
from jax.sharding import Mesh

from ctjax.base import user_cache
from ctjax.base.errors import ConfigError
from ctjax.config.fields import ComputeMode
from ctjax.learning import sharding
from ctjax.processes import join

logger = logging.getLogger("ctjax")


def select(compute_mode: ComputeMode) -> Mesh:
    """Makes jax use the devices asked for; to be called before any other use of jax.

    Args:
      compute_mode: auto takes GPUs where there are any.

    Returns:
      The mesh of all of them, those of other processes too.

    Raises:
      ConfigError: a GPU, or what JAX_PLATFORMS names, is asked for and there is none.
    """
    _keep_compiled_programs()
    if compute_mode is ComputeMode.CPU:
        jax.config.update("jax_platforms", "cpu")
    device = join.find_local_devices()[0]
    if compute_mode is ComputeMode.GPU and device.platform != "gpu":
        raise ConfigError(
            f"run.compute_mode=GPU: expected a GPU, jax found {device.platform} only; "
            "install ctjax[cuda12] or ctjax[cuda13]"
        )
    mesh = sharding.make_mesh()
    count = jax.process_count()
    logger.info(
        "Devices: %d (%s) of %d process%s",
        *(mesh.size, device.device_kind, count, "es" if count > 1 else ""),
    )
    return mesh


def check_divisible(mesh: Mesh, **sizes: int) -> None:
    """Refuses minibatches that cannot be shared out evenly.

    Args:
      mesh: of the devices.
      sizes: number of events by the name of the field in the run section.

    Raises:
      ConfigError: a size is no multiple of the number of devices.
    """
    for name, size in sizes.items():
        if size % mesh.size:
            raise ConfigError(
                f"run.{name}={size}: expected a multiple of the {mesh.size} devices of "
                "this run, an equal number of events for each"
            )


def _keep_compiled_programs() -> None:
    """Lets later runs load programs instead of compiling them, half a minute each.

    The folder is that of JAX_COMPILATION_CACHE_DIR, else one in the user's cache. One
    that others can write, too, is not used.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or user_cache.folder(
        "compiled"
    )
    if folder is None:
        logger.info("Compiled programs are not kept: found no home folder")
    else:
        # A program is code: whoever could write it could do anything in our name.
        obstacle = user_cache.make_private(folder)
        if obstacle is not None:
            logger.warning(
                "Compiled programs are not kept: %s: %s; expected a folder that this "
                "user alone can write",
                folder,
                obstacle,
            )
            folder = None
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
