"""Simulates events like those of SBND and other detectors into larcv3 files.

Makes one file, the files of a named set, or prints the checksum of a file's content.

Event i of a seed and detector is the same in every file of this generator version,
whatever the number of workers; see docs/simulation.md.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from ctjax.commands import command_line
from ctjax.processes import launchers
from ctjax.simulation.benchmark_sets import BENCHMARK_SETS, BenchmarkFile
from ctjax.simulation.content_checksum import content_checksum
from ctjax.simulation.detectors import DETECTORS
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters
from ctjax.simulation.production import write_events
from ctjax.simulation.progress import Progress


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
      arguments: of the command line, after the command's name.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    options = _parse(arguments)

    def command():
        if options.checksum is not None:
            sys.stdout.write(f"{content_checksum(options.checksum)}\n")
        elif options.set is not None:
            _make_set(options)
        else:
            _make_file(options)

    return command_line.end_in_one_line(command)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        "simulate", __doc__ or "", "--events 1000 --output events.h5 --seed 1"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--events", type=int, help="number of events")
    what.add_argument(
        "--set", choices=sorted(BENCHMARK_SETS), help="a named benchmark set"
    )
    what.add_argument(
        "--checksum", type=pathlib.Path, help="print the content checksum of a file"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="file to make; with --set its folder"
    )
    parser.add_argument("--seed", type=int, help="seed of the events")
    parser.add_argument("--first_event", type=int, help="number of the first event")
    parser.add_argument(
        "--detector", choices=DETECTORS, help="what the planes are like; default sbnd"
    )
    parser.add_argument(
        "--shape",
        type=_shape,
        help="rows,columns of the widest plane (default: one for every wire; "
        "1280,2048 for sbnd)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=launchers.usable_cpus(),
        help="processes (default: CPUs)",
    )
    options = parser.parse_args(arguments)
    if options.checksum is None and options.output is None:
        parser.error("--output is required")
    if options.events is not None and options.seed is None:
        parser.error("--seed is required")
    if options.events is None:
        for name in ("seed", "detector", "shape", "first_event"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} goes with --events only")
    return options


def _shape(text: str) -> tuple[int, int]:
    """Rows and columns from 'H,W'."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected rows,columns such as 1280,2048, got {text!r}"
        ) from None
    return height, width


def _make_file(options: argparse.Namespace) -> None:
    """Simulates one file."""
    parameters = DETECTORS[options.detector or "sbnd"]
    if options.shape is not None:
        parameters = dataclasses.replace(parameters, image_shape=options.shape)
    write_events(
        options.output,
        parameters,
        options.seed,
        options.events,
        options.first_event or 0,
        options.workers,
        Progress(options.output.name, options.events),
    )


def _make_set(options: argparse.Namespace) -> None:
    """Simulates the files of a set and prints their checksums."""
    files = {
        options.output / f"{options.set}_{file.name}.h5": file
        for file in BENCHMARK_SETS[options.set]
    }
    # Before hours of work, not after the first file.
    for path in files:
        if path.exists():
            raise FileExistsError(f"output exists already: {path}")
    options.output.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"set {options.set}, generator version {GENERATOR_VERSION}\n")
    for path, file in files.items():
        _make_set_file(path, file, options.workers)


def _make_set_file(path: pathlib.Path, file: BenchmarkFile, workers: int) -> None:
    write_events(
        path,
        SimulationParameters(),
        file.seed,
        file.events,
        workers=workers,
        report=Progress(path.name, file.events),
    )
    sys.stdout.write(
        f"{path.name}  events {file.events}  seed {file.seed}  "
        f"content sha256 {content_checksum(path)}\n"
    )
    sys.stdout.flush()
