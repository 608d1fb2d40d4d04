"""Opens groups and tables of an HDF5 file that lie in the file itself, and no others.

The library follows links into other files, and reads virtual tables from there; where
such a file is a FIFO it waits for ever. Here links are followed one by one, and a
member's header is looked at before the library opens it.
"""

import os
from collections.abc import Iterator
from typing import Any

import h5py

from ctjax.base import hdf5_headers

HARD, SOFT, EXTERNAL = 0, 1, 64
"""Kinds of links, as HDF5 numbers them."""

MAX_LINKS = 16
"""Soft links on the way to a member, as HDF5 itself has it."""


class OutsideError(ValueError):
    """Says what leads out of a file, or nowhere: `a link to other.h5`."""


def find(group: h5py.Group, name: str) -> Any:
    """Finds a group or a table in a group; links within the file are followed.

    Args:
      group: to look in, of a file that was opened by its path.
      name: of the member, one part of a path.

    Returns:
      The h5py object; None where there is none of this name.

    Raises:
      OutsideError: it lies in another file, as far as its rows, or nowhere.
      ValueError, OSError: it cannot be opened.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"no group with {name}")
    if not group.id.links.exists(name.encode()):
        return None
    file, member, names, followed = group.file, group, [name.encode()], 0
    while names:
        link = names.pop(0)
        if not isinstance(member, h5py.Group) or not member.id.links.exists(link):
            raise OutsideError("a link to nowhere")
        info = member.id.links.get_info(link)
        if info.type == HARD:
            if hdf5_headers.has_rows_elsewhere(file, info.u):
                raise OutsideError("rows outside this file")
            member = member[link]
            continue
        followed += 1
        if followed > MAX_LINKS:
            raise OutsideError(f"more than {MAX_LINKS} links")
        path = _path_within(file, member, link, info.type)
        if path.startswith(b"/"):
            member = file["/"]
        names[:0] = [part for part in path.split(b"/") if part not in (b"", b".")]
    return member


def walk(
    group: h5py.Group, prefix: str = "", above: tuple[h5py.Group, ...] = ()
) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields all tables below a group with their paths, in the order of these.

    Args:
      group: to begin with.
      prefix: of the paths.
      above: groups that this one is in.

    Raises:
      OutsideError, ValueError, OSError: see `find`; the first names the member.
    """
    for name in sorted(group):
        path = f"{prefix}{name}"
        try:
            member = find(group, name)
        except OutsideError as error:
            raise OutsideError(f"{error} at {path}") from error
        if isinstance(member, h5py.Dataset):
            yield path, member
        elif isinstance(member, h5py.Group):
            if member in (*above, group):
                raise OutsideError(f"a group within itself at {path}")
            yield from walk(member, f"{path}/", (*above, group))


def _path_within(file: h5py.File, group: h5py.Group, link: bytes, kind: int) -> bytes:
    """Returns where a link leads within its file."""
    value = group.id.links.get_val(link)
    if kind == SOFT:
        return value
    if kind != EXTERNAL:
        raise OutsideError("a link of an unknown kind")
    # A file may also name itself.
    name, path = os.fsdecode(value[0]), value[1]
    own = os.path.abspath(file.filename)
    other = os.path.join(os.path.dirname(own), name)
    if not os.path.exists(other) or not os.path.samefile(own, other):
        raise OutsideError(f"a link to {name}")
    return b"/" + path
