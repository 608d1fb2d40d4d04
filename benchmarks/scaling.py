"""Weak and strong scaling over numbers of processes, through the launcher.

    python -m benchmarks.scaling --processes 1,2 --output docs/benchmarks

Weak: as many events for each process, however many there are. Strong: as many events
in all. Writes scaling.json, scaling.md and, where matplotlib is installed, scaling.png.
On a cluster give the launcher's command, `{n}` standing for the number of processes:

    python -m benchmarks.scaling --processes 4,8,16,32 --device GPU \
        --launcher "srun -n {n} --gpus-per-node=4" --downsample 0 --minibatch 4
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

from benchmarks import machine

CPU_LAUNCHER = "mpirun -n {n} --map-by core --bind-to core"


def main() -> int:
    """Runs all cases and writes the report."""
    options = parse()
    cases = []
    for kind in ("weak", "strong"):
        for count in options.processes:
            if kind == "strong" and options.strong_minibatch % count:
                continue
            events = options.minibatch * count
            if kind == "strong":
                events = options.strong_minibatch
            case = run_case(options, count, events)
            cases.append({"kind": kind, "processes": count, "events": events} | case)
            sys.stdout.write(f"{describe_case(cases[-1], cases)}\n")
            sys.stdout.flush()
    write(cases, options)
    return 0


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--processes", type=numbers, default=[1, 2])
    parser.add_argument("--launcher", default=CPU_LAUNCHER)
    parser.add_argument("--device", choices=("CPU", "GPU"), default="CPU")
    parser.add_argument("--minibatch", type=int, default=1, help="weak: of a process")
    parser.add_argument("--strong-minibatch", type=int, default=4, help="of all")
    parser.add_argument("--downsample", type=int, default=3)
    parser.add_argument("--file", default="", help="larcv3 file; else synthetic events")
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("scaling"))
    return parser.parse_args()


def run_case(options: argparse.Namespace, count: int, events: int) -> dict:
    """Starts the workers of one case and reads what the first one wrote."""
    fields = {
        "run": {
            "minibatch_size": events,
            "compute_mode": options.device,
            "precision": options.precision,
            "start_timeout": 300,
        },
        "data": {
            "downsample": options.downsample,
            "synthetic": not options.file,
            "file": options.file or "none",
        },
        "network": {
            "n_initial_filters": options.filters,
            # 1280 rows can be halved eight times in all.
            "depth": min(6, 8 - options.downsample),
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "result.json")
        command = [
            *shlex.split(options.launcher.format(n=count)),
            *(sys.executable, "-m", "benchmarks.scaling_worker", output),
            *(str(options.repeats), str(options.steps), json.dumps(fields)),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{shlex.join(command)}\n{result.stdout}{result.stderr}")
        with open(output) as file:
            return json.load(file)


def rate(case: dict) -> float:
    """Images per second of all processes, reading included."""
    return case["events"] / case["medians"]["whole"]


def efficiency(case: dict, cases: list[dict]) -> float:
    """Rate of a device over that of the fewest processes of the same kind."""
    first = next(c for c in cases if c["kind"] == case["kind"])
    return rate(case) / case["devices"] / (rate(first) / first["devices"])


def shares(case: dict) -> dict[str, float]:
    """Where the time of a step goes, as fractions of the whole."""
    medians = case["medians"]
    whole = medians["whole"]
    return {
        "compute": medians["alone"] / whole,
        "communication": (medians["step"] - medians["alone"]) / whole,
        "reading": (whole - medians["step"]) / whole,
    }


HEADER = [
    "| scaling | processes | events | images/s | spread | efficiency | compute | "
    "communication | reading | collectives | MB |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
]


def describe_case(case: dict, cases: list[dict]) -> str:
    """One row of the table."""
    times = case["times"]["whole"]
    spread = f"{case['events'] / max(times):.3g} to {case['events'] / min(times):.3g}"
    parts = " | ".join(f"{share:.0%}" for share in shares(case).values())
    return (
        f"| {case['kind']} | {case['processes']} | {case['events']} | "
        f"{rate(case):.3g} | {spread} | {efficiency(case, cases):.0%} | {parts} | "
        f"{case['collectives']} | {case['collective_bytes'] / 1e6:.1f} |"
    )


def write(cases: list[dict], options: argparse.Namespace) -> None:
    """Writes table, JSON and plot."""
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.scaling {shlex.join(sys.argv[1:])}"
    content = {"command": command, "cases": cases}
    (folder / "scaling.json").write_text(json.dumps(content, indent=1) + "\n")
    first = cases[0]
    height, width = first["image_shape"]
    loads = [case["machine"]["load_average"] for case in cases]
    lines = [
        "# Scaling: images a second over numbers of processes",
        "",
        f"- Command: `{command}`",
        f"- Machine: {machine.words(first['machine'])}",
        f"- Load average: {min(loads):.1f} to {max(loads):.1f}",
        f"- Network of {first['parameters']:,} parameters, images of {height} x "
        f"{width}, {options.precision}, medians of {options.repeats} repeats of "
        f"{options.steps} steps, the three loops alternating",
        "",
        *HEADER,
        *(describe_case(case, cases) for case in cases),
        "",
        "Compute: the step on a process's own devices and events, all processes at",
        "work. Communication and reading: what they add beyond what overlaps (noise",
        "can make them negative). Collectives and bytes are read off the program.",
        "",
        "![images a second and where the time goes](scaling.png)",
    ]
    (folder / "scaling.md").write_text("\n".join(lines) + "\n")
    plot(cases, folder / "scaling.png")


def plot(cases: list[dict], path: pathlib.Path) -> None:
    """Images a second beside the ideal, and the shares of a step."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for kind, colour in (("weak", "#0072B2"), ("strong", "#D55E00")):
        chosen = [case for case in cases if case["kind"] == kind]
        counts = [case["devices"] for case in chosen]
        errors = [
            [
                abs(statistics.median(rates) - bound(rates))
                for rates in (
                    [c["events"] / t for t in c["times"]["whole"]] for c in chosen
                )
            ]
            for bound in (min, max)
        ]
        rates = [rate(case) for case in chosen]
        left.errorbar(
            counts, rates, errors, fmt="o-", color=colour, capsize=3, label=kind
        )
        ideal = [rates[0] * count / counts[0] for count in counts]
        left.plot(counts, ideal, "--", color=colour, alpha=0.5, label=f"{kind}, ideal")
    left.set_xlabel("devices")
    left.set_ylabel("images a second")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    bottoms = [0.0] * len(cases)
    names = [f"{case['kind']}\n{case['devices']}" for case in cases]
    colours = {"compute": "#0072B2", "communication": "#E69F00", "reading": "#009E73"}
    for part, colour in colours.items():
        heights = [max(0.0, shares(case)[part]) for case in cases]
        right.bar(names, heights, bottom=bottoms, color=colour, label=part)
        bottoms = [a + b for a, b in zip(bottoms, heights, strict=True)]
    right.set_ylabel("share of a step")
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside upper right", ncols=3
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
