"""Command line: python -m ctjax.main --config configs/<name>.py."""

import importlib
import logging
import os
import sys

from absl import flags

from ctjax import command_line, distributed, report, reporting
from ctjax import config as ctjax_config

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
        config = command_line.parse_config(arguments)
        distributed.check(config.run.distributed, os.environ)
        reporting.start_logging(config.output_dir)
        logger.info("Resolved configuration\n%s", ctjax_config.describe(config))
        reporting.save_config(config)
        # Imported late: the IO test needs neither jax nor a device.
        importlib.import_module(f"ctjax.{config.mode.name.value}").run(config)
        report.write_after_run(config.output_dir)
    except (flags.Error, ValueError, OSError) as error:
        if not command_line.is_for_the_user(error):
            raise
        sys.stderr.write(f"ctjax: error: {command_line.one_line(error)}\n")
        logger.debug("ended by", exc_info=error)
        return 1
    finally:
        reporting.stop_logging()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
