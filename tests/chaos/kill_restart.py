"""Kills trainings at random moments and starts them again until they are done.

    python -m tests.chaos.kill_restart --kills 100 --seed 1 --output report.json

Each training is of 1 or 2 processes, is killed with SIGKILL again and again, anywhere
between its start and its end, and goes on each time by the same command. Its last
state and its table are then compared, bit for bit, with those of an unbroken run.
"""

import argparse
import hashlib
import json
import logging
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from ctjax.learning import optimizer, sharding
from ctjax.learning.state import make_state
from ctjax.outputs import checkpoint
from ctjax.runs import parts
from tests.support import ROOT, processes, tiny

logger = logging.getLogger("kill_restart")
STEPS = 300
FIELDS = {"run__iterations": STEPS, "mode__checkpoint_iteration": 20}
LIMIT_S = 300


def main() -> int:
    """Runs trainings until enough have been killed; 0 if none lost anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill_restart")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latest", type=float, default=10.0, help="seconds of a kill")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        results = run(pathlib.Path(name), options.kills, options.latest, generator)
    kills = sum(result["kills"] for result in results)
    same = sum(result["same"] for result in results)
    compared = sum(result["bytes_compared"] for result in results)
    hangs = sum(result["hangs"] for result in results)
    logger.info(
        "%d kills over %d trainings: %d ended as the unbroken one, %d bytes compared, "
        "%d hangs",
        kills,
        len(results),
        same,
        compared,
        hangs,
    )
    if options.output:
        options.output.write_text(
            json.dumps(results, indent=1) + "\n", encoding="utf-8"
        )
    return 0 if same == len(results) and not hangs else 1


def run(
    folder: pathlib.Path, kills: int, latest_s: float, generator: random.Random
) -> list[dict]:
    """Results of as many trainings as it takes."""
    expected = {}
    for count in (1, 2):
        training = start(folder / f"unbroken{count}", count)
        if training.wait(timeout=LIMIT_S):
            raise RuntimeError("the unbroken training failed")
        expected[count] = fingerprint(folder / f"unbroken{count}")
    results: list[dict] = []
    while sum(result["kills"] for result in results) < kills:
        count = 1 + len(results) % 2
        left = kills - sum(result["kills"] for result in results)
        run_folder = folder / f"run{len(results)}"
        result = {"processes": count, "kills": 0, "hangs": 0, "kill_steps": []}
        while result["kills"] < left:
            if not kill_once(
                run_folder, count, generator.uniform(0.5, latest_s), result
            ):
                break
        finish(run_folder, count, result)
        found = fingerprint(run_folder)
        result["same"] = found["digest"] == expected[count]["digest"]
        result["bytes_compared"] = found["bytes"]
        results.append(result)
        logger.info("%s", json.dumps(result))
    return results


def start(folder: pathlib.Path, count: int) -> subprocess.Popen:
    """Starts a training, or its continuation."""
    command = processes.command(*tiny.flags(folder, **FIELDS))
    if count > 1:
        command = [
            *(processes.MPIRUN, "-n", str(count), "--bind-to", "none"),
            *command,
        ]
    return subprocess.Popen(
        command,
        env=processes.environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_once(folder: pathlib.Path, count: int, delay_s: float, result: dict) -> bool:
    """Whether the training was still there to be killed."""
    training = start(folder, count)
    try:
        training.wait(timeout=delay_s)
        return False
    except subprocess.TimeoutExpired:
        pass
    result["kill_steps"].append(steps_done(folder))
    victims = workers(training.pid) if count > 1 else [training.pid]
    if victims:
        subprocess.run(["kill", f"-{signal.SIGKILL}", str(victims[-1])], check=False)
    else:
        training.kill()
    result["kills"] += 1
    try:
        training.wait(timeout=60)
    except subprocess.TimeoutExpired:
        result["hangs"] += 1
        training.kill()
    return True


def workers(parent: int) -> list[int]:
    """The processes that a launcher has started."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [int(word) for word in found.stdout.split()]


def finish(folder: pathlib.Path, count: int, result: dict) -> None:
    """Lets the training end."""
    begin = time.monotonic()
    try:
        result["status"] = start(folder, count).wait(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        result["hangs"] += 1
        result["status"] = None
    result["last_part_s"] = round(time.monotonic() - begin, 1)


def steps_done(folder: pathlib.Path) -> int:
    """Rows of the table."""
    table = folder / "train_metrics.csv"
    return len(table.read_text("utf-8").splitlines()) - 1 if table.exists() else 0


def fingerprint(folder: pathlib.Path) -> dict:
    """A digest over every array of the last state and every row of the table."""
    config = tiny.make(folder, **FIELDS)
    mesh = sharding.make_mesh(jax.devices()[:1])
    _, variables = parts.make_network(config, (40, 64))
    rule = config.mode.optimizer
    update = optimizer.make_optimizer(rule, optimizer.make_schedule(rule, 1, 1), 0.0)
    state = sharding.replicate(make_state(variables, update), mesh)
    with checkpoint.open_for_saving(str(folder)) as saver:
        restored = checkpoint.restore_latest(saver, state, config)
    digest, num_bytes = hashlib.sha256(), 0
    for leaf in jax.tree.leaves(restored):
        content = np.asarray(leaf).tobytes()
        digest.update(content)
        num_bytes += len(content)
    rows = (folder / "train_metrics.csv").read_bytes().splitlines()
    # Time and rate, the last columns but one, are of the machine.
    table = b"\n".join(
        b",".join([*row.split(b",")[:-3], row.split(b",")[-1]]) for row in rows
    )
    digest.update(table)
    return {"digest": digest.hexdigest(), "bytes": num_bytes + len(table)}


if __name__ == "__main__":
    sys.exit(main())
