"""Rewrites a larcv3 file with one chunk per event of each sparse2d product.

larcv3 stores chunks of 1000 voxels, some 60 an event and product, each to be found,
fetched and inflated by itself. Here every event begins with a chunk of its own, large
enough for the largest; the rows left over are zeros, which no event uses. larcv3
reads such files: it goes by `first` of an event and by the counts.
"""

import logging
import math
import os
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from ctjax.base import hdf5_members, regular_files
from ctjax.data.larcv.disk_file import DiskFile
from ctjax.data.larcv.errors import LarcvFileError, Place, as_larcv_error
from ctjax.data.larcv.file import LarcvFile
from ctjax.data.larcv.products import group_name, split_name
from ctjax.data.larcv.records import EXTENTS, ID_EXTENTS, VOXEL
from ctjax.data.larcv.tables import find_member

logger = logging.getLogger("ctjax")

FILTERS = {
    "gzip": {"compression": "gzip"},
    "shuffle": {"compression": "gzip", "shuffle": True},
    "none": {},
}
"""Those that plain HDF5, and so larcv3, can undo."""

INDEX_CHUNK = 16384
"""Rows of a chunk of an index table."""


def repack(source: str, target: str, *, filter_name: str = "gzip", level: int = 1):
    """Writes the events of a file with one chunk an event, and compares them after.

    The target appears under its name only when it is complete and verified. Products
    that are not sparse2d are copied as they are, soft links as links.

    Args:
      source: larcv3 file.
      target: file to write; must not exist.
      filter_name: of the voxels, a key of FILTERS.
      level: of gzip, 1 to 9; no meaning without.

    Raises:
      FileExistsError: where the target exists.
      UserError: another process writes it.
      LarcvFileError: where the source cannot be read, or the copy differs.
      OSError: the target cannot be written.
    """
    _refuse_existing(target)
    filters = dict(FILTERS[filter_name])
    if "compression" in filters:
        filters["compression_opts"] = level
    products = _find_products(source)
    with DiskFile(target) as disk:
        try:
            with h5py.File(source, "r") as old, h5py.File(disk, "w") as new:
                _copy_others(old, new, products)
                for product, planes in products.items():
                    with _open(source, product, planes) as events:
                        _write_product(events, product, old, new, filters)
                    new.flush()
                    disk.check(target)
                num_events = len(np.asarray(new["Events/event_id"]))
            disk.check(target)
            os.fsync(disk.fileno())
            disk.share()
            _compare(source, disk.path, products, target)
            _refuse_existing(target)
            os.replace(disk.path, target)
        except BaseException:
            os.unlink(disk.path)
            raise
    logger.info(
        "%s: %d events, %.1f MB; was %.1f MB",
        target,
        num_events,
        os.path.getsize(target) / 1e6,
        os.path.getsize(source) / 1e6,
    )


def _refuse_existing(target: str) -> None:
    if os.path.lexists(target):
        raise FileExistsError(f"{target}: found a file, expected none to write over")


def _find_products(source: str) -> dict[str, tuple[int, ...] | None]:
    """Lists the sparse2d products of a file, in the order of their names.

    Returns:
      By producer the projection ids of an event's images, see `_named_planes`.

    Raises:
      LarcvFileError: where the file cannot be read, or has no such product.
    """
    place = Place(source)
    found: dict[str, tuple[int, ...] | None] = {}
    with as_larcv_error(place, "a readable file"):
        kind = regular_files.other_kind(os.stat(source))
        if kind is not None:
            place.fail(kind, "a regular file")
    with as_larcv_error(place, "an HDF5 file"), h5py.File(source, "r") as file:
        _check_all_is_here(file, place)
        data = find_member(file, "Data", place)
        names: Any = data if isinstance(data, h5py.Group) else ()
        for name in names:
            # Bytes are a name that is no UTF-8, and so no product that one can ask for.
            kind, product = split_name(name) if isinstance(name, str) else ("", "")
            if kind == "sparse2d":
                at_product = place.at(product=product)
                group: Any = find_member(data, name, at_product)
                with as_larcv_error(at_product, "a readable index"):
                    found[product] = _named_planes(group)
    if not found:
        place.fail("no sparse2d product", "one at least")
    return found


def _check_all_is_here(file: h5py.File, place: Place) -> None:
    """Raises LarcvFileError unless everything that is copied lies in the file."""
    try:
        for _ in hdf5_members.walk(file):
            pass
    except hdf5_members.OutsideError as error:
        place.fail(str(error), "all tables in this file")


def _named_planes(group: h5py.Group) -> tuple[int, ...] | None:
    """Returns the planes of an event's images where reading has to be told them.

    That is, where one is there twice, or where they have other numbers than 0 and up;
    but a plane of few events is damage. None for all others.
    """
    extents: Any = group["extents"]
    meta: Any = group["image_meta"]
    first, number = (extents[name][:].astype(np.int64) for name in ("first", "N"))
    planes = meta["projection_id"][:].astype(np.int64)
    most: dict[int, int] = {}
    for begin, count in zip(first.tolist(), number.tolist(), strict=True):
        found = np.unique(planes[begin : begin + count], return_counts=True)
        for plane, times in zip(*(part.tolist() for part in found), strict=True):
            most[plane] = max(times, most.get(plane, 0))
    _, counts = np.unique(planes, return_counts=True)
    is_gapless = sorted(most) == list(range(len(most)))
    is_damage = not is_gapless and 2 * counts.min() < counts.max()
    if max(most.values(), default=1) == 1 and (is_gapless or is_damage):
        return None
    return tuple(plane for plane in sorted(most) for _ in range(most[plane]))


