"""Command line: python -m ctjax.main --config configs/<name>.py."""

import importlib
import logging
import os
import sys
from typing import Any

from absl import flags

from ctjax import command_line, distributed, report, reporting
from ctjax import config as ctjax_config
from ctjax.config import Config

logger = logging.getLogger("ctjax")


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
        launch(command_line.parse_config(arguments))
    except (flags.Error, ValueError, OSError) as error:
        if not command_line.is_for_the_user(error):
            raise
        sys.stderr.write(f"ctjax: error: {command_line.one_line(error)}\n")
        logger.debug("ended by", exc_info=error)
        return 1
    return 0


def launch(config: Config) -> Any:
    """Does what a configuration says: log, run, report page.

    Args:
      config: of the run.

    Returns:
      What the `run` of the mode's module returns.

    Raises:
      ConfigError, LarcvFileError, CheckpointError: for what the user can mend.
    """
    distributed.check(config.run.distributed, os.environ)
    reporting.start_logging(config.output_dir)
    try:
        logger.info("Resolved configuration\n%s", ctjax_config.describe(config))
        reporting.save_config(config)
        # Imported late: the IO test needs neither jax nor a device.
        mode = importlib.import_module(f"ctjax.{config.mode.name.value}")
        result = mode.run(config)
        report.write_after_run(config.output_dir)
    finally:
        reporting.stop_logging()
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv))
