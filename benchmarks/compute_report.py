"""Numbers, JSON and table of benchmarks/compute.py."""

import json
import pathlib
import statistics

from benchmarks import machine, roofline

WORDS = {
    "ctjax": "ctjax",
    "eager": "torch, eager",
    "channels-last": "torch, channels last",
    "compile": "torch, channels last, compile",
    "xla": "ctjax, columns not as features",
    "columns": "ctjax, columns as features wherever they can be",
    "fused": "ctjax, fused kernels",
    "dense": "ctjax, the network on images",
    "conv-fusion": "ctjax, XLA's fusion of convolutions",
}

HEADER = [
    "| case | contender | images/s | quartiles | ctjax over it | quartiles | by "
    "processor time | of A | of B | of C | peak memory | first result |",
    "|---|---|---:|---|---:|---|---:|---:|---:|---:|---:|---:|",
]


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return {"low": values[0], "median": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"low": low, "median": median, "high": high}


def summarize(row: dict, case: dict) -> None:
    """Adds rates, ratios and fractions of the roofline to a contender's row."""
    if row["seconds"]:
        size = case["minibatch_size"]
        row["images_per_s"] = quartiles([size / s for s in row["seconds"]])
        row["fractions"] = {
            name: least_s * row["images_per_s"]["median"]
            for name, least_s in case["least_s"].items()
        }
    if row.get("pairs"):
        row["ratio"] = quartiles([theirs / ours for ours, theirs in row["pairs"]])
        row["processor_ratio"] = quartiles(
            [theirs / ours for ours, theirs in row["processor_pairs"]]
        )


def rows_of(case: dict) -> list[str]:
    """The lines of a case in the table."""
    return [f"| {' | '.join(cells)} |" for cells in cells_of(case)]


def words_of(case: dict) -> str:
    """A case with what it computes on."""
    height, width = case["image_shape"]
    return (
        f"{case['words']}, {case['precision']}, {height} x {width}, "
        f"minibatch {case['minibatch_size']}"
    )


def cells_of(case: dict) -> list[list[str]]:
    """The cells of a case's lines in the table, as many as `HEADER` has."""
    words = words_of(case)
    lines = []
    for row in case["rows"]:
        name = WORDS[row["contender"]]
        if case["precision"] == "bfloat16":
            name = name.replace("torch", "torch autocast")
        if not row["seconds"]:
            reason = row.get("failed", "not measured").replace("|", "/")[:100]
            lines.append([words, name, reason] + [""] * 9)
            continue
        rate, ratio = row["images_per_s"], row.get("ratio")
        spread = f"{rate['low']:.3g} to {rate['high']:.3g}"
        cells = [words, name, f"{rate['median']:.3g}", spread]
        if ratio:
            cells.append(f"{ratio['median']:.2f}")
            cells.append(f"{ratio['low']:.2f} to {ratio['high']:.2f}")
            cells.append(f"{row['processor_ratio']['median']:.2f}")
        else:
            cells += ["", "", ""]
        fractions = row["fractions"]  # none where there is no roofline
        cells += [
            f"{fractions[name]:.0%}" if name in fractions else ""
            for name in roofline.ROWS
        ]
        peak = row.get("peak_bytes")
        cells.append(f"{peak / 1e9:.2f} GB" if peak else "")
        first = f"{row['setup_s'] + row['first_s']:.0f} s"
        cells.append(f"{first}, kept" if row.get("is_kept") else first)
        lines.append(cells)
    return lines


def write(result: dict, folder: pathlib.Path) -> None:
    """Writes the JSON of a CPU and its page; those of GPUs: compute_history.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compute_cpu.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "# Computation: ctjax beside PyTorch",
        "",
        "The same network, weights, events, minibatch and precision on both sides, by",
        "the steps that `ctjax train` and `ctjax infer` run and by our own torch",
        "network (`benchmarks/torch_peer.py`, equal to CosmicTagger's by a test). The",
        "network of Tasks 2 to 4 is that of `configs/scc21_master.py`. Training:",
        "forward, focal loss, backward, Adam. Inference: forward, class, scores.",
        "ctjax's steps also compute the accuracies and the norm of the gradient or the",
        "loss, as they always do; the peer's do not. Minibatches are on the device.",
        "GPUs have [a page of their own](gpu.md).",
        "",
        "## CPU",
        "",
        *_section(result),
        "## Columns",
        "",
        "Blocks of steps of ctjax and of one contender alternate, each side in a",
        "process of its own with the same number of threads; a step before each block",
        "is not timed. Both leave the C library as it is, as the plain command does",
        "(docs/compute.md).",
        'Images a second: median and quartiles of the blocks. "ctjax over it":',
        "ctjax's rate over the contender's, median and quartiles of neighbouring",
        "blocks; above 1 ctjax is faster. By processor time: the same of the seconds",
        "that the threads of each process ran, which other programs disturb less.",
        "A, B, C: the rate that the bandwidth and matrix rate above allow a program",
        "that runs every operation by itself (A), fuses between convolutions (B) or",
        "with them (C), see `benchmarks/roofline.py`; the percentage is what was",
        "reached of it. Peak memory: of the whole process with its compiler. First",
        "result: seconds from the start of the framework to the end of the first step;",
        'nothing was compiled before, unless "kept" says so.',
    ]
    (folder / "compute.md").write_text("\n".join(lines) + "\n")


def _section(result: dict) -> list[str]:
    """One device: what it was measured on, and the table."""
    best = result["limits"]["best"]
    products = ", ".join(
        f"{best[name] / 1e12:.3g} Tflop/s of {name}" for name in best if name != "bytes"
    )
    rows = [row for case in result["cases"] for row in case["rows"]]
    kinds = {row["device"] for row in rows if "device" in row}
    loads = [load for case in result["cases"] for load in case["load_averages"]]
    lines = [
        f"- Command: `{result['command']}`",
        f"- Machine: {machine.words(result['machine'])}",
        f"- Device: {', '.join(sorted(kinds))}; {result['threads']} threads; load "
        f"average {min(loads):.1f} to {max(loads):.1f}"
        + (f"; convolutions in {result['convolutions']}" if kinds == {"cpu"} else ""),
        f"- Measured limits: {best['bytes'] / 1e9:.3g} GB/s (triad), {products} "
        "(matrix products)",
        f"- {result['repeats']} blocks a contender",
        "",
        *HEADER,
    ]
    for case in result["cases"]:
        lines += rows_of(case)
    return [*lines, ""]
