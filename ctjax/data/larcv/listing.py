"""Lists what a larcv3 file holds, also one that nobody could train on.

Whatever is wrong is noted where it is found, and the reading goes on. What images hold
is in `listed_images`.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import h5py
import numpy as np

from ctjax.base import regular_files
from ctjax.data.larcv import listed_images
from ctjax.data.larcv.errors import Place, as_larcv_error
from ctjax.data.larcv.listed_images import Images
from ctjax.data.larcv.listed_rows import noting
from ctjax.data.larcv.products import KINDS, split_name
from ctjax.data.larcv.tables import OpenMode, find_member, read_table

UNSET_IDS = (-1, 2**63 - 1)
"""What event ids hold that were never set."""

MAX_SAMPLE = 2**22
"""Voxels of a file that are looked at, shared by its sparse2d products."""

MAX_PRODUCTS = 200
"""No writer makes more; of a damaged file so many are listed."""


@dataclasses.dataclass(frozen=True)
class Product:
    """Says what one group under `Data` holds.

    Attributes:
      kind: one of `KINDS`; "" of a group that is no product.
      name: the producer; of no product the name of the group.
      num_events: rows of `extents`; None where it cannot be read.
      rows: of every table, by name.
      images: of a sparse2d product, as far as they can be read.
      problems: a line each.
    """

    kind: str
    name: str
    num_events: int | None
    rows: dict[str, int]
    images: Images | None
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Listing:
    """Says what a file holds.

    Attributes:
      path: as given.
      num_bytes: size of the file.
      num_events: rows of the event table; None where it cannot be read.
      event_ids: lowest and highest of run, subrun and event; None where never set.
      products: those of sparse2d first.
      problems: a line each, of the file itself.
    """

    path: str
    num_bytes: int
    num_events: int | None
    event_ids: dict[str, tuple[int, int] | None]
    products: tuple[Product, ...]
    problems: tuple[str, ...]


def read(path: str) -> Listing:
    """Lists what a file holds.

    Args:
      path: of the file.

    Raises:
      LarcvFileError: for a file that is absent, unreadable, or no larcv3 file at all.
    """
    place = Place(path)
    problems: list[str] = []
    with _opened(path, place) as (file, mode):
        events = data = None
        with noting(problems, place):
            events = find_member(file, "Events", place)
        with noting(problems, place):
            data = find_member(file, "Data", place)
        if not isinstance(events, h5py.Group) and not isinstance(data, h5py.Group):
            place.fail("others", "groups Events and Data")
        ids = _read_event_ids(events, place, mode, problems)
        num_events = None if ids is None else len(ids["event"])
        products = _read_products(data, num_events, place, mode, problems)
        num_bytes = os.fstat(mode.descriptor).st_size
    spans = {} if ids is None else {name: _span(ids[name]) for name in ids}
    return Listing(path, num_bytes, num_events, spans, products, tuple(problems))


@contextlib.contextmanager
def _opened(path: str, place: Place) -> Iterator[tuple[h5py.File, OpenMode]]:
    with as_larcv_error(place, "a readable file"):
        # A FIFO that nobody writes would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = regular_files.other_kind(os.fstat(descriptor))
        if kind is not None:
            place.fail(kind, "a regular file")
        with as_larcv_error(place, "an HDF5 file"):
            file = h5py.File(path, "r", locking="best-effort")
        try:
            yield file, OpenMode(descriptor, True, False)
        finally:
            file.close()
    finally:
        os.close(descriptor)


def _read_event_ids(
    events: h5py.Group | None, place: Place, mode: OpenMode, problems: list[str]
) -> dict[str, np.ndarray] | None:
    if not isinstance(events, h5py.Group):
        problems.append("found no group Events, expected one with a table event_id")
        return None
    table = None
    with noting(problems, place):
        names = ("run", "subrun", "event")
        table = read_table(events, "event_id", names, place, mode)
    if table is not None and not len(table["event"]):
        problems.append("dataset event_id: found no events, expected at least one")
    return table


def _span(numbers: np.ndarray) -> tuple[int, int] | None:
    set_numbers = numbers[~np.isin(numbers, UNSET_IDS)]
    if not set_numbers.size:
        return None
    return int(set_numbers.min()), int(set_numbers.max())


def _read_products(
    data: h5py.Group | None,
    num_events: int | None,
    place: Place,
    mode: OpenMode,
    problems: list[str],
) -> tuple[Product, ...]:
    names: list[str] = []
    if isinstance(data, h5py.Group):
        with noting(problems, place):
            names = sorted(data)
    else:
        problems.append("found no group Data, expected one with the products")
    if len(names) > MAX_PRODUCTS:
        problems.append(f"found {len(names)} groups, expected at most {MAX_PRODUCTS}")
        del names[MAX_PRODUCTS:]
    num_images = sum(name.startswith("sparse2d_") for name in names)
    max_sample = MAX_SAMPLE // max(1, num_images)
    products = [
        _read_product(data, name, num_events, max_sample, place, mode)
        for name in names
        if data is not None
    ]
    order = {kind: number for number, kind in enumerate((*KINDS, ""))}
    return tuple(sorted(products, key=lambda product: order[product.kind]))


def _read_product(
    data: h5py.Group,
    name: str,
    num_events: int | None,
    max_sample: int,
    place: Place,
    mode: OpenMode,
) -> Product:
    kind, producer = split_name(name)
    problems: list[str] = []
    group = None
    with noting(problems, place):
        group = find_member(data, name, place)
    rows: dict[str, int] = {}
    if isinstance(group, h5py.Group):
        with noting(problems, place):
            for table in sorted(group):
                with noting(problems, place):
                    found = find_member(group, table, place.at(dataset=table))
                    if isinstance(found, h5py.Dataset):
                        rows[table] = len(found) if found.ndim else 1
    elif not problems:
        problems.append("found a dataset, expected a group")
    length = rows.get("extents")
    if kind and None not in (length, num_events) and length != num_events:
        problems.append(
            f"dataset extents: found {length} rows, expected {num_events}, the number "
            "of events"
        )
    images = None
    if kind == "sparse2d" and isinstance(group, h5py.Group):
        with noting(problems, place):
            images = listed_images.read(group, max_sample, place, mode, problems)
    unique = tuple(dict.fromkeys(problems))
    return Product(kind, producer, length, rows, images, unique)
