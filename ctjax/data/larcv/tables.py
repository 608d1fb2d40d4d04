"""Opens and checks tables of a larcv3 file: one-dimensional, of named members.

HDF5 gives a damaged type or layout the benefit of the doubt and delivers numbers;
here whatever is not a plain table of numbers with every row stored is refused, and so
is what lies in another file: rows are read from this one.
"""

from typing import Any, NamedTuple

import h5py
import numpy as np

from ctjax.base import hdf5_members
from ctjax.data.larcv.chunks import RowReader
from ctjax.data.larcv.errors import Place, as_larcv_error

INTEGER_MEMBERS = frozenset(
    "first N ID projection_id number_of_voxels id run subrun event valid".split()
)

COUNTS = frozenset(("first", "N", "number_of_voxels"))
"""Members that are never negative, whatever their type."""

MAX_COUNT = 2**62
"""Larger numbers are larcv3's marks for unset (2^64 - 1, 2^63 - 1) or damage."""


MAX_ROWS = 2**26
"""Most rows of an index table, which is read whole: 22 million events."""


class OpenMode(NamedTuple):
    """Says how a file was opened.

    Attributes:
      descriptor: of the file, for reading.
      raw_chunks: whether chunks may be read past the library.
      strict: whether to refuse what larcv3 reads but would not write.
    """

    descriptor: int
    raw_chunks: bool
    strict: bool


def find_member(group: h5py.Group, name: str, place: Place) -> Any:
    """Finds a group or a table in a group of the same file.

    Args:
      group: to look in.
      name: of the member.
      place: of the member, for errors.

    Returns:
      The h5py object; None where there is none of this name.

    Raises:
      LarcvFileError: a link leads to another file, or nowhere; it is a virtual table,
        or one whose rows lie in another file.
    """
    expected = f"{name} in this file"
    with as_larcv_error(place, expected):
        try:
            return hdf5_members.find(group, name)
        except hdf5_members.OutsideError as error:
            place.fail(str(error), expected)


def open_table(group: h5py.Group, name: str, members: tuple, place: Place):
    """Opens a table and checks the type and place of the members asked for.

    Args:
      group: that holds the table.
      name: of the table.
      members: names that must be there; others are ignored.
      place: of the group, for errors.

    Returns:
      The h5py dataset.

    Raises:
      LarcvFileError: where the table is absent or of another form.
    """
    place = place.at(dataset=name)
    with as_larcv_error(place, "a readable table"):
        table = find_member(group, name, place)
        if table is None:
            place.fail("nothing", f"a table with {', '.join(members)}")
        if not isinstance(table, h5py.Dataset):
            place.fail("a group", "a table")
        names = table.dtype.names
        if table.ndim != 1 or names is None:
            found = f"{table.ndim} dimensions of type {table.dtype}"
            place.fail(found, f"one dimension with members {', '.join(members)}")
        for member in members:
            if member not in names:
                place.fail(f"members {', '.join(names)}", f"a member {member}")
            _check_member(table, member, place)
        _check_layout(table.dtype, place)
        return table


def read_table(
    group: h5py.Group,
    name: str,
    members: tuple,
    place: Place,
    mode: OpenMode,
    optional: tuple = (),
) -> dict[str, np.ndarray]:
    """Reads members of an index table whole.

    Args:
      group: that holds the table.
      name: of the table.
      members: integer members.
      place: of the group, for errors.
      mode: how the file was opened.
      optional: pairs of floating point numbers.

    Returns:
      [rows, ...] int64 for each member, and [rows, 2] float64 for each optional one
      that the table has.

    Raises:
      LarcvFileError: where the table is absent, of another form or not all there.
    """
    table = open_table(group, name, members, place)
    place = place.at(dataset=name)
    if table.shape[0] > MAX_ROWS:
        place.fail(f"{table.shape[0]} rows", f"at most {MAX_ROWS}")
    with as_larcv_error(place, "readable rows"):
        reader = RowReader(table, mode.descriptor, place, raw_chunks=mode.raw_chunks)
        rows = reader.read(0, reader.num_rows)
    columns = {}
    for member in members:
        column = rows[member]
        columns[member] = numbers = column.astype(np.int64)
        wrong = np.zeros(column.shape, bool)
        if column.dtype.kind == "u":
            wrong |= column > MAX_COUNT
        if member in COUNTS:
            wrong |= (numbers < 0) | (numbers > MAX_COUNT)
        if wrong.any():
            row = int(np.argwhere(wrong)[0, 0])
            place.fail(f"{member} = {column[row]} in row {row}", "a count or index")
    for member in optional:
        if member in rows.dtype.names and _is_pair_of_floats(rows.dtype[member]):
            columns[member] = rows[member].astype(np.float64)
    return columns


def _is_pair_of_floats(item: np.dtype) -> bool:
    return item.base.kind == "f" and item.shape == (2,)


def _check_member(table: h5py.Dataset, member: str, place: Place) -> None:
    """Refuses kinds of numbers that do not fit, and any that numpy cannot express."""
    item = table.dtype[member]
    base = item.base
    kinds = "iub" if member in INTEGER_MEMBERS else "f"
    shape = (2,) if member == "number_of_voxels" else ()
    if base.kind not in kinds or item.shape != shape:
        kind = "integers" if member in INTEGER_MEMBERS else "floating point numbers"
        place.fail(f"{member} of type {item}", f"{kind} of shape {shape}")
    file_type = table.id.get_type()
    stored = file_type.get_member_type(file_type.get_member_index(member.encode()))
    if isinstance(stored, h5py.h5t.TypeArrayID):
        stored = stored.get_super()
    if isinstance(stored, h5py.h5t.TypeEnumID):
        stored = stored.get_super()
        base = stored.dtype
    # A type with, say, a shifted exponent would be converted into wrong numbers.
    if not stored.equal(h5py.h5t.py_create(base)):
        place.fail(f"{member} of a type other than {base}", "a native number type")


def _check_layout(dtype: np.dtype, place: Place) -> None:
    """Refuses members at offsets that no compiler and no packed record has.

    A damaged offset would otherwise read padding, which is zero, as values.
    """
    fields = sorted((field[1], field[0]) for field in (dtype.fields or {}).values())
    end = 0
    orders = set()
    for offset, item in fields:
        alignment = max(1, min(item.base.itemsize, 8))
        aligned = -(-end // alignment) * alignment
        if offset not in (end, aligned):
            place.fail(f"a member at byte {offset}", f"byte {end} or {aligned}")
        end = offset + item.itemsize
        if item.base.itemsize > 1 and item.base.kind in "iuf":
            orders.add(item.base.newbyteorder("=") == item.base)
    if len(orders) > 1:
        place.fail("members of both byte orders", "one byte order")
