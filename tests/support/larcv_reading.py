"""What larcv3 reads in a file, as JSON; runs under the interpreter that has larcv.

    python larcv_reading.py FILE OUTPUT sparse2d/PRODUCER particle/PRODUCER ...

A script of its own because larcv needs an older numpy than ctjax's tests.
"""

import json
import sys

import larcv


def read_sparse2d(product):
    return [
        {
            "ids": [voxel.id() for voxel in plane.as_vector()],
            "values": [voxel.value() for voxel in plane.as_vector()],
            "shape": [plane.meta().number_of_voxels(axis) for axis in (0, 1)],
        }
        for plane in product.as_vector()
    ]


def read_particle(product):
    return [
        {
            "pdg": particle.pdg_code(),
            "energy": particle.energy_init(),
            "current_type": particle.nu_current_type(),
            "vertex": [particle.x(), particle.y(), particle.z(), particle.t()],
        }
        for particle in product.as_vector()
    ]


def read_bbox2d(product):
    return [
        [
            {"centroid": list(box.centroid()), "half_length": list(box.half_length())}
            for box in plane.as_vector()
        ]
        for plane in product.as_vector()
    ]


READERS = {
    "sparse2d": read_sparse2d,
    "particle": read_particle,
    "bbox2d": read_bbox2d,
}


def main(path, output, *products):
    manager = larcv.IOManager(larcv.IOManager.kREAD)
    manager.add_in_file(path)
    manager.initialize()
    events = []
    for entry in range(manager.get_n_entries()):
        manager.read_entry(entry)
        number = manager.event_id()
        event = {"id": [number.run(), number.subrun(), number.event()]}
        for name in products:
            kind, _, producer = name.partition("/")
            event[name] = READERS[kind](manager.get_data(kind, producer))
        events.append(event)
    manager.finalize()
    with open(output, "w") as file:
        json.dump(events, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
