"""Command line: python -m ctjax.main --config configs/<name>.py."""

import importlib
import logging
import os
import sys

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
    try:
        config = ctjax_config.resolve(_parse(arguments).to_dict())
        distributed.check(config.run.distributed, os.environ)
        reporting.start_logging(config.output_dir)
        logger.info("Resolved configuration\n%s", ctjax_config.describe(config))
        # Imported late: the IO test needs neither jax nor a device.
        importlib.import_module(f"ctjax.{config.mode.name.value}").run(config)
    except (flags.Error, ValueError, OSError) as error:
        if not _is_for_the_user(error):
            raise
        sys.stderr.write(f"ctjax: error: {' '.join(str(error).split())}\n")
        logger.debug("ended by", exc_info=error)
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


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message of an error says all; others keep their traceback."""
    module = type(error).__module__
    return isinstance(error, flags.Error | OSError) or module.startswith("ctjax.")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
