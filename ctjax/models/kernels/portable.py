"""Says whether XLA alone computes what is traced, for programs that go elsewhere."""

import contextlib
import contextvars
from collections.abc import Iterator

_IS_WANTED = contextvars.ContextVar("is_portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Keeps the functions in C out of what is traced meanwhile."""
    token = _IS_WANTED.set(True)
    try:
        yield
    finally:
        _IS_WANTED.reset(token)


def is_wanted() -> bool:
    """Says whether a program is traced that may not call them."""
    return _IS_WANTED.get()
