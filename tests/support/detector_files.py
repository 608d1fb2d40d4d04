"""Writes larcv3 files of any detector by h5py, and their truth."""

import h5py
import numpy as np

from tests.support.larcv_fixtures import (
    EVENT_ID,
    EXTENTS,
    ID_EXTENTS,
    IMAGE_META,
    VOXEL,
    write_table,
)


def make_event(random, shapes, labels=(0, 1, 2), charge=100.0):
    """Ids, charges and labels of some pixels, plane by plane."""
    planes = []
    for height, width in shapes:
        count = int(random.integers(0, height * width // 2 + 1))
        ids = np.sort(random.choice(height * width, count, replace=False))
        charges = random.uniform(1, charge, count).astype(np.float32)
        planes.append((ids, charges, random.choice(labels, count)))
    return planes


def write(
    path, events, shapes, projection_ids=None, image="sbndwire", label="sbnd_cosmicseg"
):
    """Writes events, lists of planes as `make_event` makes them.

    Args:
      path: of the file.
      events: of planes of ids `column * h + row`, charges and labels; one of another
        length has other images.
      shapes: rows and columns of each plane.
      projection_ids: of each plane; None for 0 and up.
      image: producer of the charges.
      label: producer of the labels.
    """
    ids = list(range(len(shapes))) if projection_ids is None else projection_ids
    with h5py.File(path, "w") as file:
        table = np.array(
            [(7, 1, 100 + entry) for entry in range(len(events))], EVENT_ID
        )
        write_table(file.create_group("Events"), "event_id", table, 8)
        for name, column in ((image, 1), (label, 2)):
            group = file.create_group(f"Data/sparse2d_{name}_group")
            _write_product(group, events, column, shapes, ids)
    return str(path)


def _write_product(group, events, column, shapes, projection_ids):
    extents = np.zeros(len(events), EXTENTS)
    extents["N"] = [len(event) for event in events]
    extents["first"] = np.cumsum(extents["N"]) - extents["N"]
    numbers = [n % len(shapes) for event in events for n in range(len(event))]
    planes = [plane for event in events for plane in event]
    rows = np.zeros(len(planes), ID_EXTENTS)
    rows["N"] = [len(plane[0]) for plane in planes]
    rows["first"] = np.cumsum(rows["N"]) - rows["N"]
    rows["ID"] = [projection_ids[n] for n in numbers]
    meta = np.zeros(len(planes), IMAGE_META)
    meta["valid"] = 1
    meta["projection_id"] = rows["ID"]
    meta["number_of_voxels"] = [shapes[n][::-1] for n in numbers]
    meta["image_sizes"] = meta["number_of_voxels"] * 0.5
    meta["origin"] = [(n, 10 * n) for n in numbers]
    voxels = np.zeros(rows["N"].sum(dtype=int), VOXEL)
    voxels["id"] = np.concatenate([plane[0] for plane in planes])
    voxels["value"] = np.concatenate([plane[column] for plane in planes])
    for name, table in (
        ("extents", extents),
        ("voxel_extents", rows),
        ("image_meta", meta),
        ("voxels", voxels),
    ):
        write_table(group, name, table, 8)


def dense(event, shapes, image_shape, column):
    """One of the two products as an image [P, H, W], float64 and without pooling."""
    image = np.zeros((len(shapes), *image_shape))
    for plane, (height, _) in enumerate(shapes):
        ids = event[plane][0]
        image[plane, ids % height, ids // height] = event[plane][column]
    return image
