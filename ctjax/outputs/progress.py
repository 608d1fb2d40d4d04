"""Shows a progress bar on a terminal."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

from ctjax.processes import launchers

logger = logging.getLogger("ctjax")


@contextlib.contextmanager
def progress(
    kind: str, done: int, total: int, images_per_step: int
) -> Iterator[Callable[[int], None]]:
    """Shows a bar with images per second and the time left, on a terminal only.

    Lines of the log go on above it. In a file, a pipe or under mpirun they are all.

    Args:
      kind: what is under way.
      done: steps done before.
      total: steps in the end.
      images_per_step: events of a step.

    Yields:
      A function to be called with the number of steps done.
    """
    # Some launchers give each rank what looks like a terminal.
    if launchers.is_launched() or not sys.stdout.isatty():
        yield lambda now_done: None
        return
    from rich import console, progress  # not for those who see no bar

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(compact=True),
        progress.TextColumn("left"),
    )
    screen = console.Console(file=sys.stdout, highlight=False)
    with progress.Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(kind, total=total, completed=done, rate="")

        def advance(now_done: int) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed * images_per_step:.3g} images/s" if speed else ""
            bar.update(task, completed=now_done, rate=rate)

        yield advance
