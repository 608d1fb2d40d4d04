"""Tutorial, part 1: makes events and looks at one.

    python examples/1_simulate.py

This writes train.h5 and test.h5, larcv3 files like the experiment's with the truth of
every pixel, and event.png. It needs the extra [display]. The same from the shell:

    ctjax simulate --events 160 --seed 1 --shape 320,512 --output train.h5
    ctjax show --file train.h5 --entry 0 --output event.png

The next part is 2_train.py.
"""

import argparse
import pathlib

from ctjax.commands import simulate
from ctjax.data.larcv.file import LarcvFile
from ctjax.views.event import read_view
from ctjax.views.picture import draw


def main():
    """Runs this part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, default="output/tutorial")
    parser.add_argument("--events", type=int, default=160)
    parser.add_argument("--shape", default="320,512", help="ticks,wires")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    # The same seed makes the same events everywhere; two seeds have none in common.
    files = {"train": (options.events, 1), "test": (max(1, options.events // 4), 2)}
    for name, (events, seed) in files.items():
        path = options.folder / f"{name}.h5"
        if not path.exists():
            simulate.main(
                [
                    *("--events", str(events), "--seed", str(seed)),
                    *("--shape", options.shape, "--output", str(path)),
                ]
            )

    # An event is three pictures; the file stores only their pixels with charge.
    path = str(options.folder / "test.h5")
    with LarcvFile(path) as file:
        ticks, wires = file.plane_shapes[0]
        print(f"{path}: {file.num_events} events of {ticks} ticks x {wires} wires")
        voxels = file.read_image(0)
    for plane, where in enumerate(voxels.planes):
        share = (where.stop - where.start) / (ticks * wires)
        print(f"plane {plane}: {share:.2%} of the pixels hold charge")

    picture = options.folder / "event.png"
    draw(read_view(path, "", 0)).savefig(picture)
    print(f"look at {picture}")


# The simulation starts processes, which read this file again but must not run it.
if __name__ == "__main__":
    main()
