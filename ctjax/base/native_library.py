"""Libraries in C that the installation may have built, and arrays handed to them."""

import ctypes
import dataclasses
import functools
import pathlib

import numpy as np
import numpy.typing as npt

from ctjax.base.source_hash import source_hash

PACKAGE = pathlib.Path(__file__).parents[1]
AGAIN = "expected pip install of ctjax with a C compiler"


@dataclasses.dataclass(frozen=True)
class Library:
    """A library in C.

    Attributes:
      work: what it does, in words.
      path: its path in the package, without the ending.
      replacement: what does the same where the library cannot be used.
    """

    work: str
    path: str
    replacement: str


READING = Library("reading", "data/_native", "numpy")
SIMULATION = Library("simulation", "simulation/_native", "numpy")
CONVOLUTIONS = Library("convolutions on the CPU", "models/kernels/_cpu", "XLA")
LIBRARIES = (READING, SIMULATION, CONVOLUTIONS)


def load(library: Library) -> ctypes.CDLL | None:
    """Opens a library.

    Returns:
      None where it cannot be used; `find_obstacle` says why.
    """
    return _open(PACKAGE / f"{library.path}.abi3.so")[0]


def find_obstacle(library: Library) -> str | None:
    """Says why a library cannot be used, None where it can."""
    obstacle = _open(PACKAGE / f"{library.path}.abi3.so")[1]
    return obstacle and f"{PACKAGE.name}/{library.path}.abi3.so {obstacle}"


@functools.cache
def _open(path: pathlib.Path) -> tuple[ctypes.CDLL | None, str | None]:
    """Opens a library that was built from the sources beside it and can run here."""
    if not path.exists():
        return None, f"is not built; {AGAIN}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"cannot be loaded ({error})"
    try:
        built_from = library.ctjax_source_hash
    except AttributeError:
        return None, f"is of another version; {AGAIN}"
    built_from.restype = ctypes.c_char_p
    if built_from().decode() != source_hash(path.parent):
        return None, f"was built from other sources; {AGAIN}"
    # Only a library that needs more than every processor has knows this function.
    if hasattr(library, "ctjax_runs_here") and not library.ctjax_runs_here():
        return None, "needs instructions that this processor lacks"
    return library, None


def address(
    array: np.ndarray | None, dtype: npt.DTypeLike, size: int | None = None
) -> int | None:
    """Where an array's numbers are, None (a null pointer) for no array.

    Args:
      array: to be handed to C, which trusts what it is told.
      dtype: that it must have.
      size: number of elements that it must have, if that is known.

    Raises:
      ValueError: for an array of another type or size, or not in one piece.
    """
    if array is None:
        return None
    if array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else " in another order"
        raise ValueError(
            f"expected {np.dtype(dtype)} in C order, got {array.dtype}{order}"
        )
    if size is not None and array.size != size:
        raise ValueError(f"expected {size} elements, got {array.size}")
    if array.size and array.flags.writeable:
        # Four times faster than `array.ctypes`, which matters for short arrays.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return array.ctypes.data
