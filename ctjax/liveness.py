"""What the processes of a run tell each other when one of them ends.

A process that is killed leaves the others in a collective operation that may never
end, or that fails without a name. They all look into the store of jax's runtime every
other second: there, one that ends knowingly says why, and one that has lost another
calls the roll, which names those that are gone.
"""

import logging
import os
import sys
import threading
import time
from typing import Any, NoReturn

POLL_S = 2
"""How often each process looks."""

ROLL_CALL_S = 6
"""How long those that are left have to answer; three looks."""

_ENDED = "ctjax/ended"
_ROLL = "ctjax/roll"
_PRESENT = "ctjax/present/"


def watch(index: int, count: int) -> None:
    """Starts the thread that ends this process soon after another one has ended.

    Args:
      index: number of this process.
      count: of processes, which have joined.
    """
    threading.Thread(target=_watch, args=(index, count), daemon=True).start()


def leave(index: int, words: str) -> NoReturn:
    """Ends this process after an error of its own, with status 1, and says so to all.

    At once: what jax and MPI do at the end of a process waits for the others.

    Args:
      index: number of this process.
      words: of the error, one line.
    """
    say(index, words)
    _set(_ENDED, f"rank {index}: {words}")
    # The first process keeps the store; the others must have looked before it goes.
    end(2 * POLL_S if index == 0 else 0)


def call_roll(index: int, words: str) -> NoReturn:
    """Has the watching thread find out who is gone, say so, and end this process.

    Args:
      index: number of this process.
      words: what told that another one is gone, one line.
    """
    if not _set(_ROLL, f"noticed by rank {index}: {words}"):
        leave(index, f"lost the first rank, where all meet: {words}")
    time.sleep(POLL_S + 2 * ROLL_CALL_S)
    leave(index, f"lost touch with the other ranks: {words}")


def say(index: int, words: str) -> None:
    """Writes the line for the user."""
    sys.stderr.write(f"ctjax: error: rank {index}: {words}\n")


def end(wait_s: float) -> NoReturn:
    """Ends the process with status 1, without a word to jax and MPI."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(wait_s)
    os._exit(1)


def _watch(index: int, count: int) -> None:
    while True:
        time.sleep(POLL_S)
        ended = _get(_ENDED)
        if ended is not None:
            say(index, f"ends because another one did: {ended}")
            end(2 * POLL_S if index == 0 else 0)
        reason = _get(_ROLL)
        if reason is not None:
            _set(f"{_PRESENT}{index}", "")
            time.sleep(ROLL_CALL_S)
            say(index, f"lost {_name_absent(count)} ({reason})")
            end(2 * POLL_S if index == 0 else 0)


def _name_absent(count: int) -> str:
    found = {key.rpartition("/")[2] for key, _ in _client().key_value_dir_get(_PRESENT)}
    absent = [str(n) for n in range(count) if str(n) not in found]
    if not absent:
        return "touch with the other ranks"
    shown = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
    return f"rank {shown}"


def _client() -> Any:
    from jax._src import distributed  # the runtime's store has no public name

    return distributed.global_state.client


def _set(key: str, value: str) -> bool:
    """Whether the store could be reached; the first value of a key stays."""
    try:
        _client().key_value_set(key, value)
    except Exception as error:
        return "ALREADY_EXISTS" in str(error)
    return True


def _get(key: str) -> str | None:
    try:
        return _client().key_value_try_get(key)
    except Exception:  # not there, or the first process is gone
        return None
