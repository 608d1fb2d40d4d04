"""Raises the one error of a larcv3 file, in one form of message."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NoReturn

from ctjax.base.errors import UserError


class LarcvFileError(UserError):
    """Says that a file cannot be read as what it claims to be.

    The message is one line: file, entry, product, dataset, what was found there and
    what was expected.
    """


class ChangedFileError(LarcvFileError):
    """Says that a file is not what it was when it was opened."""


class BadEventError(LarcvFileError):
    """Says what is wrong with one event: a run may go on without it."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Says where in a file something was found."""

    path: str
    product: str = ""
    dataset: str = ""
    entry: int | None = None

    def at(self, **changes) -> "Place":
        """Returns the same place with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        """Names file, entry, product and dataset, as far as they are known."""
        parts = [self.path]
        if self.entry is not None:
            parts.append(f"entry {self.entry}")
        if self.product:
            parts.append(f"product {self.product}")
        if self.dataset:
            parts.append(f"dataset {self.dataset}")
        return ", ".join(parts)

    def fail(self, found: str, expected: str) -> NoReturn:
        """Raises LarcvFileError with the place, the finding and the expectation."""
        raise LarcvFileError(f"{self}: found {found}, expected {expected}")


class BadEvents:
    """Takes what is wrong with single events of a file.

    Attributes:
      reasons: one line by event, of those that are to be skipped.
    """

    def __init__(self, are_skipped: bool):
        """Takes whether a bad event is noted; else it is an error at once."""
        self.are_skipped = are_skipped
        self.reasons: dict[int, str] = {}

    def add(self, entry: int, place: Place, found: str, expected: str) -> None:
        """Notes an event, by what is found first.

        Raises:
          BadEventError: events are not skipped.
        """
        try:
            place.at(entry=entry).fail(found, expected)
        except LarcvFileError as error:
            if not self.are_skipped:
                raise BadEventError(str(error)) from error
            self.reasons.setdefault(entry, str(error))

    def entries(self) -> list[int]:
        """Returns the events noted so far."""
        return sorted(self.reasons)


@contextlib.contextmanager
def as_larcv_error(place: Place, expected: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a library raise into LarcvFileError.

    h5py passes HDF5's errors on as OSError, KeyError, RuntimeError and others, numpy
    adds MemoryError and OverflowError, so that no narrower class would do.

    Raises:
      LarcvFileError: for every exception inside, which becomes its cause.
    """
    try:
        yield
    except LarcvFileError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        found = f"{type(error).__name__} ({lines[0]})"
        if isinstance(error, OSError) and error.filename is not None:
            found = str(error.strerror).lower()
        raise LarcvFileError(f"{place}: found {found}, expected {expected}") from error
