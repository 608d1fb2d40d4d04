"""Ends all processes of a run soon after one of them has ended, and says which.

A process that is killed leaves the others in a collective operation that may never
end, or that fails without a name. All look into a common store every other second:
there, one that ends knowingly says why, and one that has lost another calls the roll,
which names those that are gone. They also leave a sign of life there: a host without
power or network ends no connection, and is noticed by its silence.
"""

import contextlib
import ctypes
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ctjax.processes import store

logger = logging.getLogger("ctjax")

POLL_S = 2
"""How often each process looks."""

ROLL_CALL_S = 6
"""How long those that are left have to answer; three looks."""

SILENT_LOOKS = 10
"""After so many looks without a sign of life a process is lost: before jaxlib's runtime
notices, which aborts all that are left (`join.HEARTBEAT_TIMEOUT_S`)."""

_has_ended = threading.Event()  # this process; see `join`
_kept: list[Any] = []  # what C++ may call must not be collected

_ENDED = "ctjax/ended"
_ROLL = "ctjax/roll"
_PRESENT = "ctjax/present/"
_ALIVE = "ctjax/alive/"


def watch(index: int, count: int) -> None:
    """Starts the threads that end this process soon after another one has ended.

    Args:
      index: number of this process.
      count: of processes, which have joined.
    """
    replace_abort(lambda: call_roll(index, "its connections were broken off"))
    answered = threading.Event()
    for target, arguments in (
        (_watch, (index, count, answered)),
        (_expect_answers, (index, answered)),
    ):
        threading.Thread(
            target=target, args=arguments, name=target.__name__, daemon=True
        ).start()


def join() -> None:
    """Waits for the watching thread to end; to be called after jax's own end.

    A thread that is in jaxlib's code when Python ends makes the process abort.
    """
    _has_ended.set()
    for thread in threading.enumerate():
        if thread.name == _watch.__name__:
            thread.join(ROLL_CALL_S)


def end_after_error(index: int, words: str) -> NoReturn:
    """Ends this process after an error of its own, with status 1, and says so to all.

    At once: what jax and MPI do at the end of a process waits for the others.

    Args:
      index: number of this process.
      words: of the error, one line.
    """
    say(index, words)
    store.put(_ENDED, f"rank {index}: {words}")
    # The first process keeps the store; the others must have looked before it goes.
    end(2 * POLL_S if index == 0 else 0)


def call_roll(index: int, words: str) -> NoReturn:
    """Makes the watching thread find out who is gone, say so, and end this process.

    Args:
      index: number of this process.
      words: how it was noticed that another one is gone, one line.
    """
    if not store.put(_ROLL, f"noticed by rank {index}: {words}"):
        end_after_error(index, f"lost the first rank, where all meet: {words}")
    time.sleep(POLL_S + 2 * ROLL_CALL_S)
    end_after_error(index, f"lost touch with the other ranks: {words}")


def say(index: int, words: str) -> None:
    """Writes the line for the user, and into process.log where this process has one."""
    # The launcher, which reads what is written, may be gone too.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"ctjax: error: rank {index}: {words}\n")
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(
                logger.makeRecord(
                    *(logger.name, logging.ERROR, __file__, 0),
                    *("rank %d: %s", (index, words), None),
                )
            )


def end(wait_s: float) -> NoReturn:
    """Ends the process with status 1, without a word to jax and MPI."""
    logging.shutdown()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    time.sleep(wait_s)
    os._exit(1)


def replace_abort(function: Callable[[], NoReturn]) -> None:
    """Has C++ call a function where an exception that nobody catches would abort.

    A thread of gloo, which connects processes on CPUs, throws when a peer that is
    ending answers out of turn. The abort would come before anybody has found out who
    was lost.

    Args:
      function: ends the process; must not return.
    """
    with contextlib.suppress(OSError, AttributeError):  # no such library: as it was
        set_terminate = ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE
        _kept.append(ctypes.CFUNCTYPE(None)(function))
        set_terminate(_kept[-1])


def _watch(index: int, count: int, answered: threading.Event) -> None:
    signs = dict.fromkeys(range(count), "")
    looks = dict.fromkeys(range(count), 0)
    for number in itertools.count():
        if _has_ended.wait(POLL_S):
            return
        # Without a store, jax's part of this process has ended in good order.
        sign = f"{_ALIVE}{index}", str(number)
        if not store.is_open() or store.put(*sign, overwrite=True):
            answered.set()
        ended = store.get(_ENDED)
        if ended is not None:
            say(index, f"ends because another one did: {ended}")
            end(2 * POLL_S if index == 0 else 0)
        reason = store.get(_ROLL)
        if reason is not None:
            store.put(f"{_PRESENT}{index}", "")
            time.sleep(ROLL_CALL_S)
            absent = set(range(count)) - set(store.get_all(_PRESENT))
            lost = _name_ranks(absent) if absent else "touch with the other ranks"
            say(index, f"lost {lost} ({reason})")
            end(2 * POLL_S if index == 0 else 0)
        if index == 0:
            silent = _count_looks(signs, looks)
            if silent:
                seconds = SILENT_LOOKS * POLL_S
                end_after_error(
                    0, f"lost {_name_ranks(silent)} (no sign of life for {seconds} s)"
                )


def _count_looks(signs: dict[int, str], looks: dict[int, int]) -> set[int]:
    """Compares each rank's sign of life with that of the look before.

    Looks are counted, not seconds: this process may have been stopped itself.

    Args:
      signs: of the ranks; the new ones are set.
      looks: how many in a row saw the same sign; counted on.

    Returns:
      The ranks that have been silent for too long.
    """
    new = store.get_all(_ALIVE)
    for rank, sign in signs.items():
        looks[rank] = looks[rank] + 1 if new.get(rank, "") == sign else 0
    signs.update(new)
    return {rank for rank, count in looks.items() if count >= SILENT_LOOKS}


def _expect_answers(index: int, answered: threading.Event) -> None:
    """Ends a process that has lost the first one, whose calls may never return."""
    seconds = SILENT_LOOKS * POLL_S
    # The second wait is for a process that was stopped itself, and has just gone on.
    while answered.wait(seconds) or answered.wait(2 * POLL_S):
        answered.clear()
    say(index, f"lost rank 0, where all meet (no answer for {seconds} s)")
    end(0)


def _name_ranks(ranks: set[int]) -> str:
    shown = ", ".join(str(rank) for rank in sorted(ranks)[:10])
    return f"rank {shown}" + (", ..." if len(ranks) > 10 else "")
