"""The report of benchmarks/io.py: table, figures and plot."""

import json
import pathlib

COLUMNS = "| what | file | processes x threads | minibatch | images/s | least to most |"


def write(
    cases: list[dict], stages: list[dict], machine: dict, folder: pathlib.Path
) -> None:
    """Writes io.json, io.md and, where matplotlib is installed, io.png."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "cases": cases, "stages": stages}
    (folder / "io.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = describe(cases, stages, machine)
    (folder / "io.md").write_text("\n".join(lines) + "\n")
    plot(cases, folder / "io.png")


def pick(cases: list[dict], downsample: int | None = None, **values) -> list[dict]:
    """Measured cases with these values."""
    return [
        case
        for case in cases
        if case["images_per_s"] is not None
        and (downsample is None or case["downsample"] == downsample)
        and all(case[name] == value for name, value in values.items())
    ]


def best(cases: list[dict], downsample: int | None = None, **values) -> float | None:
    """Highest median of them, or None."""
    rates = [case["images_per_s"] for case in pick(cases, downsample, **values)]
    return max(rates, default=None)


def describe(cases: list[dict], stages: list[dict], machine: dict) -> list[str]:
    """Lines of the page."""
    lines = [
        "# Reading: images a second",
        "",
        "An image is one event: three planes of charge (float32) and of classes,",
        "dense, as CosmicTagger's IO test makes them. Medians of alternating repeats",
        "in one run; all files in the page cache.",
        "",
        f"- Command: `{machine['command']}`",
        f"- Machine: {machine['words'] or machine['processor']}, "
        f"{machine['cpus']} CPUs",
        f"- Python {machine['python']}, numpy {machine['numpy']}, h5py "
        f"{machine['h5py']}, HDF5 {machine['hdf5']}; inflating: "
        f"`{machine['inflate']}`, loops in {machine['loops']}; commit "
        f"{machine['commit']}",
        "- Load averages (1 minute) from the start of the run to its end: "
        + ", ".join(f"{load:.1f}" for load in machine["load_averages"])
        + "; the benchmark alone makes up to 2",
        "",
        "## Against larcv3 and against the limits",
        "",
        "Best of each over processes and threads, on the file as larcv3 wrote it.",
        "The limits are the rates, with all CPUs, of writing zeros over the dense",
        "arrays and of inflating the stored voxels.",
        "",
        "| pooled by | larcv3 | ctjax | ratio | fill | inflate | of the lower limit |",
        "|---|---|---|---|---|---|---|",
    ]
    inflate = best(cases, what="inflate")
    for downsample in (0, 1, 2):
        ours = best(cases, downsample, what="ctjax", layout="as written")
        theirs = best(cases, downsample, what="larcv3")
        fill = best(cases, downsample, what="fill")
        reference = f"{theirs:.0f}" if theirs else "not measured"
        ratio = f"{ours / theirs:.1f}" if theirs else "not measured"
        lines.append(
            f"| {2**downsample} | {reference} | {ours:.0f} | {ratio} | {fill:.0f} | "
            f"{inflate:.0f} | {ours / min(fill, inflate):.0%} |"
        )
    lines += ["", "![images a second](io.png)", "", *describe_stages(stages), ""]
    for downsample in (0, 1, 2):
        lines += [
            f"## Every case, pooled by {2**downsample}",
            "",
            COLUMNS,
            "|---|---|---|---|---|---|",
        ]
        for case in cases:
            if case["downsample"] == downsample:
                lines.append(describe_case(case))
        lines.append("")
    return [
        *lines,
        "`ctjax sparse` is `data.densify=device`: ids, charges and classes as they",
        "would be sent to the device. `ctjax in numpy` is an installation that found",
        "no C compiler. Repacked files are those of `ctjax repack`, one",
        "chunk an event.",
    ]


def describe_stages(stages: list[dict]) -> list[str]:
    """Where the time of an image goes, a column for each pooling and thread count."""
    headings = [
        f"{2 ** column['downsample']}, {column['threads']} "
        f"thread{'s' if column['threads'] > 1 else ''}"
        for column in stages
    ]
    lines = [
        "## Where the time goes",
        "",
        "Milliseconds of processor time per image in one process, minibatches of 2,",
        "by `python -m benchmarks.io_stages` at the end of the same run. No stage",
        "includes another. Inflating is the library's; fetching copies from the page",
        "cache; the memory that `write` and `clear` touch was last touched several",
        "images before, so that both wait for it. `by the clock` is time that passed,",
        "not processor time.",
        "",
        "| pooled by | " + " | ".join(headings) + " |",
        "|---" * (len(headings) + 1) + "|",
    ]
    for stage in stages[0]["ms"]:
        figures = [f"{column['ms'][stage]:.2f}" for column in stages]
        lines.append(f"| {stage} | " + " | ".join(figures) + " |")
    return lines


def describe_case(case: dict) -> str:
    """One row of a table."""
    rate, spread = "not measured", ""
    if case["images_per_s"] is not None:
        rate = f"{case['images_per_s']:.0f}"
        spread = f"{min(case['rates']):.0f} to {max(case['rates']):.0f}"
    return (
        f"| {case['what']} | {case['layout']} | {case['processes']} x "
        f"{case['threads']} | {case['minibatch_size']} | {rate} | {spread} |"
    )


def plot(cases: list[dict], path: pathlib.Path) -> None:
    """Bars of the best rates at each pooling."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = {
        "larcv3": {"what": "larcv3"},
        "ctjax": {"what": "ctjax", "layout": "as written"},
        "ctjax, repacked (gzip)": {"what": "ctjax", "layout": "repacked, gzip"},
        "ctjax, repacked (no filter)": {"what": "ctjax", "layout": "repacked, none"},
        "ctjax, sparse": {"what": "ctjax sparse"},
    }
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    width = 0.8 / len(series)
    for place, (name, values) in enumerate(series.items()):
        rates = [best(cases, downsample, **values) or 0 for downsample in (0, 1, 2)]
        axes.bar([x + place * width for x in range(3)], rates, width, label=name)
    limit = best(cases, what="inflate")
    axes.axhline(limit, color="grey", linestyle="--", label="limit: inflating")
    axes.set_xticks([x + 0.4 - width / 2 for x in range(3)], ["1", "2", "4"])
    axes.set_xlabel("pooled by")
    axes.set_ylabel("images a second")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
