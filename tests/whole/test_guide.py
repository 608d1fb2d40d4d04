"""The four command lines of the SC21 guide, with the name of the program alone changed.

What is added behind them makes events, images and networks small.
"""

import os
import shutil
import subprocess
import sys

import pytest

from ctjax import main
from ctjax.commands import command_line
from ctjax.config.fields import ComputeMode, LossBalanceScheme, ModeName, Precision
from tests.support.processes import environment, needs_mpirun, one_at_a_time

TASK_3 = (
    "--config-name SCC_21.yaml run.id=task3 run.iterations=1000 data.downsample=0 "
    "run.precision=mixed framework=torch run.minibatch_size=${MINIBATCH_SIZE}"
)
GUIDE = {
    "task1": "run.id=task1 mode=iotest run.iterations=100 run.minibatch_size=$MB",
    "task2": "--config-name SCC_21.yaml run.id=task2 run.iterations=1000 "
    "data.downsample=2 framework=torch run.minibatch_size=${MINIBATCH_SIZE}",
    "task3": TASK_3,
    "task4": f"{TASK_3} mode=inference mode.weights_location=${{WEIGHTS}}",
}
VARIABLES = {"MB": "2", "MINIBATCH_SIZE": "2", "WEIGHTS": "trained"}
SMALL = [
    *("run.iterations=3", "data.synthetic=True", "data.downsample=5"),
    *("network.n_initial_filters=2", "network.depth=1", "network.blocks_per_layer=0"),
    *("network.blocks_deepest_layer=0", "network.blocks_final=0"),
    *("network.bottleneck_deepest=4", "run.compute_mode=CPU"),
]


def words_of(task):
    line = GUIDE[task]
    for name, value in VARIABLES.items():
        line = line.replace(f"${{{name}}}", value).replace(f"${name}", value)
    return line.split()


def test_what_the_guides_lines_say():
    first, second, third, fourth = (
        command_line.parse_config(words_of(task))[0] for task in GUIDE
    )
    assert (first.mode.name, first.run.iterations) == (ModeName.IOTEST, 100)
    assert first.network.name == "uresnet" and first.output_dir.endswith("task1")
    for config, task in ((second, "task2"), (third, "task3"), (fourth, "task3")):
        assert config.run.iterations == 1000 and config.run.minibatch_size == 2
        assert config.output_dir == f"output/scc21/{task}"
        assert not config.network.residual
        scheme = config.mode.optimizer.loss_balance_scheme
        assert scheme is LossBalanceScheme.LIGHT
    assert (second.data.downsample, third.data.downsample) == (2, 0)
    assert second.run.precision is Precision.FLOAT32
    assert third.run.precision is Precision.MIXED
    assert second.mode.name is third.mode.name is ModeName.TRAIN
    assert fourth.mode.name is ModeName.INFERENCE
    assert fourth.mode.weights_location == "trained"
    words = [*words_of("task2"), "run.output_dir=path", "run.compute_mode=CPU"]
    elsewhere, _ = command_line.parse_config(words)
    assert elsewhere.output_dir == "path"
    assert elsewhere.run.compute_mode is ComputeMode.CPU


def test_the_first_task_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main.main([*words_of("task1"), *SMALL]) == 0
    log = (tmp_path / "output/uresnet/task1/process.log").read_text()
    assert "Average Image IO Throughput" in log
    assert "run.iterations=100 has no effect: run.iterations=3 is typed behind" in log


def shell(line, folder, program):
    """Runs a line of the guide by a shell, as it is typed."""
    found = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-c", " ".join([program, line, *SMALL])],
        cwd=folder,
        env=environment(PATH=found, **VARIABLES),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@one_at_a_time
@pytest.mark.parametrize(
    "program",
    [
        "python -m ctjax.main",
        pytest.param("mpirun -n 2 python -m ctjax.main", marks=needs_mpirun),
    ],
)
def test_the_guides_lines_run(program, tmp_path):
    closing = {
        "task1": "Average Image IO Throughput: ",
        "task2": "train Step 2 ",
        "task3": "train Step 2 ",
        "task4": "Inference report: ",
    }
    for task, line in GUIDE.items():
        if task == "task4":
            shutil.move(tmp_path / "output/scc21/task3", tmp_path / "trained")
        result = shell(line, tmp_path, program)
        assert result.returncode == 0, result.stdout + result.stderr
        network = "uresnet" if task == "task1" else "scc21"
        # The guide's Task 4 is Task 3 with another mode.
        folder = f"output/{network}/{'task3' if task == 'task4' else task}"
        log = (tmp_path / folder / "process.log").read_text()
        assert closing[task] in log
        assert result.stdout.count(closing[task]) == 1
