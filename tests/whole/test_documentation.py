"""Commands in the documentation exist, and those of ctjax run.

They run one after the other in one folder, as a reader would go through them, on small
files and networks. Benchmarks and chaos runs have tests of their own.
"""

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from ctjax import __main__ as ctjax_main
from ctjax.base.errors import ConfigError
from ctjax.commands import configuration_files, original_words
from ctjax.commands.words import GROUPS
from ctjax.config import resolve
from tests.support import ROOT, tiny

PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if path.name != "CHANGELOG.md"
)
NAMES = "|".join([*ctjax_main.RUNS, *ctjax_main.COMMANDS])
COMMAND = re.compile(
    r"(?:^|\s)(python3? -m (?:ctjax|benchmarks|tests|pytest)\b.*"
    rf"|ctjax (?:{NAMES})\b.*|ctjax \S+ .*--.*)"
)
"""Words after `ctjax` that are no command's, and no option follows, are prose."""
RUNS = ("ctjax.main", *(f"ctjax {name}" for name in ctjax_main.RUNS))


def commands(page):
    """Returns what begins with a program of ours, in blocks and between backticks."""
    text = page.read_text().replace("\\\n", " ")
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        found += block.splitlines()
    found += re.findall(r"^    (\S.*)", text, re.M)
    found += re.findall(r"`([^`\n]+)`", text)
    for line in found:
        for part in re.split(r"&&|;|\|", line.partition(" # ")[0]):
            match = COMMAND.search(part)
            if match:
                yield match[1].strip()


def all_commands():
    return sorted({(page, c) for page in PAGES for c in commands(page)}, key=str)


def words_of(command):
    """Returns what a command runs, a module or `ctjax NAME`, and its arguments."""
    command = re.sub(r"\[.*|…|\.\.\.", "", command.partition(" > ")[0])
    words = shlex.split(command)
    if words[0] == "ctjax":
        return f"ctjax {words[1]}", words[2:]
    module, *arguments = words[2:]
    if module == "ctjax" and arguments:
        return f"ctjax {arguments[0]}", arguments[1:]
    return module, arguments


def check(command):
    """Raises where a program, an option, a field or a file does not exist."""
    program, arguments = words_of(command)
    name = program.removeprefix("ctjax ")
    if name in ("--help", "--version"):
        return
    if name != program:
        assert name in {**ctjax_main.RUNS, **ctjax_main.COMMANDS}, name
    else:
        assert importlib.util.find_spec(program), program
    if program == "pytest":
        for path in re.findall(r"\btests/[^\s:]+", command):
            assert (ROOT / path).exists(), path
    elif program in RUNS:
        check_fields(arguments)
    else:
        known = help_of(program) if any(w.startswith("--") for w in arguments) else ""
        for word in arguments:
            if word.startswith("--"):
                option = re.escape(word.partition("=")[0])
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), word


def check_fields(arguments):
    """Raises where a run's configuration or field does not exist."""
    following = iter(arguments)
    for word in following:
        name, _, value = word.partition("=")
        if name in ("--config", "--config-name"):
            value = value or next(following)
            if not value.isupper() and "NAME" not in value:
                configuration_files.find(value)
        elif name.startswith("--config.") or (value and not name.startswith("-")):
            name = name.removeprefix("--config.")
            is_example = name.rpartition(".")[2].isupper() or name == "x.y"
            if name not in GROUPS and not is_example:
                resolve.check_name(original_words.SAME_FIELDS.get(name, name))
        else:
            assert name == "--help" or word.isupper(), word


