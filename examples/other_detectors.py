"""Makes small files as other detectors have them, to try docs/other-detectors.md on.

    python examples/other_detectors.py --folder .

Events are straight tracks over noise, made up to be read, not to be learned from. The
format is written by h5py alone, table by table, so that this is an example of a writer,
too (docs/data-format.md).
"""

import argparse
import pathlib

import h5py
import numpy as np

from ctjax.data.larcv import records

WIRES, TICKS = 512, 256
NUM_EVENTS = 6
NONE = 65535
"""The label of noise in the file with five classes: it is of no class."""


def make_plane(random, num_classes):
    """Makes the ids, charges and labels of one plane: tracks over noise."""
    image = np.zeros((WIRES, TICKS), np.float32)
    label = np.zeros((WIRES, TICKS), np.int64)
    noise = random.random(image.shape) < 0.005
    image[noise] = 5 + random.random(noise.sum())
    for track in range(2 * num_classes):
        wire, tick = random.integers(WIRES), random.integers(TICKS)
        angle, length = 2 * np.pi * random.random(), 30 + 100 * random.random()
        steps = np.arange(0, length, 0.5)
        wires = np.clip(wire + steps * np.cos(angle), 0, WIRES - 1).astype(int)
        ticks = np.clip(tick + steps * np.sin(angle), 0, TICKS - 1).astype(int)
        image[wires, ticks] = 20 + 40 * random.random(len(steps))
        label[wires, ticks] = 1 + track % (num_classes - 1)
    ids = np.flatnonzero(image)  # wire * TICKS + tick
    return ids, image.ravel()[ids], label.ravel()[ids]


def write_product(file, name, events, column):
    """Writes one column of all events as a sparse2d product."""
    planes = [plane for event in events for plane in event]
    extents = np.zeros(len(events), records.EXTENTS)
    extents["N"] = [len(event) for event in events]
    extents["first"] = np.cumsum(extents["N"]) - extents["N"]
    where = np.zeros(len(planes), records.ID_EXTENTS)
    where["N"] = [len(plane[0]) for plane in planes]
    where["first"] = np.cumsum(where["N"]) - where["N"]
    where["ID"] = [number for event in events for number in range(len(event))]
    meta = np.zeros(len(planes), records.IMAGE_META)
    meta["valid"], meta["projection_id"] = 1, where["ID"]
    meta["number_of_voxels"] = meta["image_sizes"] = WIRES, TICKS
    voxels = np.zeros(where["N"].sum(), records.VOXEL)
    voxels["id"] = np.concatenate([plane[0] for plane in planes])
    voxels["value"] = np.concatenate([plane[column] for plane in planes])
    group = file.create_group(f"Data/sparse2d_{name}_group")
    tables = {"extents": extents, "voxel_extents": where, "image_meta": meta}
    for table, rows in {**tables, "voxels": voxels}.items():
        chunks = (min(1000, len(rows)),)
        group.create_dataset(table, data=rows, chunks=chunks, compression="gzip")


def write_file(path, image="sbndwire", label="sbnd_cosmicseg", planes=3, change=None):
    """Writes a file of some planes, its events changed in place before."""
    num_classes = 5 if path.stem == "five_classes" else 3
    random = np.random.default_rng(1)
    events = [
        [make_plane(random, num_classes) for _ in range(planes)]
        for _ in range(NUM_EVENTS)
    ]
    if change is not None:
        change(events)
    with h5py.File(path, "w") as file:
        ids = [(1, 1, number) for number in range(NUM_EVENTS)]
        file["Events/event_id"] = np.array(ids, records.EVENT_ID)
        write_product(file, image, events, 1)
        write_product(file, label, events, 2)


def count_electrons(events):
    """Gives the charges the unit that many files have."""
    for _, charge, _ in (plane for event in events for plane in event):
        charge *= 5000


def make_bipolar(events):
    """Gives every other voxel of the first two planes the other sign."""
    for event in events:
        for _, charge, _ in event[:2]:
            charge[::2] *= -1


def leave_noise_out(events):
    """Says of noise that it belongs to no class."""
    for _, _, label in (plane for event in events for plane in event):
        label[label == 0] = NONE


def spoil(events):
    """Makes two events unreadable."""
    events[1][0][1][0] = np.nan
    events[4][2][0][-1] = WIRES * TICKS


def main():
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, default=".")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "names.h5", "wire", "seg")
    write_file(folder / "four_planes.h5", planes=4)
    write_file(folder / "five_classes.h5", change=leave_noise_out)
    write_file(folder / "electrons.h5", change=count_electrons)
    write_file(folder / "bipolar.h5", change=make_bipolar)
    write_file(folder / "bad_events.h5", change=spoil)


if __name__ == "__main__":
    main()
