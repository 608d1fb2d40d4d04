"""Orders events for reading: pure functions of counts, seed and step."""

import functools
from collections.abc import Iterator

import numpy as np

PADDING = -1
"""Entry of a place in a minibatch that holds no event."""


def training_entries(
    num_events: int, minibatch_size: int, seed: int, step: int
) -> np.ndarray:
    """Returns one training minibatch's entries; every event comes once an epoch.

    Minibatches run over one permutation after another, so that one may straddle two
    epochs and nothing is dropped. Any step is found without the steps before it.

    Args:
      num_events: of the data set, >= 1.
      minibatch_size: global, >= 1.
      seed: >= 0.
      step: of the run, from 0.

    Returns:
      [B] int64.
    """
    first = step * minibatch_size
    positions = np.arange(first, first + minibatch_size)
    epochs = positions // num_events
    entries = np.empty(minibatch_size, np.int64)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        order = permutation(num_events, seed, epoch)
        entries[chosen] = order[positions[chosen] - epoch * num_events]
    return entries


@functools.lru_cache(maxsize=4)
def permutation(num_events: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation, the same under every version of numpy.

    numpy keeps the raw numbers of a bit generator, but not `Generator.permutation`.
    """
    raw = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    return np.argsort(raw.random_raw(num_events), kind="stable")


def local_entries(
    entries: np.ndarray,
    process: int,
    num_processes: int,
    num_devices: int = 1,
    accumulation: int = 1,
) -> np.ndarray:
    """Takes the part of a global minibatch that one process reads.

    Devices take consecutive parts, in order. Where gradients are accumulated, this
    holds for each of the minibatches of a step, so that which events make up one does
    not depend on the number of devices.

    Args:
      entries: [A x B] int64, the same in all processes.
      process: its number, from 0.
      num_processes: of the run.
      num_devices: of all processes, the same number each.
      accumulation: A, minibatches of a step.

    Returns:
      [A x B / num_processes] int64, device by device and then minibatch by minibatch.
    """
    dealt = entries.reshape(accumulation, num_devices, -1).transpose(1, 0, 2)
    return dealt.reshape(num_processes, -1)[process]


def sequential_entries(
    num_events: int, minibatch_size: int, start_index: int = 0
) -> Iterator[np.ndarray]:
    """Yields the entries in the file's order, each once.

    Args:
      num_events: of the data set.
      minibatch_size: B.
      start_index: first entry, >= 0.

    Yields:
      [B] int64, the last one filled up with -1.
    """
    for first in range(start_index, num_events, minibatch_size):
        entries = np.arange(first, first + minibatch_size)
        yield np.where(entries < num_events, entries, PADDING)


def wrapped_entries(
    num_events: int, minibatch_size: int, start_index: int = 0
) -> Iterator[np.ndarray]:
    """Yields entries in the file's order, starting over at its end, for ever.

    Args:
      num_events: of the data set.
      minibatch_size: B.
      start_index: first entry.

    Yields:
      [B] int64.
    """
    while True:
        yield (start_index + np.arange(minibatch_size)) % num_events
        start_index += minibatch_size