@functools.cache
def help_of(program):
    result = subprocess.run(
        [sys.executable, "-m", *program.split(), "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page, command", all_commands())
def test_programs_options_and_files_exist(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "ctjax trian --config scc21",
        "python -m ctjax.trian --config scc21",
        "ctjax train --config scc12",
        "ctjax train --config scc21 --config.run.iteration=3",
        "ctjax run --config-name SCC_12.yaml",
        "ctjax run --config-name SCC_21.yaml run.iteration=3",
        "mpirun -n 2 python -m ctjax.main --config scc21 --configs.run.id=x",
        "ctjax show --file FILE --picture event.png",
        "ctjax repack IN OUT --filt gzip",
        "python -m tests.chaos.damage --round 3",
        "python -m pytest tests/test_nothing.py",
    ],
)
def test_a_mistake_is_noticed(command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    page.write_text(f"As in `{command}`.\n")
    (found,) = commands(page)
    with pytest.raises((AssertionError, ConfigError, ModuleNotFoundError)):
        check(found)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# What a reader puts in, and what is added to be done in seconds; later words win.
PLACEHOLDERS = {
    "FILE": "events.h5",
    "IN": "kept.h5",
    "OUT": "repacked.h5",
    "DIR": ".",
    "CHECKPOINT": "published.npz",
    "CONFIGURATION": "configs/default.py",
    "S": "1",
    "$MB": "1",
    "${MINIBATCH_SIZE}": "1",
    "${ITERATIONS}": "1",
    "${WEIGHTS}": "scc",
    "benchmark/": "benchmark",
    "output/uresnet/test/predictions.h5": "predicted/predictions.h5",
    "output/uresnet/second": "predicted",
}
OF_EXPORT = {"DIR": "scc", "FILE": "exported.npz"}
SMALL = [
    f"--config.{name}={value}"
    for name, value in tiny.FIELDS.items()
    if name not in ("data.synthetic", "run.iterations", "run.minibatch_size")
    and not name.startswith("mode.")
] + [
    "--config.run.iterations=2",
    "--config.run.minibatch_size=1",
    "--config.data.downsample=3",
]
SMALL_NETWORK = [flag for flag in SMALL if flag.startswith("--config.network")]
SHAPE = ["--seed", "1", "--shape", "320,512"]


def runnable():
    """Returns each of ctjax's commands once, each after what makes its files."""
    found = {command for _, command in all_commands()}
    found = {c for c in found if re.match(r"(python3? -m ctjax\S*|ctjax \S+) +\S", c)}

    def rank(command):
        if "=inference" in command or command.startswith("ctjax infer"):
            return 4, command
        order = ("simulate", "config.describe", "ctjax train", "import-weights")
        for index, words in enumerate(order):
            if words in command:
                return index, command
        return (3 if words_of(command)[0] in RUNS else 5), command

    return sorted((c for c in found if "…" not in c), key=rank)


def filled_in(program, arguments):
    """Returns a command's arguments with the placeholders filled in."""
    values = PLACEHOLDERS | (OF_EXPORT if program == "ctjax export-weights" else {})
    words = []
    for word in arguments:
        name, equals, value = word.rpartition("=")
        words.append(name + equals + values.get(value, value))
    return words


def prepare(folder):
    """Makes what the reader has: files, published weights, a run with predictions."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    script = str(ROOT / "examples" / "other_detectors.py")
    subprocess.run(
        [sys.executable, script, "--folder", str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    events = ["--events", "4", "--output", "events.h5", *SHAPE]
    run(folder, "ctjax simulate", events)
    for name in ("train", "val", "test", "light"):
        shutil.copy(folder / "events.h5", folder / f"cosmic_tagging_{name}.h5")
    for name in ("train", "validation"):
        shutil.copy(folder / "events.h5", folder / f"quickstart_{name}.h5")
    shutil.move(folder / "events.h5", folder / "kept.h5")
    fields = ["--config", "scc21", *SMALL, "--config.data.file=kept.h5"]
    run(folder, "ctjax train", [*fields, "--config.output_dir=scc"])
    fields += ["--config.mode.write_predictions=True", "--config.run.iterations=None"]
    fields += ["--config.mode.weights_location=scc", "--config.output_dir=predicted"]
    run(folder, "ctjax infer", fields)
    export = ["--source", "scc", "--output", "published.npz"]
    run(folder, "ctjax export-weights", export)


def run(folder, program, arguments):
    result = subprocess.run(
        [sys.executable, "-m", *program.split(), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, (
        f"{program} {arguments}\n{result.stdout}{result.stderr}"
    )


@pytest.mark.slow
def test_commands_run(tmp_path):
    prepare(tmp_path)
    done = set()
    for command in runnable():
        program, arguments = words_of(command)
        words = filled_in(program, arguments)
        if program == "ctjax simulate":
            if "--set" in words or "--checksum" in words:
                continue  # hundreds of events; see test_simulate.py
            words += ["--events", "4"]
            words += [] if "--detector" in words else ["--shape", "320,512"]
            if "--output" in words:
                (tmp_path / words[words.index("--output") + 1]).unlink(missing_ok=True)
        elif "--help" not in words and program in RUNS:
            words += SMALL
            # All of them in one folder, whatever images the one before had.
            words.append("--config.mode.allow_other_images=True")
            if "quickstart" in command:
                words += [
                    "--config.data.file=kept.h5",
                    "--config.data.aux_file=kept.h5",
                ]
        elif "--help" not in words and program == "ctjax import-weights":
            words += SMALL_NETWORK
        run(tmp_path, program, words)
        done.add(program)
    missing = {f"ctjax {name}" for name in ctjax_main.COMMANDS} - done
    assert not missing, "commands without an example in the documentation"
    for made in (
        "event.png",
        "microboone.png",
        "both.html",
        "output/uresnet/first/report.html",
    ):
        assert (tmp_path / made).stat().st_size > 1000
