"""Reads minibatches with larcv3 as CosmicTagger does; started by benchmarks/io.py.

Runs under the interpreter that has the package `larcv`, which need not have ctjax.
Takes one JSON argument, prints one JSON line.
"""

import contextlib
import json
import os
import sys
import time

import numpy as np
from larcv import queueloader
from larcv.config_builder import ConfigBuilder

FILL_VALUE = -999
MAX_VOXELS = 50_000
PRODUCTS = {"image": ("sbndwire", 1), "label": ("sbnd_cosmicseg", 2)}
"""Producer and PoolType (average, maximum) of each product."""


def open_queue(path, minibatch_size, downsample):
    """Returns a queue interface that reads the file in order."""
    config = ConfigBuilder()
    config.set_parameter([path], "InputFiles")
    for producer, pool_type in PRODUCTS.values():
        if downsample:
            config.add_preprocess(
                datatype="sparse2d",
                producer=producer,
                process="Downsample",
                OutputProducer=producer,
                Downsample=2**downsample,
                PoolType=pool_type,
            )
    for name, (producer, _) in PRODUCTS.items():
        config.add_batch_filler(
            datatype="sparse2d",
            producer=producer,
            name=name,
            MaxVoxels=MAX_VOXELS,
            Augment=False,
            Channels=[0, 1, 2],
        )
    queue = queueloader.queue_interface(random_access_mode="serial_access", seed=0)
    queue.no_warnings()
    io_config = {
        "filler_name": "primary",
        "filler_cfg": config.get_config(),
        "verbosity": 5,
        "make_copy": False,
    }
    queue.prepare_manager(
        "primary", io_config, minibatch_size, {name: name for name in PRODUCTS}
    )
    return queue


def make_dense(voxels, shape):
    """Dense [B, P, H, W] float32 of voxels [B, P, V, 3] (column, row, value)."""
    dense = np.zeros((*voxels.shape[:2], *shape), np.float32)
    filled = voxels[..., 2] != FILL_VALUE
    column, row, value = (voxels[..., member][filled] for member in range(3))
    event, plane, _ = np.nonzero(filled)
    dense[event, plane, row.astype(np.int32), column.astype(np.int32)] = value
    return dense


def main():
    """Warms up, says "ready", waits for a line, reads for the time given."""
    options = json.loads(sys.argv[1])
    size = options["minibatch_size"]
    shape = [side // 2 ** options["downsample"] for side in options["shape"]]
    terminal = sys.stdout
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        queue = open_queue(options["file"], size, options["downsample"])

        def fetch():
            data = queue.fetch_minibatch_data("primary", pop=True)
            queue.prepare_next("primary")
            return [make_dense(data[name], shape) for name in PRODUCTS]

        first = fetch()
        for _ in range(2):
            fetch()
        terminal.write("ready\n")
        terminal.flush()
        sys.stdin.readline()
        begin = now = time.perf_counter()
        count = 0
        while now - begin < options["seconds"]:
            fetch()
            count += size
            now = time.perf_counter()
    checksums = [float(dense.sum(dtype=np.float64)) for dense in first]
    found = {"images": count, "elapsed_s": now - begin, "sums": checksums}
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    # larcv3's thread may still read; leaving in order can hang.
    os._exit(0)


if __name__ == "__main__":
    main()
