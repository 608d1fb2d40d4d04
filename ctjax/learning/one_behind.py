"""Keeps the device busy: looks at a step's results when the next step is under way."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Step = TypeVar("Step")


def one_behind(
    started: Iterable[Step], is_awaited: Callable[[Step], bool] = lambda step: False
) -> Iterator[Step]:
    """Hands out every step after the next one has been started.

    The results of a step that is handed out have had the time of a whole step to be
    computed, so that whoever fetches them does not keep the device waiting.

    Args:
      started: makes steps; the next one is started when it is asked for.
      is_awaited: whether a step is handed out at once, before the next one is started.

    Yields:
      The steps in their order, the last one when there is no next one.
    """
    waiting: list[Step] = []
    for step in started:
        yield from waiting
        waiting = [step]
        if is_awaited(step):
            yield step
            waiting = []
    yield from waiting