def _open(source: str, product: str, planes: tuple[int, ...] | None) -> LarcvFile:
    """Opens a file to read one product, whatever it is, as it is stored."""
    return LarcvFile(
        source,
        image_product=product,
        # Not that of the labels, which would have to match.
        label_product=product,
        planes=None if planes is None else (planes,),
        charge_limit=math.inf,
    )


def _copy_others(old: h5py.File, new: h5py.File, products: Iterable[str]) -> None:
    """Copies everything but the groups that are written anew."""
    _copy_members(old, new, {b"Data"})
    rewritten = {group_name(product).encode() for product in products}
    _copy_members(h5py.Group(old["Data"].id), new.create_group("Data"), rewritten)


def _copy_members(old: h5py.Group, new: h5py.Group, left_out: set[bytes]) -> None:
    """Copies members of a group, by names as they are stored: not all are UTF-8."""
    for name in old.id:
        if name in left_out:
            continue
        if old.id.links.get_info(name).type == hdf5_members.SOFT:
            # As the library copies those further down.
            new.id.links.create_soft(name, old.id.links.get_val(name))
        else:
            old.copy(name, new, name=name, expand_external=True)


def _write_product(
    events: LarcvFile, product: str, old: h5py.File, new: h5py.File, filters: dict
) -> None:
    """Writes the four tables, the projections of an event next to each other."""
    group = new.create_group(f"Data/{group_name(product)}")
    extents, table, meta = _gather_rows(old, f"Data/{group_name(product)}")
    entries = np.repeat(np.arange(len(extents)), extents["N"])
    totals = np.bincount(entries, table["N"], len(extents)).astype(np.int64)
    chunk_rows = max(1, int(totals.max()))
    before = np.cumsum(table["N"], dtype=np.int64) - table["N"]
    begins = np.arange(len(extents)) * chunk_rows
    table["first"] = before + (begins - (np.cumsum(totals) - totals))[entries]
    for name, content in (
        ("extents", extents),
        ("voxel_extents", table),
        ("image_meta", meta),
    ):
        group.create_dataset(
            name,
            data=content,
            chunks=(min(INDEX_CHUNK, max(1, len(content))),),
            maxshape=(None,),
            compression="gzip",
        )
    # No rows after the last event's: larcv3's merge script takes that for the end.
    num_voxels = int(begins[-1] + totals[-1])
    voxels = group.create_dataset(
        "voxels",
        shape=(num_voxels,),
        dtype=VOXEL,
        chunks=(chunk_rows,),
        maxshape=(None,),
        **filters,
    )
    for entry, begin in enumerate(begins.tolist()):
        stored = events.read_image(entry)
        block = np.zeros(min(chunk_rows, num_voxels - begin), VOXEL)
        block["id"][: len(stored.ids)] = stored.ids
        block["value"][: len(stored.ids)] = stored.values
        voxels[begin : begin + len(block)] = block


def _gather_rows(
    old: h5py.File, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns new `extents`, and the other two index tables in the order of events."""
    old_extents, old_table, meta = (
        np.asarray(old[f"{name}/{table}"])
        for table in ("extents", "voxel_extents", "image_meta")
    )
    extents = np.zeros(len(old_extents), EXTENTS)
    extents["N"] = old_extents["N"]
    extents["first"] = np.cumsum(extents["N"]) - extents["N"]
    shift = old_extents["first"].astype(np.int64) - extents["first"].astype(np.int64)
    rows = np.arange(int(extents["N"].sum())) + np.repeat(shift, extents["N"])
    table = np.zeros(len(rows), ID_EXTENTS)
    table["N"], table["ID"] = old_table["N"][rows], old_table["ID"][rows]
    return extents, table, meta[rows]


def _compare(source: str, copy: str, products: Iterable[str], target: str) -> None:
    """Raises LarcvFileError unless the copy holds the same events.

    Both are read by HDF5 itself and the rules of the format alone: a mistake of our
    reader would be in the copy, and found right by the same reader.
    """
    with h5py.File(source, "r") as old, h5py.File(copy, "r") as new:
        ids = [np.asarray(file["Events/event_id"]) for file in (old, new)]
        if not np.array_equal(ids[0], ids[1]):
            raise LarcvFileError(f"{target}: found other events, expected a copy")
        for product in products:
            files = [_plain_tables(file, product) for file in (old, new)]
            for entry in range(len(ids[0])):
                one, two = (_read_plainly(tables, entry) for tables in files)
                if not all(map(np.array_equal, one, two)):
                    raise LarcvFileError(
                        f"{target}, entry {entry}, product {product}: found other "
                        "voxels, expected a copy"
                    )


def _plain_tables(file: h5py.File, product: str) -> dict[str, Any]:
    """Reads the index tables of a product, and opens its voxels."""
    group: Any = file[f"Data/{group_name(product)}"]
    names = "extents", "voxel_extents", "image_meta"
    return {name: group[name][:] for name in names} | {"voxels": group["voxels"]}


def _read_plainly(tables: dict[str, Any], entry: int) -> tuple[np.ndarray, ...]:
    """Returns planes and counts of an event's projections, and its ids and values."""
    first, number = (int(tables["extents"][name][entry]) for name in ("first", "N"))
    rows = slice(first, first + number)
    planes = tables["image_meta"]["projection_id"][rows]
    counts = tables["voxel_extents"]["N"][rows].astype(np.int64)
    start = int(tables["voxel_extents"]["first"][first]) if number else 0
    voxels = tables["voxels"][start : start + int(counts.sum())]
    # The copy holds float32, which is what any reader makes of wider values.
    return planes, counts, voxels["id"], voxels["value"].astype(np.float32)
