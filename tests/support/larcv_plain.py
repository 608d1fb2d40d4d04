"""Reads larcv3 files of any planes by the rules of the format alone."""

import h5py


def read_plainly(path, product):
    """[event][plane] of (ids, values), and the sizes, by the format's rules alone."""
    with h5py.File(path) as file:
        group = file[f"Data/sparse2d_{product}_group"]
        extents, table, meta, voxels = (
            group[name][:]
            for name in ("extents", "voxel_extents", "image_meta", "voxels")
        )
    events = []
    for first, number in extents.tolist():
        rows = range(first, first + number)
        spans = [
            slice(table["first"][r], table["first"][r] + table["N"][r]) for r in rows
        ]
        events.append([(voxels["id"][s], voxels["value"][s]) for s in spans])
    return events, meta["number_of_voxels"].tolist()
