"""Tutorial, part 2: trains a small network on the events of part 1.

    python examples/2_train.py

This leaves a folder `run` with checkpoints, tables, TensorBoard's files and
report.html. Started again with more iterations, it continues where it ended. From the
shell the same is `ctjax train --config FILE`, with these fields in the file. The next
part is 3_analyse.py.
"""

import argparse
import pathlib

from ctjax import main as ctjax_main
from ctjax.config import resolve


def main():
    """Runs this part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, default="output/tutorial")
    parser.add_argument("--iterations", type=int, default=300)
    options = parser.parse_args()

    # Any field of docs/configuration.md can be here; the others keep their defaults.
    # The network is so much smaller than CosmicTagger's that two cores can train it.
    fields = {
        "run": {
            "iterations": options.iterations,
            "minibatch_size": 4,
            "aux_iterations": 20,
            "aux_minibatch_size": 8,
        },
        "data": {
            "data_directory": str(options.folder),
            "file": "train.h5",
            "aux_file": "test.h5",
            "downsample": 1,
            "img_transform": True,
        },
        "network": {
            "n_initial_filters": 8,
            "depth": 3,
            "blocks_per_layer": 1,
            "blocks_deepest_layer": 2,
            "blocks_final": 1,
            "bottleneck_deepest": 32,
        },
        "mode": {
            "logging_iteration": 20,
            "mask_empty_pixels": True,
            "optimizer": {
                "learning_rate": 0.003,
                "lr_schedule": "flat",
                "loss_balance_scheme": "light",
            },
        },
        "output_dir": str(options.folder / "run"),
    }

    state = ctjax_main.run(resolve.resolve(fields))
    print(f"{int(state.step)} steps; look at {options.folder}/run/report.html")


if __name__ == "__main__":
    main()
