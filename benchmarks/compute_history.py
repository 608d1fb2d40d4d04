"""The figures of GPUs by commit: what benchmarks/compute.py and counted.py keep.

gpu/COMMIT.json has what was measured of a commit, gpu/counted.json what was counted
without a GPU, gpu.md all of it in tables.
"""

import json
import pathlib

from benchmarks import compute_report, machine, roofline
from benchmarks.compute_cases import CASES

COUNTED = "counted.json"

SAME = ("precision", "downsample", "minibatch_size", "image_shape", "parameters")
"""What two runs of a case must have in common for one table."""

INTRODUCTION = """\
# Computation on GPUs, by commit

The same network, weights, events, minibatch and precision on all sides, by the steps
that `ctjax train` and `ctjax infer` run and by our own torch network
(`benchmarks/torch_peer.py`). The networks of Tasks 2 to 4 are those of
`configs/scc21_master.py`. Training: forward, focal loss, backward, Adam. Inference:
forward, class and probabilities. Products of float32 are TF32 on all sides. One case,
in four minutes at most, and what a profile says of it:

    benchmarks/gpu.sh --case task3 --wheels WHEELS_FOLDER --output docs/benchmarks
    python -m benchmarks.profile --device gpu --case task3 --output profiles

A second run of a case adds the contenders that the first had no time for.
"""

COLUMNS = """\
Blocks of steps of ctjax and of one contender alternate, each in a process of its own.
Images a second: median and quartiles of the blocks. "ctjax over it": ctjax's rate over
the contender's, median and quartiles of neighbouring blocks; above 1 ctjax is faster.
A, B, C: the rate that the measured bandwidth and matrix rate allow a program that runs
every operation by itself (A), fuses between convolutions (B) or with them (C), see
`benchmarks/roofline.py`; the percentage is what was reached of it. First result:
seconds from the start of the framework to the end of the first step; "kept" where
programs were compiled by an earlier run.
"""

COUNTED_WORDS = """\
What the compiled step reads and writes, from the program that jaxlib's CUDA plugin
compiles for an H100 (`python -m benchmarks.counted`); **nothing of this was timed**.
GB: read and written by all kernels, workspaces of libraries apart. Over A, B, C: beside
the bytes that `benchmarks/roofline.py` counts for the same network; below 1 is less.
Passes: the same bytes in images of level 0. Kernels: launches in a step. Largest: the
largest array that a kernel writes. Images written of nothing: kernels that write an
image of level 0 or 1 and read next to nothing, as for a bias. Turned: kernels that only
put such an image into another order.
"""

COUNTED_HEADER = [
    "| case | kernels | GB | over A | over B | over C | passes | kernels launched | "
    "largest | temporary memory | images of nothing | turned | jaxlib, commit |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
]


def write(result: dict, folder: pathlib.Path) -> None:
    """Writes what was measured of a commit, and the page of all commits."""
    _write_json(_path(result, folder), result)
    write_page(folder)


def read(result: dict, folder: pathlib.Path) -> list[dict]:
    """Returns the cases that the same commit has measured before.

    Args:
      result: of a run that begins.
      folder: where it is to be written.

    Returns:
      Its cases; none of a CPU, of other versions, or where there is no file.
    """
    path = _path(result, folder)
    if result["device"] != "gpu" or not path.exists():
        return []
    before = json.loads(path.read_text())
    versions = [run["machine"]["versions"] for run in (before, result)]
    return before["cases"] if versions[0] == versions[1] else []


def merge(before: list[dict], found: dict) -> list[dict]:
    """Puts a case into those of earlier runs.

    A row that was measured replaces that of an earlier run; one that was not, does not.
    """
    earlier = [case for case in before if case["name"] != found["name"]]
    rows = {row["contender"]: row for row in _rows_before(before, found)}
    rows |= {
        row["contender"]: row
        for row in found["rows"]
        if row["seconds"] or not rows.get(row["contender"], {}).get("seconds")
    }
    order = [case.name for device in CASES.values() for case in device]
    merged = [*earlier, found | {"rows": list(rows.values())}]
    return sorted(merged, key=lambda case: order.index(case["name"]))


def missing_first(before: list[dict], found: dict, names: list[str]) -> list[str]:
    """Returns contenders with those first that earlier runs have not measured."""
    done = {row["contender"] for row in _rows_before(before, found) if row["seconds"]}
    return sorted(names, key=lambda name: name in done)


def _rows_before(before: list[dict], found: dict) -> list[dict]:
    for case in before:
        if case["name"] == found["name"]:
            is_same = all(case[key] == found[key] for key in SAME)
            return case["rows"] if is_same else []
    return []


