"""The command line as a user meets it, in processes of its own."""

import contextlib
import csv
import fcntl
import os
import pathlib
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from ctjax.config import fields as config_fields
from tests.support import ROOT, tiny

DEFAULT = ["--config", str(ROOT / "configs" / "default.py")]


def run(*arguments, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "ctjax.main", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def assert_one_line(result, *words):
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.stdout + result.stderr


def test_train_then_infer_from_the_command_line(tmp_path):
    trained = run(*DEFAULT, *tiny.flags(tmp_path))
    assert trained.returncode == 0, trained.stderr
    log = (tmp_path / "process.log").read_text()
    assert log in trained.stdout
    for words in (
        r"-- CONFIG --",
        r"INFO - Total number of trainable parameters in this network: \d+",
        r"Total time to batch process except first iteration: [\d.]+, throughput: ",
        r"Total time to batch process except first two iterations: [\d.]+, through",
    ):
        assert re.search(words, log), words
    with open(tmp_path / "train_metrics.csv", newline="") as file:
        last = {
            name: float(value) for name, value in list(csv.DictReader(file))[3].items()
        }
    timings = np.load(tmp_path / "profiles" / "train_timings.npy")
    names = ("loss", "Average/Non_Bkg_Accuracy", "Average/mIoU")
    values = ", ".join(f"{name}: {last[name]:.4g}" for name in names)
    wait_s, step_s = timings["wait_s"][3], timings["step_s"][3]
    speed = f"{4 / step_s:.3g} Img/s / {wait_s:.2g} IOs / {step_s:.2g} (Step)(s)"
    assert f"train Step 3 metrics: {values} ({speed})\n" in log
    total_s = timings["start_up_s"].sum() + timings["step_s"].sum()
    assert f"Total time to batch_process: {total_s:.4f}\n" in log

    inferred = run(*DEFAULT, *tiny.flags(tmp_path, mode__name="inference"))
    assert inferred.returncode == 0, inferred.stderr
    assert re.search(
        r"Inference report: 4 batches processed for 16 entries\.", inferred.stdout
    )
    assert re.search(r"  Average/mIoU: \d\.\d{4}", inferred.stdout)
    header = (tmp_path / "inference_metrics.csv").read_text().splitlines()[0]
    assert header.startswith("entry,run,subrun,event,file,Average/Total_Accuracy")


def test_iotest_in_the_guides_words_without_jax(tmp_path):
    code = (
        "import sys; from ctjax import main; status = main.main([*sys.argv[1:]"
        "]); assert 'jax' not in sys.modules; sys.exit(status)"
    )
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            *DEFAULT,
            *tiny.flags(tmp_path, mode__name="iotest"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    for words in (
        r"Total IO Time: [\d.]+s",
        r"Total images read per batch: 4",
        r"Average Image IO Throughput: [\d.]+",
    ):
        assert re.search(words, result.stdout), words


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"run.iteratons": 3}, ["run.iteratons", "did you mean run.iterations?"]),
        ({"runn.seed": 3}, ["runn.seed: no such field; did you mean run.seed?"]),
        ({"run": 3}, ["run: no such field"]),
        ({"mode.optimiser.name": "adam"}, ["did you mean mode.optimizer.name?"]),
        ({"network.connections": "foo"}, ["network.connections", "concat, sum, none"]),
        ({"run.iterations": "abc"}, ["run.iterations", "abc"]),
        ({"run.iterations": 0}, ["run.iterations", "at least 1", "leave it out for"]),
        ({"run.minibatch_size": 0}, ["run.minibatch_size", "at least 1"]),
        ({"run.precision": "float16"}, ["run.precision", "bfloat16 or mixed"]),
        ({"data.synthetic": False, "data.file": "/no/such.h5"}, ["/no/such.h5"]),
        ({"data.synthetic": False, "data.file": __file__}, [__file__, "HDF5"]),
        ({"data.planes": "0,1/2"}, ["data.planes=0,1/2", "as many planes"]),
        ({"run.compute_mode": "GPU", "run.iterations": 1}, ["run.compute_mode=GPU"]),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path, changes, words):
    if "run.compute_mode" in changes and _has_gpu():
        pytest.skip("there is a GPU here")
    fields = {**tiny.FIELDS, "output_dir": tmp_path, **changes}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    assert_one_line(run(*DEFAULT, *flags), *words)
    assert not (tmp_path / "train_metrics.csv").exists()


def _has_gpu():
    return pathlib.Path("/dev/nvidia0").exists()


def test_mistakes_of_the_command_itself():
    assert_one_line(run("--config"), "--config: expected a configuration file")
    assert_one_line(run("--config", "configs/none.py"), "configs/none.py")
    assert_one_line(run(*DEFAULT, "--unknown"), "--unknown: expected --config NAME")


def test_without_a_configuration_the_defaults_are_used(tmp_path):
    result = run(f"--config.output_dir={tmp_path}")
    assert_one_line(result, "cosmic_tagging_train.h5")
    log = (tmp_path / "process.log").read_text()
    assert re.search(r"n_initial_filters\.*: 16$", log, re.M)


def test_help_lists_every_field():
    result = run("--help")
    assert result.returncode == 0

    def names(section, prefix):
        for name, value in section.items():
            if isinstance(value, dict):
                yield from names(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}"

    for name in names(config_fields.to_dict(config_fields.Config()), ""):
        assert f"  {name}=" in result.stdout


def run_on_a_terminal(folder, **environment):
    """What a command writes to a pseudo-terminal of 100 columns."""
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    flags = tiny.flags(folder, mode__name="iotest", run__iterations=6)
    process = subprocess.Popen(
        [sys.executable, "-m", "ctjax.main", *DEFAULT, *flags],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", **environment},
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    # Reading the parent's end fails when the child has gone.
    with contextlib.suppress(OSError):
        while part := os.read(parent, 1 << 16):
            shown += part
    os.close(parent)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_bar_on_a_terminal_and_only_there(tmp_path):
    shown = run_on_a_terminal(tmp_path / "terminal")
    assert re.search(r"iotest\S* .*6/6.* images/s.*left", shown)
    # The log's lines stay whole above the bar.
    for line in (tmp_path / "terminal/process.log").read_text().splitlines():
        if "time to fetch" in line:
            assert line in shown
    shown = run_on_a_terminal(tmp_path / "mpirun", OMPI_COMM_WORLD_RANK="0")
    assert "time to fetch" in shown and "\x1b" not in shown and "6/6" not in shown
    result = run(*DEFAULT, *tiny.flags(tmp_path / "pipe", mode__name="iotest"))
    assert "time to fetch" in result.stdout and "\x1b" not in result.stdout
