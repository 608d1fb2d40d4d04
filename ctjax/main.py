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
from ctjax import distributed, reporting
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
    launch = None
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
        several = launch is not None and launch.count > 1
        line = _line_for_the_user(error, several)
        if line is None and not several:
            raise
        rank = f"rank {launch.index}: " if launch is not None and several else ""
        sys.stderr.write(f"ctjax: error: {rank}{line or traceback.format_exc()}\n")
        logger.debug("ended by", exc_info=error)
        if several:
            # At once: what jax and MPI do at the end of a process waits for others.
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        return 1
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


def _line_for_the_user(error: Exception, several: bool) -> str | None:
    """One line where that says all; other errors keep their traceback."""
    message = " ".join(str(error).split())
    if isinstance(error, flags.Error | OSError):
        return message
    if type(error).__module__.startswith("ctjax."):
        return message
    # Of one process it would be a defect; of several, another one has ended.
    if several and type(error).__name__ == "JaxRuntimeError":
        return f"lost the other processes, one of which has ended: {message}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
