"""Commands in the documentation exist, and those of ctjax run.

They run one after the other in one folder, as a reader would go through them, on small
files and networks. Benchmarks and chaos runs have tests of their own.
"""

import functools
import importlib.util
import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support import tiny

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page):
    """What begins with a program of ours, in fenced blocks and between backticks."""
    text = page.read_text().replace("\\\n", " ")
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        found += block.splitlines()
    found += re.findall(r"`([^`\n]+)`", text)
    for line in found:
        for part in re.split(r"&&|;|\|", line):
            match = re.search(r"(python3? -m (?:ctjax|benchmarks|tests)\S*.*)", part)
            if match:
                yield match[1].strip()


def all_commands():
    return sorted({(page, c) for page in PAGES for c in commands(page)}, key=str)


@pytest.mark.parametrize("page, command", all_commands())
def test_modules_and_options_exist(page, command):
    words = shlex.split(command.partition(" > ")[0].replace("…", "").replace("...", ""))
    module = words[2]
    assert importlib.util.find_spec(module), f"{page.name}: {command}"
    given = [w for w in words[3:] if w.startswith("--") and len(w) > 2]
    if module == "ctjax.main":
        fields = [w for w in given if w.startswith("--config.")]
        assert not set(given) - set(fields) - {"--config", "--help"}
        values = dict(word[len("--config.") :].split("=", 1) for word in fields)
        files = [b for a, b in itertools.pairwise(words) if a == "--config"]
        for file in files:
            if "NAME" not in file and not file.isupper():
                assert (ROOT / file).exists(), f"{page.name}: {command}"
        known = help_of("ctjax.main")
        for name in values:
            if name.isupper() or name == "x.y":
                continue
            assert f"--config.{name}=" in known, f"{page.name}: {command}"
    else:
        known = help_of(module) if given else ""
        for word in given:
            option = word.split("=")[0]
            assert option in known, f"{page.name}: {command}"


@functools.cache
def help_of(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# What a reader puts in, and what is added to be done in seconds; later words win.
PLACEHOLDERS = {
    "FILE": "events.h5",
    "DIR": ".",
    "CHECKPOINT": "published.npz",
    "CONFIGURATION": "configs/default.py",
    "S": "1",
    "benchmark/": "benchmark",
    "output/uresnet/test/predictions.h5": "predicted/predictions.h5",
    "output/uresnet/second": "predicted",
}
SMALL = {
    "ctjax.main": [
        f"--config.{name}={value}"
        for name, value in tiny.FIELDS.items()
        if name not in ("data.synthetic", "run.iterations", "run.minibatch_size")
        and not name.startswith("mode.")
    ]
    + ["--config.run.iterations=2", "--config.run.minibatch_size=1"]
    + ["--config.data.downsample=3"],
    "ctjax.simulate": [],
}
SMALL["ctjax.import_weights"] = [
    flag for flag in SMALL["ctjax.main"] if flag.startswith("--config.network")
]


def runnable():
    """Every command of ctjax once, in an order in which each finds what it needs."""
    found = {command for _, command in all_commands()}
    found = {c for c in found if re.match(r"python3? -m ctjax\.\S+ +\S", c)}
    order = ("simulate", "config", "mode.name=train", "import_weights", "ctjax.main")

    def rank(command):
        for index, words in enumerate(order):
            if words in command.partition(" ")[2] and "inference" not in command:
                return index, command
        return len(order), command

    return sorted((c for c in found if "…" not in c), key=rank)


def words_of(command):
    """Arguments after the module, with the placeholders filled in."""
    command = re.sub(r"\[.*\]", "", command.partition(" > ")[0])
    words = shlex.split(command)[2:]
    for index, word in enumerate(words):
        name, equals, value = word.rpartition("=")
        words[index] = name + equals + PLACEHOLDERS.get(value, value)
    return words


def prepare(folder):
    """Files that the reader has, published weights, a run with predictions."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    run(folder, ["ctjax.simulate", "--events", "4", "--output", "events.h5"], SHAPE)
    for name in ("train", "val", "test"):
        shutil.copy(folder / "events.h5", folder / f"cosmic_tagging_{name}.h5")
    for name in ("train", "validation"):
        shutil.copy(folder / "events.h5", folder / f"quickstart_{name}.h5")
    shutil.move(folder / "events.h5", folder / "kept.h5")
    main = ["ctjax.main", "--config", "configs/scc21.py", *SMALL["ctjax.main"]]
    main.append("--config.data.file=kept.h5")
    run(folder, main, ["--config.output_dir=scc"])
    run(
        folder,
        main,
        [
            *("--config.mode.name=inference", "--config.mode.write_predictions=True"),
            *("--config.mode.weights_location=scc", "--config.output_dir=predicted"),
            "--config.run.iterations=None",
        ],
    )
    export = ["ctjax.export_weights", "--source", "scc", "--output", "published.npz"]
    run(folder, export)


SHAPE = ["--seed", "1", "--shape", "320,512"]


def run(folder, words, more=()):
    result = subprocess.run(
        [sys.executable, "-m", *words, *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{words}\n{result.stdout}{result.stderr}"


def test_commands_run(tmp_path):
    prepare(tmp_path)
    done = []
    for command in runnable():
        words = words_of(command)
        more = list(SMALL.get(words[0], ()))
        if "--help" in words:
            more = []
        if words[0] == "ctjax.simulate":
            if "--set" in words or "--checksum" in words:
                continue  # hundreds of events; see test_simulate_cli.py
            more = ["--events", "4", "--shape", "320,512"]
            (tmp_path / words[words.index("--output") + 1]).unlink(missing_ok=True)
        if any("quickstart.py" in word for word in words):
            more += ["--config.data.file=kept.h5", "--config.data.aux_file=kept.h5"]
        run(tmp_path, words, more)
        done.append(command)
    assert len(done) > 10
    for made in ("event.png", "both.html", "output/uresnet/first/report.html"):
        assert (tmp_path / made).stat().st_size > 1000
