"""Makes standard output and error fit to be written to, whoever reads them."""

import contextlib
import io
import os
import sys

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Names and modes, by descriptor."""


def open_closed() -> None:
    """Opens what is closed as /dev/null, and has every character written somehow.

    The next file that is opened would else have the number of a closed stream, and
    whatever libraries say there would go into that file.
    """
    for descriptor in range(len(STREAMS)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number, as those below are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, mode in STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    if _is_own("stdout"):
        # In a locale without UTF-8, and for names of files that are no text.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def outlive_readers() -> None:
    """Drops what cannot be written to standard output and error any more.

    For a run, whose log is in its folder as well: a closed terminal, or a pipe whose
    reader is gone, would end it.
    """
    for descriptor, (name, mode) in enumerate(STREAMS):
        if mode == "r" or not _is_own(name):
            continue
        stream = getattr(sys, name)
        with contextlib.suppress(OSError):
            stream.flush()
        lossy = io.BufferedWriter(_LossyFile(descriptor, "w", closefd=False))
        options = {"errors": "backslashreplace", "line_buffering": True}
        setattr(sys, name, io.TextIOWrapper(lossy, stream.encoding, **options))


def _is_own(name: str) -> bool:
    """Says whether a stream is the one that Python opened, and no one else's."""
    stream = getattr(sys, name)
    return isinstance(stream, io.TextIOWrapper) and stream is getattr(
        sys, f"__{name}__"
    )


class _LossyFile(io.FileIO):
    """A file that says it has written all, whether it could or not."""

    def write(self, data) -> int:
        """Writes, or drops the bytes."""
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes
