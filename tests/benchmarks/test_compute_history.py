"""The figures of GPUs by commit: runs add to each other, and the page has them all."""

import json
import pathlib
import shutil
import subprocess

import pytest

from benchmarks import compute_history, compute_report
from benchmarks.compute_process import ROOT

DOCS = ROOT / "docs" / "benchmarks"


def row(contender, *seconds, **more):
    return {"contender": contender, "seconds": list(seconds), "setup_s": 1, **more} | {
        "first_s": 2
    }


def case(name, *rows, **changes):
    found = {
        "name": name,
        "words": f"Task of {name}",
        "precision": "bfloat16",
        "downsample": 0,
        "minibatch_size": 2,
        "image_shape": [1280, 2048],
        "parameters": 7,
        "least_s": {"A": 0.4, "B": 0.2, "C": 0.1},
        "rows": list(rows),
    } | changes
    for one in rows:
        compute_report.summarize(one, found)
    return found


def result(commit, *cases, date=None):
    machine = {"commit": commit, "versions": {"jax": "1"}, "cpus": 2, "python": "3"}
    return {
        "device": "gpu",
        "command": "python -m benchmarks.compute",
        "machine": machine | {"processor": "P"},
        "limits": {"best": {"bytes": 3e12, "bfloat16": 8e14}},
        "cases": list(cases),
    } | ({"date": date} if date else {})


def test_a_second_run_adds_rows_and_replaces_those_it_has_measured():
    before = [case("task3", row("ctjax", 1.0), row("eager", 3.0), row("fused"))]
    found = case(
        "task3", row("ctjax", 2.0), row("eager", failed="slow"), row("compile")
    )
    (merged,) = compute_history.merge(before, found)
    seconds = {one["contender"]: one["seconds"] for one in merged["rows"]}
    assert seconds == {"ctjax": [2.0], "eager": [3.0], "fused": [], "compile": []}


def test_other_sizes_are_not_mixed():
    before = [case("task3", row("eager", 3.0)), case("task2", row("eager", 5.0))]
    found = case("task3", row("ctjax", 2.0), minibatch_size=1)
    task2, task3 = compute_history.merge(before, found)
    assert task2 == before[1]
    assert [one["contender"] for one in task3["rows"]] == ["ctjax"]


def test_what_is_missing_comes_first():
    before = [case("task3", row("ctjax", 1.0), row("eager", 3.0), row("compile"))]
    names = ["eager", "compile", "xla"]
    found = case("task3")
    ordered = compute_history.missing_first(before, found, names)
    assert ordered == ["compile", "xla", "eager"]
    assert compute_history.missing_first([], found, names) == names


def test_runs_of_a_commit_are_read_again(tmp_path):
    run = result("abc1234", case("task3", row("ctjax", 1.0)))
    assert compute_history.read(run, tmp_path) == []
    compute_history.write(run, tmp_path)
    assert compute_history.read(run, tmp_path) == run["cases"]
    assert compute_history.read(result("def5678"), tmp_path) == []
    other = result("abc1234")
    other["machine"]["versions"] = {"jax": "2"}
    assert compute_history.read(other, tmp_path) == []
    assert compute_history.read(run | {"device": "cpu"}, tmp_path) == []


def test_the_page_has_every_commit_in_order(tmp_path):
    for commit, date, seconds in (("b", "2026-02-01", 1.0), ("a", "2026-03-01", 0.5)):
        ours = row("ctjax", seconds, device="NVIDIA G")
        compute_history.write(result(commit, case("task3", ours), date=date), tmp_path)
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    (heading,) = [line for line in lines if line.startswith("### Task of")]
    assert heading.endswith("1280 x 2048, minibatch 2")
    table = [line for line in lines if line.startswith("|")]
    assert table[2].startswith("| b | G | ctjax | 2 |")
    assert table[3].startswith("| a | G | ctjax | 4 |")
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert [line[:4] for line in lines if line.startswith("- ")] == ["- b ", "- a "]


def test_a_count_takes_the_place_of_an_earlier_one(tmp_path):
    def count(name, kernels, total):
        over = {"A": 0.5, "B": 1.0, "C": 2.0}
        return case(name) | {
            "network_kernels": kernels,
            "bytes": total,
            "passes": 4.0,
            "kernels": 5,
            "largest_bytes": 6,
            "temporary_bytes": 7,
            "broadcasts": 0,
            "transpositions": 1,
            "over": over,
            "kinds": {"convolution": {"kernels": 5, "bytes": total}},
            "machine": {"commit": "c", "versions": {"jaxlib": "1"}},
        }

    folder = tmp_path / "gpu"
    compute_history.keep_count(count("task3", "auto", 1e9), folder)
    compute_history.keep_count(count("task2", "auto", 2e9), folder)
    compute_history.keep_count(count("task3", "auto", 3e9), folder)
    compute_history.keep_count(count("task3", "xla", 4e9), folder)
    kept = json.loads((folder / "counted.json").read_text())
    assert [one["bytes"] / 1e9 for one in kept] == [2, 3, 4]
    compute_history.write_page(tmp_path)
    page = (tmp_path / "gpu.md").read_text()
    assert "Nothing yet." in page
    assert (
        "| auto | 3.0 | 0.50 | 1.00 | 2.00 | 4 | 5 | 0 MB | 0.00 GB | 0 | 1 |" in page
    )


def test_the_page_of_the_documentation_is_what_its_files_say(tmp_path):
    shutil.copytree(DOCS / "gpu", tmp_path / "gpu")
    compute_history.write_page(tmp_path)
    assert (tmp_path / "gpu.md").read_text() == (DOCS / "gpu.md").read_text()
    first = json.loads((DOCS / "gpu" / "c2f5cdb.json").read_text())
    assert first["machine"]["commit"] == "c2f5cdb"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected --case with one of task2"),
        (["--case"], "--case: expected a value, found none"),
        (["--case", "task9"], "--case: expected one of task2"),
        (["--cases", "task2"], "expected --case, --wheels or --output, found --cases"),
        (["--case", "task2", "--wheels", "/none"], "expected a folder, found /none"),
    ],
    ids=str,
)
def test_mistakes_of_the_command_end_in_a_line(arguments, expected):
    script = pathlib.Path(ROOT, "benchmarks", "gpu.sh")
    ended = subprocess.run(
        ["bash", str(script), *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 2 and not ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("gpu.sh: ") and expected in line
