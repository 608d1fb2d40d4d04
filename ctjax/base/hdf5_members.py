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


def find(group: h5py.Group, name: str | bytes) -> Any:
    """Finds a group or a table in a group; links within the file are followed.

    Args:
      group: to look in, of a file that was opened by its path.
      name: of the member, one part of a path; bytes where it is no UTF-8.

    Returns:
      The h5py object; None where there is none of this name.

    Raises:
      OutsideError: it lies in another file, as far as its rows, or nowhere.
      ValueError, OSError: it cannot be opened.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"no group with {name}")
    first = name.encode() if isinstance(name, str) else name
    if not group.id.links.exists(first):
        return None
    file, member, names, followed = group.file, group, [first], 0
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
    group: h5py.Group, *, refuse_others: bool = True
) -> Iterator[tuple[str, h5py.Dataset]]:
    r"""Yields each table below a group once, by the first of its paths, in their order.

    Soft links are passed over: what they lead to in the file has a hard link, too.
    Bytes of a name that are no UTF-8 are written as `\xff`.

    Args:
      group: to begin with.
      refuse_others: whether links to other files are errors; else they are passed over.

    Raises:
      OutsideError, ValueError, OSError: see `find`; the first names the member.
    """
    library: Any = h5py  # whose stubs lack h5o
    seen = {library.h5o.get_info(group.id).addr}
    waiting = _members(group, "")
    while waiting:
        parent, name, path = waiting.pop()
        link = parent.id.links.get_info(name)
        if link.type == SOFT or (link.type != HARD and not refuse_others):
            continue
        if link.type == HARD and link.u in seen:
            continue
        try:
            member = find(parent, name)
        except OutsideError as error:
            raise OutsideError(f"{error} at {path}") from error
        # Another link that was found leads to this file itself, as a soft one does.
        if link.type != HARD:
            continue
        seen.add(link.u)
        if isinstance(member, h5py.Dataset):
            yield path, member
        elif isinstance(member, h5py.Group):
            waiting += _members(member, f"{path}/")


def _members(group: h5py.Group, prefix: str) -> list[tuple[h5py.Group, bytes, str]]:
    """Lists the members of a group by name and path, the last one first."""
    names = sorted(group.id, reverse=True)
    return [(group, name, prefix + _text(name)) for name in names]


def _text(name: bytes) -> str:
    """Returns a name as text, whatever its bytes."""
    return name.decode("utf-8", "backslashreplace")


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
        raise OutsideError(f"a link to {_text(os.fsencode(name))}")
    return b"/" + path