def keep_count(found: dict, folder: pathlib.Path) -> None:
    """Puts a count into counted.json of a folder, in the place of an earlier one."""
    path = folder / COUNTED
    before = json.loads(path.read_text()) if path.exists() else []
    key = ("name", "network_kernels")
    others = [one for one in before if any(one[k] != found[k] for k in key)]
    order = [case.name for case in CASES["gpu"]]
    everything = sorted([*others, found], key=lambda one: order.index(one["name"]))
    _write_json(path, everything)


def write_page(folder: pathlib.Path) -> None:
    """Writes gpu.md from what is in the folder gpu."""
    lines = [INTRODUCTION]
    runs = _runs(folder / "gpu")
    lines += ["## Measured", "", *(_measured(runs) if runs else ["Nothing yet.", ""])]
    counted = folder / "gpu" / COUNTED
    if counted.exists():
        found = json.loads(counted.read_text())
        lines += ["## Counted", "", COUNTED_WORDS, *COUNTED_HEADER]
        lines += [*counted_rows(found), "", *_kinds(found)]
    (folder / "gpu.md").write_text("\n".join(lines).rstrip() + "\n")


def _runs(folder: pathlib.Path) -> list[dict]:
    """What was measured, by date; the first file had none."""
    paths = [path for path in folder.glob("*.json") if path.name != COUNTED]
    runs = [json.loads(path.read_text()) for path in paths]
    return sorted(runs, key=lambda run: run.get("date", ""))


def _measured(runs: list[dict]) -> list[str]:
    cases: dict[str, list[list[str]]] = {}
    for run in runs:
        for case in run["cases"]:
            cells = compute_report.cells_of(case)
            rows = cases.setdefault(compute_report.words_of(case), [])
            where = [run["machine"]["commit"], _device_of(case)]
            rows += [[*where, *_without_processor(one)] for one in cells]
    header = [_without_processor(_split(line)) for line in compute_report.HEADER]
    lines = [COLUMNS]
    for words, rows in cases.items():
        lines += [f"### {words}", ""]
        lines += [_line(["commit", "GPU", *header[0]])]
        lines += [_line(["---", "---", *header[1]])]
        lines += [*map(_line, rows), ""]
    lines += ["### Runs", ""]
    for run in runs:
        best = run["limits"]["best"]
        kinds = sorted({_device_of(case) for case in run["cases"]})
        rates = ", ".join(
            f"{best[name] / 1e12:.0f} Tflop/s of {name}"
            for name in best
            if name != "bytes"
        )
        lines.append(
            f"- {run['machine']['commit']} ({run.get('date', 'no date kept')}): "
            f"{', '.join(kinds)}, {best['bytes'] / 1e12:.2f} TB/s (triad), {rates}; "
            f"{machine.words(run['machine'])}; `{run['command']}`"
            + (f"; {run['note']}" if "note" in run else "")
        )
    return [*lines, ""]


def _device_of(case: dict) -> str:
    """Returns the name of the GPU that ctjax ran on, "" where it did not."""
    names = (row["device"] for row in case["rows"] if "device" in row)
    return next(names, "").removeprefix("NVIDIA ")


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _without_processor(cells: list[str]) -> list[str]:
    """Leaves out the case, which is the heading, and the time of the processor."""
    return cells[1:6] + cells[7:]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def counted_rows(found: list[dict]) -> list[str]:
    """The lines of counts in the table."""
    lines = []
    for one in found:
        over = [f"{one['over'][row]:.2f}" for row in roofline.ROWS]
        versions = one["machine"]["versions"]
        lines.append(
            _line(
                [
                    compute_report.words_of(one),
                    one["network_kernels"],
                    f"{one['bytes'] / 1e9:.1f}",
                    *over,
                    f"{one['passes']:.0f}",
                    str(one["kernels"]),
                    f"{one['largest_bytes'] / 1e6:.0f} MB",
                    f"{one['temporary_bytes'] / 1e9:.2f} GB",
                    str(one["broadcasts"]),
                    str(one["transpositions"]),
                    f"{versions['jaxlib']}, {one['machine']['commit']}",
                ]
            )
        )
    return lines


def _kinds(found: list[dict]) -> list[str]:
    """Bytes and launches of each kind of kernel."""
    kinds = list(dict.fromkeys(kind for one in found for kind in one["kinds"]))
    lines = [
        "GB of each kind of kernel, and its launches (other: kernels of our own):",
        "",
        _line(["case", "kernels", *kinds]),
        _line(["---", "---", *["---:"] * len(kinds)]),
    ]
    for one in found:
        cells = []
        for kind in kinds:
            part = one["kinds"].get(kind)
            cells.append(
                f"{part['bytes'] / 1e9:.1f}, {part['kernels']}" if part else ""
            )
        lines.append(_line([one["words"], one["network_kernels"], *cells]))
    return [*lines, ""]


def _path(result: dict, folder: pathlib.Path) -> pathlib.Path:
    return folder / "gpu" / f"{result['machine']['commit']}.json"


def _write_json(path: pathlib.Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
