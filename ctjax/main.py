"""Runs what a command line says: `python -m ctjax.main --config NAME FIELD=VALUE …`."""

import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from ctjax.base import standard_streams, version
from ctjax.base.errors import UserError
from ctjax.commands import command_line
from ctjax.config import describe
from ctjax.config.fields import Config, ModeName
from ctjax.data.larcv.errors import BadEventError
from ctjax.outputs import fresh, lock, log, older_results, run_record
from ctjax.processes import join, launchers, liveness, stop_requests
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.processes.launchers import Launch
from ctjax.processes.stop_requests import Interrupted
from ctjax.views import report

logger = logging.getLogger("ctjax")

SKIPPING = "or data.on_bad_event=skip, which leaves such events out"
"""What an error of an event says besides."""


def main(
    arguments: Sequence[str], mode: ModeName | None = None, default: str = "default"
) -> int:
    """Runs what the command line asks for.

    Args:
      arguments: of the command line, without the program's name.
      mode: that the command stands for; None for the one of the configuration.
      default: name of the configuration where the command line names none.

    Returns:
      Exit status: 0; 1 after one line about what the user can mend; 75 where a signal
      or run.max_time has stopped a training that the same command goes on with.
    """
    standard_streams.open_closed()
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(describe.help_text("run"))
        return 0
    if "--version" in arguments:
        sys.stdout.write(f"{version.describe()}\n")
        return 0
    standard_streams.outlive_readers()
    started, processes = None, SINGLE_PROCESS
    try:
        config, notes = command_line.parse_config(arguments, mode, default)
        if config.run.distributed:
            started = launchers.find(os.environ)
        processes = join.start(config, started)
        with _taking_signals(config.mode.name, processes):
            run(config, processes, notes)
    except Interrupted:
        return stop_requests.STATUS
    except KeyboardInterrupt:
        return _end_after(UserError(command_line.INTERRUPTED), started, processes)
    except Exception as error:
        return _end_after(error, started, processes)
    return 0


def _taking_signals(
    mode: ModeName, processes: Processes
) -> contextlib.AbstractContextManager[None]:
    """Takes signals outside of the steps of a training, which take them themselves."""
    if mode is ModeName.TRAIN:
        return stop_requests.ending_at_once()
    if processes.count > 1:
        # One that waits for another would never get to an exception.
        return contextlib.nullcontext()
    return stop_requests.interrupting()


def run(
    config: Config,
    processes: Processes = SINGLE_PROCESS,
    notes: Sequence[str] = (),
    on_terminal: bool = True,
) -> Any:
    """Does what a configuration says: lock, log, run, report page.

    Args:
      config: of the run.
      processes: of the run, which have joined already.
      notes: lines for the log about words of the command line that have no effect.
      on_terminal: see `log.start_logging`.

    Returns:
      What the `run` of the mode's module returns.

    Raises:
      UserError: for what the user can mend.
      Interrupted: a signal or run.max_time has stopped a training.
    """
    moved = fresh.move_aside(config, processes)
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            stack.enter_context(lock.hold(config.output_dir))
        log.start_logging(config.output_dir, processes.index, on_terminal)
        stack.callback(log.stop_logging)
        log.log_launch_arguments()
        if moved is not None:
            logger.info("run.fresh=True: the former run is now in %s", moved)
        logger.info("Resolved configuration\n%s", describe.describe(config))
        if processes.is_first:
            # All have the same command line.
            for note in notes:
                logger.warning(note)
        run_record.log_missing_libraries(config.mode.name)
        if processes.is_first:
            if config.mode.name is ModeName.INFERENCE:
                older_results.set_aside(config.output_dir)
        is_kept = processes.is_first
        with run_record.keep(config) if is_kept else contextlib.nullcontext():
            # Imported late: the IO test needs neither jax nor a device.
            mode = importlib.import_module(f"ctjax.runs.{config.mode.name.value}")
            try:
                result = mode.run(config, processes)
            except Interrupted as stop:
                logger.warning("Stopped by %s", stop)
                raise
            except BadEventError as error:
                raise BadEventError(f"{error}; {SKIPPING}") from error
        if processes.is_first:
            report.write_after_run(config.output_dir)
    return result


def _end_after(error: Exception, started: Launch | None, processes: Processes) -> int:
    """Ends a run after an error: in one line, or with its traceback for a defect.

    Returns:
      Exit status of a run of one process; with several, the process ends here.
    """
    line = _line_for_the_user(error)
    if started is None or started.count == 1:
        if line is None or _may_be_lost_process(error):
            raise error
        sys.stderr.write(f"ctjax: error: {line}\n")
        logger.debug("ended by", exc_info=error)
        return 1
    words = line or f"a defect of ctjax\n{traceback.format_exc()}"
    if processes.count > 1 and _may_be_lost_process(error):
        liveness.call_roll(started.index, words)
    liveness.end_after_error(started.index, words)


def _line_for_the_user(error: Exception) -> str | None:
    """Returns one line where that says all; other errors keep their traceback."""
    message = command_line.one_line(error)
    if isinstance(error, command_line.MENDABLE):
        return message
    # XLA's allocator on CPUs raises it as a ValueError.
    if (_is_of_jax(error) or isinstance(error, ValueError)) and (
        "RESOURCE_EXHAUSTED" in message
    ):
        return (
            "the device's memory is too small: expected a smaller run.minibatch_size, "
            f"network or image (data.downsample): {message}"
        )
    return message if _may_be_lost_process(error) else None


def _may_be_lost_process(error: Exception) -> bool:
    """Says whether an error may come from the loss of another process."""
    return _is_of_jax(error) and "RESOURCE_EXHAUSTED" not in str(error)


def _is_of_jax(error: Exception) -> bool:
    """Says whether jax's runtime has raised an error, without importing jax."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(error, jax.errors.JaxRuntimeError)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
