"""Shows the progress of a long production on the standard error."""

import sys
import time

BAR_COLUMNS = 40
LINE_SECONDS = 10.0
"""Time between lines of progress where there is no terminal."""


class Progress:
    """Shows a bar on a terminal, and a line now and then elsewhere."""

    def __init__(self, name: str, total: int):
        """Takes what is made and how many events it will have."""
        self.name, self.total = name, total
        self.started = self.shown = time.monotonic()
        self.is_terminal = sys.stderr.isatty()

    def __call__(self, written: int) -> None:
        """Shows that `written` events are in the file."""
        now = time.monotonic()
        finished = written == self.total
        wait = 0.2 if self.is_terminal else LINE_SECONDS
        if not finished and now - self.shown < wait:
            return
        self.shown = now
        rate = written / max(now - self.started, 1e-9)
        text = f"{self.name}: {written}/{self.total} events, {rate:.1f} events/s"
        if self.is_terminal:
            filled = BAR_COLUMNS * written // self.total
            bar = "#" * filled + "." * (BAR_COLUMNS - filled)
            text = f"\r[{bar}] {text}" + ("\n" if finished else "")
        else:
            text += "\n"
        sys.stderr.write(text)
        sys.stderr.flush()
