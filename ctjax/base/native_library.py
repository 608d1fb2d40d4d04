"""Libraries in C that the installation may have built, and arrays handed to them."""

import ctypes
import pathlib

import numpy as np
import numpy.typing as npt


def load(module_file: str, name: str, version: int, function: str = "ctjax_version"):
    """Opens the library that lies beside a module.

    Args:
      module_file: the module's `__file__`.
      name: of the library, without the ending.
      version: a library built from another one is not used.
      function: of the library, gives its version.

    Returns:
      The `ctypes.CDLL`, or None where the installation has built none of this version.
    """
    path = pathlib.Path(module_file).with_name(f"{name}.abi3.so")
    try:
        library = ctypes.CDLL(str(path))
        return library if getattr(library, function)() == version else None
    except (OSError, AttributeError):
        return None


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
