"""Processor time of an event that is simulated and written, of the ctjax on the path.

    PYTHONPATH=CHECKOUT python benchmarks/simulation_speed.py

compares commits: a line each, by turns.
"""

import argparse
import pathlib
import sys
import tempfile
import time

from ctjax.simulation.parameters import SimulationParameters
from ctjax.simulation.production import write_events

SEED = 1


def main() -> None:
    """Prints milliseconds an event, the start of the process left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60)
    options = parser.parse_args()
    parameters = SimulationParameters()
    with tempfile.TemporaryDirectory() as folder:
        write_events(pathlib.Path(folder, "first.h5"), parameters, SEED, 5)
        start = time.process_time()
        write_events(pathlib.Path(folder, "timed.h5"), parameters, SEED, options.events)
        seconds = time.process_time() - start
    sys.stdout.write(f"{1e3 * seconds / options.events:.1f} ms/event\n")


if __name__ == "__main__":
    main()
