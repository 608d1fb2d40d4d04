"""Tells from the header of an HDF5 object whether its rows lie in the file itself.

The library cannot be asked: a damaged virtual table makes it loop for ever, or crash,
as soon as it is opened.

Source:
  HDF5 File Format Specification 3.0, sections IV.A.1 (object headers) and IV.A.2.
"""

import os
from collections.abc import Iterator

import h5py

EXTERNAL_FILES, LAYOUT, CONTINUATION = 0x0007, 0x0008, 0x0010
"""Types of header messages."""

VIRTUAL = 3
"""Class of a layout."""

MAX_CHUNK_BYTES = 2**24
"""Of a header, all parts; more is damage, and memory for it not asked for."""

MAX_CHUNKS = 2**12


def has_rows_elsewhere(file: h5py.File, address: int) -> bool:
    """Tells whether an object is a virtual table, or has its rows in other files.

    Args:
      file: that holds it, open for reading by its path.
      address: of its header, as a hard link has it.

    Raises:
      ValueError: the header is damaged.
      OSError: it cannot be read.
    """
    for kind, content in _messages(file, address):
        # Layouts before version 3 have no class of virtual tables.
        is_virtual = kind == LAYOUT and content[0] >= 3 and content[1] == VIRTUAL
        if is_virtual or kind == EXTERNAL_FILES:
            return True
    return False


def _messages(file: h5py.File, address: int) -> Iterator[tuple[int, bytes]]:
    """Yields type and content of the messages of a header, whatever its version."""
    begin = _read(file, address, 16)
    is_newer = begin[:4] == b"OHDR"
    if is_newer:
        flags = begin[5]
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        length = int.from_bytes(_read(file, address + start, width), "little")
        start, head = start + width, 6 if flags & 0x04 else 4
    else:
        start, length, head = 16, int.from_bytes(begin[8:12], "little"), 8
    offset_bytes, length_bytes = file.id.get_create_plist().get_sizes()
    chunks, total, seen = [(address + start, length)], 0, set()
    while chunks:
        at, size = chunks.pop()
        if at in seen:
            raise ValueError(f"a header with a part at byte {at} twice")
        seen.add(at)
        total += size
        if len(seen) > MAX_CHUNKS or total > MAX_CHUNK_BYTES:
            raise ValueError(f"a header of {len(seen)} parts and {total} bytes")
        for kind, content in _split(_read(file, at, size), head, is_newer):
            if kind == CONTINUATION:
                at = int.from_bytes(content[:offset_bytes], "little")
                rest = content[offset_bytes : offset_bytes + length_bytes]
                size = int.from_bytes(rest, "little")
                # Newer parts are between a signature and a checksum of 4 bytes each.
                chunks.append((at + 4, max(0, size - 8)) if is_newer else (at, size))
            else:
                yield kind, content


def _split(chunk: bytes, head: int, is_newer: bool) -> Iterator[tuple[int, bytes]]:
    """Takes the messages of a part of a header apart, each behind `head` bytes."""
    place, width = 0, 1 if is_newer else 2
    while place + head <= len(chunk):
        kind = int.from_bytes(chunk[place : place + width], "little")
        size = int.from_bytes(chunk[place + width : place + width + 2], "little")
        content = chunk[place + head : place + head + size]
        if len(content) < size or (kind == LAYOUT and size < 2):
            raise ValueError("a header with a message that is cut")
        yield kind, content
        place += head + size


def _read(file: h5py.File, address: int, size: int) -> bytes:
    """Reads bytes of a file at an address, which counts from behind a user block."""
    if size > MAX_CHUNK_BYTES or address >= 2**62:
        raise ValueError(f"a header of {size} bytes at byte {address}")
    content = os.pread(file.id.get_vfd_handle(), size, file.userblock_size + address)
    if len(content) < size:
        raise ValueError("a header beyond the end of the file")
    return content
