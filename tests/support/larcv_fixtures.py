"""Small larcv3 files, written with h5py alone so that malformed ones can be made."""

import contextlib
import os

import h5py
import numpy as np
import pytest

from ctjax.base.constants import IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.base.detector import COSMIC_TAGGER

SHAPE = (16, 24)
"""Rows and columns of the images, divisible by 8."""

EVENT_ID = np.dtype([("run", "i8"), ("subrun", "i8"), ("event", "i8")])
EXTENTS = np.dtype([("first", "u8"), ("N", "u4")], align=True)
ID_EXTENTS = np.dtype([("first", "u8"), ("N", "u4"), ("ID", "u4")], align=True)
VOXEL = np.dtype([("id", "u8"), ("value", "f4")], align=True)
IMAGE_META = np.dtype(
    {
        "names": [
            "valid",
            "projection_id",
            "image_sizes",
            "number_of_voxels",
            "origin",
        ],
        "formats": ["u1", "u8", ("f8", 2), ("u8", 2), ("f8", 2)],
        "offsets": [0, 8, 16, 32, 48],
        "itemsize": 72,
    }
)

SHARED = os.environ.get("CTJAX_SHARED")
needs_shared = pytest.mark.skipif(
    not SHARED, reason="CTJAX_SHARED does not name the folder of shared data"
)


def shared(*names):
    """Path of a shared file; only in tests marked `needs_shared`."""
    return os.path.join(SHARED or "", *names)


def group_of(product):
    """Path of a product's group."""
    return f"Data/sparse2d_{product}_group"


IMAGE_GROUP, LABEL_GROUP = group_of(IMAGE_PRODUCT), group_of(LABEL_PRODUCT)

FILTERS = {
    "gzip9": {"compression": "gzip", "compression_opts": 9},
    "shuffle": {"compression": "gzip", "shuffle": True},
    "shuffle only": {"shuffle": True},
    "none": {},
    "lzf": {"compression": "lzf"},
    "fletcher32": {"compression": "gzip", "fletcher32": True},
}
"""Arguments of h5py by name: those of which chunks are read raw, and two others."""


def make_events(num_events=5, shape=SHAPE, seed=0, most=60):
    """Lists of planes of (ids, values, classes); ids ascend, one plane is empty."""
    random = np.random.default_rng(seed)
    events = []
    for entry in range(num_events):
        planes = []
        for plane in range(COSMIC_TAGGER.num_planes):
            count = 0 if (entry, plane) == (1, 2) else random.integers(1, most)
            ids = np.sort(random.choice(shape[0] * shape[1], count, replace=False))
            values = (5 + 50 * random.random(count)).astype(np.float32)
            planes.append((ids, values, random.integers(0, 3, count)))
        events.append(planes)
    return events


def write_table(group, name, rows, chunk, **filters):
    """Writes one table as larcv3 does, or contiguous with chunk None."""
    if chunk is not None:
        filters = {"chunks": (chunk,), "maxshape": (None,), **filters}
    group.create_dataset(name, data=rows, **filters)


def write_larcv(
    path,
    events,
    shape=SHAPE,
    *,
    with_label=True,
    voxel_chunk=32,
    index_chunk=8,
    voxel_type=VOXEL,
    filters=None,
    libver="earliest",
):
    """Writes events; `filters` are arguments of h5py's create_dataset."""
    filters = (
        {"compression": "gzip", "compression_opts": 1} if filters is None else filters
    )
    with h5py.File(path, "w", libver=libver) as file:
        ids = [(7, 1, 100 + entry) for entry in range(len(events))]
        write_table(
            file.create_group("Events"),
            "event_id",
            np.array(ids, EVENT_ID),
            index_chunk,
            **filters,
        )
        products = [(IMAGE_GROUP, 1)] + [(LABEL_GROUP, 2)] * with_label
        for name, column in products:
            group = file.create_group(name)
            write_product(
                group,
                events,
                column,
                shape,
                voxel_chunk,
                index_chunk,
                voxel_type,
                filters,
            )
    return path


def write_product(
    group, events, column, shape, voxel_chunk, index_chunk, voxel_type, filters
):
    """Writes the four tables of one product."""
    extents = np.zeros(len(events), EXTENTS)
    extents["N"] = [len(planes) for planes in events]
    extents["first"] = np.cumsum(extents["N"]) - extents["N"]
    planes = [plane for event in events for plane in event]
    voxel_extents = np.zeros(len(planes), ID_EXTENTS)
    voxel_extents["N"] = [len(plane[0]) for plane in planes]
    voxel_extents["first"] = np.cumsum(voxel_extents["N"]) - voxel_extents["N"]
    voxel_extents["ID"] = [p for event in events for p in range(len(event))]
    meta = np.zeros(len(planes), IMAGE_META)
    meta["valid"] = 1
    meta["projection_id"] = voxel_extents["ID"]
    meta["number_of_voxels"] = meta["image_sizes"] = shape[::-1]
    voxels = np.zeros(voxel_extents["N"].sum(dtype=int), voxel_type)
    if planes:
        voxels["id"] = np.concatenate([plane[0] for plane in planes])
        voxels["value"] = np.concatenate([plane[column] for plane in planes])
    write_table(group, "extents", extents, index_chunk, **filters)
    write_table(group, "voxel_extents", voxel_extents, index_chunk, **filters)
    write_table(group, "image_meta", meta, index_chunk, **filters)
    write_table(group, "voxels", voxels, voxel_chunk, **filters)


def replace_table(file, name, rows, chunk=8, **filters):
    """Replaces a table by other rows, whatever their type."""
    del file[name]
    parent, child = name.rsplit("/", 1)
    write_table(file[parent], child, rows, chunk, **filters)


@contextlib.contextmanager
def changing(path, *names):
    """Gives tables as arrays to change in place; they are written back after."""
    with h5py.File(path, "r+") as file:
        tables = [file[name][:] for name in names]
        yield tables[0] if len(tables) == 1 else tables
        for name, table in zip(names, tables, strict=True):
            file[name][:] = table


def dense_truth(events, shape=SHAPE, downsample=0):
    """Images and labels by the rule in words, one voxel after another."""
    factor = 2**downsample
    size = (
        len(events),
        COSMIC_TAGGER.num_planes,
        shape[0] // factor,
        shape[1] // factor,
    )
    image, label = np.zeros(size, np.float32), np.zeros(size, np.uint8)
    for entry, planes in enumerate(events):
        for plane, (ids, values, classes) in enumerate(planes):
            for voxel, value, which in zip(ids, values, classes, strict=True):
                column, row = divmod(int(voxel), shape[0])
                at = entry, plane, row // factor, column // factor
                if factor == 1:
                    image[at], label[at] = value, which
                else:
                    image[at] = np.float32(image[at] + np.float32(value))
                    label[at] = max(label[at], which)
    return image / np.float32(factor**2), label
