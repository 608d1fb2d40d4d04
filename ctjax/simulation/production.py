"""Writes many events into one file, made by several processes, in order."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator

from ctjax.base.errors import UserError
from ctjax.simulation.events import Event, Simulator
from ctjax.simulation.geometry import make_geometry
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters
from ctjax.simulation.truth import event_products, open_writer

EVENTS_PER_TASK = 4
"""Events that a worker makes at a time: long against the passing of messages."""

TASKS_AHEAD = 3
"""Tasks per worker that may be finished but not yet written; bounds the memory."""

LARGEST_NUMBER = 2**62

_simulators: dict[SimulationParameters, Simulator] = {}


def write_events(
    path: str | os.PathLike,
    parameters: SimulationParameters,
    seed: int,
    events: int,
    first_event: int = 0,
    workers: int = 1,
    report: Callable[[int], None] = lambda written: None,
) -> None:
    """Simulates events into a new larcv3 file; the same file for any `workers`.

    Args:
      path: file to make.
      parameters: the simulation's constants.
      seed: non-negative integer.
      events: how many.
      first_event: number of the first event.
      workers: processes; 1 works in this one.
      report: called with the events written so far.

    Raises:
      UserError: a number or the image shape is out of range.
      FileExistsError: the output exists already.
      OSError: the file cannot be written.
    """
    for name, value, least in (
        ("events", events, 1),
        ("seed", seed, 0),
        ("first_event", first_event, 0),
        ("workers", workers, 1),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
        # Seed and number are kept in the file as 64-bit integers.
        if value >= LARGEST_NUMBER:
            raise UserError(f"{name} must be below {LARGEST_NUMBER}, got {value}")
    geometry = make_geometry(parameters)
    numbers = range(first_event, first_event + events)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(open_writer(path, geometry))
        made = _made_events(parameters, seed, numbers, min(workers, events))
        stack.callback(made.close)
        for written, event in enumerate(made, start=1):
            writer.append(
                (seed, GENERATOR_VERSION, event.number),
                **event_products(parameters, geometry, event),
            )
            report(written)


def _made_events(
    parameters: SimulationParameters, seed: int, numbers: range, workers: int
) -> Generator[Event, None, None]:
    """Yields events in order, made here or by worker processes."""
    tasks = (
        numbers[begin : begin + EVENTS_PER_TASK]
        for begin in range(0, len(numbers), EVENTS_PER_TASK)
    )
    if workers == 1:
        for task in tasks:
            yield from _make(parameters, seed, task)
        return
    # Spawned: a fork of a process with jax's threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_end_with_parent
    )
    try:
        waiting = collections.deque(
            pool.submit(_make, parameters, seed, task)
            for task in itertools.islice(tasks, workers * TASKS_AHEAD)
        )
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(
                pool.submit(_make, parameters, seed, task)
                for task in itertools.islice(tasks, 1)
            )
            yield from made
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Lets a worker end when its parent is killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()

    def wait():
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _make(parameters: SimulationParameters, seed: int, numbers: range) -> list[Event]:
    """Makes some events, keeping the simulator of this process."""
    if parameters not in _simulators:
        _simulators.clear()
        _simulators[parameters] = Simulator(parameters)
    return [_simulators[parameters].event(seed, number) for number in numbers]
