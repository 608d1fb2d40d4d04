"""Command line: python -m ctjax.main --config configs/<name>.py."""

import importlib
import logging
import os
import sys
import traceback

import ml_collections
from absl import flags
from ml_collections import config_flags

from ctjax import config as ctjax_config
from ctjax import distributed, liveness, reporting
from ctjax.config import ConfigError

logger = logging.getLogger("ctjax")

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Configuration file, see configs/.", lock_config=True
)


def main(arguments: list[str]) -> int:
    """Runs what the command line asks for.

    Args:
      arguments: of the process, its name first.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(ctjax_config.help_text())
        return 0
    launch, processes = None, distributed.ALONE
    try:
        config = ctjax_config.resolve(_parse(arguments).to_dict())
        if config.run.distributed:
            launch = distributed.find(os.environ)
        processes = distributed.start(config, launch)
        reporting.start_logging(config.output_dir, processes.index)
        logger.info("Resolved configuration\n%s", ctjax_config.describe(config))
        # Imported late: the IO test needs neither jax nor a device.
        module = importlib.import_module(f"ctjax.{config.mode.name.value}")
        module.run(config, processes)
    except Exception as error:
        line = _line_for_the_user(error)
        if launch is None or launch.count == 1:
            if line is None or _is_loss(error):
                raise
            sys.stderr.write(f"ctjax: error: {line}\n")
            logger.debug("ended by", exc_info=error)
            return 1
        words = line or f"a defect of ctjax\n{traceback.format_exc()}"
        if processes.count > 1 and _is_loss(error):
            liveness.call_roll(launch.index, words)
        liveness.leave(launch.index, words)
    finally:
        reporting.stop_logging()
    return 0


def _parse(arguments: list[str]) -> ml_collections.ConfigDict:
    """The configuration file as changed by the command line."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name = following if word == "--config" else word.partition("--config=")[2]
        if name and not os.path.exists(name):
            raise ConfigError(f"--config: no such file: {name}")
    try:
        flags.FLAGS(arguments)
    except AttributeError as error:
        # ml_collections' answer to a field that does not exist, with the nearest name.
        words = str(error).strip("\"'").replace("\\n", ". ").replace("\\'", "'")
        raise ConfigError(f"--config: no such field: {words}") from error
    if _CONFIG.value is None:
        raise ConfigError("--config: expected a configuration file, see configs/")
    return _CONFIG.value


def _line_for_the_user(error: Exception) -> str | None:
    """One line where that says all; other errors keep their traceback."""
    message = " ".join(str(error).split())
    if isinstance(error, flags.Error | OSError):
        return message
    if type(error).__module__.startswith("ctjax."):
        return message
    if type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in message:
        return (
            "the device's memory is too small: expected a smaller run.minibatch_size, "
            f"network or image (data.downsample): {message}"
        )
    return message if _is_loss(error) else None


def _is_loss(error: Exception) -> bool:
    """Whether it may come from the loss of another process."""
    return type(error).__name__ == "JaxRuntimeError" and (
        "RESOURCE_EXHAUSTED" not in str(error)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
