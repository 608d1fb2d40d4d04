"""Command line: python -m ctjax.main --config configs/<name>.py."""

import contextlib
import importlib
import logging
import os
import sys
import traceback
from typing import Any

from ctjax import (
    command_line,
    distributed,
    host_memory,
    interruption,
    liveness,
    report,
    reporting,
    run_lock,
)
from ctjax import config as ctjax_config
from ctjax.config import Config
from ctjax.distributed import ALONE, Processes
from ctjax.interruption import Interrupted

logger = logging.getLogger("ctjax")


def main(arguments: list[str]) -> int:
    """Runs what the command line asks for.

    Args:
      arguments: of the process, its name first.

    Returns:
      Exit status: 0; 1 after one line about what the user can mend; 75 where a signal
      or run.max_time has stopped a training that the same command goes on with.
    """
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(ctjax_config.help_text())
        return 0
    started, processes = None, ALONE
    try:
        config = command_line.parse_config(arguments)
        if config.run.distributed:
            started = distributed.find(os.environ)
        processes = distributed.start(config, started)
        launch(config, processes)
    except Interrupted:
        return interruption.STATUS
    except Exception as error:
        line = _line_for_the_user(error)
        if started is None or started.count == 1:
            if line is None or _is_loss(error):
                raise
            sys.stderr.write(f"ctjax: error: {line}\n")
            logger.debug("ended by", exc_info=error)
            return 1
        words = line or f"a defect of ctjax\n{traceback.format_exc()}"
        if processes.count > 1 and _is_loss(error):
            liveness.call_roll(started.index, words)
        liveness.leave(started.index, words)
    return 0


def launch(config: Config, processes: Processes = ALONE) -> Any:
    """Does what a configuration says: lock, log, run, report page.

    Args:
      config: of the run.
      processes: of the run, which have joined already.

    Returns:
      What the `run` of the mode's module returns.

    Raises:
      ConfigError, LarcvFileError, CheckpointError, RunLockError, TrainingError: for
        what the user can mend.
      Interrupted: a signal or run.max_time has stopped a training.
    """
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            stack.enter_context(run_lock.hold(config.output_dir))
        reporting.start_logging(config.output_dir, processes.index)
        stack.callback(reporting.stop_logging)
        logger.info("Resolved configuration\n%s", ctjax_config.describe(config))
        if processes.is_first:
            reporting.save_config(config)
        # Imported late: the IO test needs neither jax nor a device.
        mode = importlib.import_module(f"ctjax.{config.mode.name.value}")
        try:
            result = mode.run(config, processes)
        except Interrupted as stop:
            logger.warning("Stopped by %s", stop)
            raise
        if processes.is_first:
            report.write_after_run(config.output_dir)
    return result


def _line_for_the_user(error: Exception) -> str | None:
    """One line where that says all; other errors keep their traceback."""
    message = command_line.one_line(error)
    if command_line.is_for_the_user(error):
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
    host_memory.prepare()
    sys.exit(main(sys.argv))
