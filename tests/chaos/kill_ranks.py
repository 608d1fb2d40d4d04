"""Kills one rank of four at random moments, again and again, and reports.

    python -m tests.chaos.kill_ranks --rounds 20 --seed 1 --output report.json

Each round starts or continues one training by mpirun, kills a rank with SIGKILL, and
asks: did all processes end, within how many seconds, with which status, was the rank
named, and can the last checkpoint be restored.
"""

import argparse
import json
import logging
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from tests.support import ROOT, processes, tiny

RANKS = 4
LIMIT_S = 60
logger = logging.getLogger("kill_ranks")


def main() -> int:
    """Runs the rounds; returns 0 if all of them went as they must."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill_ranks")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    generator = random.Random(options.seed)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            rank, delay_s = generator.randrange(RANKS), generator.uniform(0, 3)
            # Every fourth while all start, the others in the middle of steps.
            num_steps = generator.randrange(1, 10) if number % 4 else 0
            rounds.append(kill_once(pathlib.Path(folder), rank, num_steps, delay_s))
            logger.info("round %d: %s", number, json.dumps(rounds[-1]))
    good = sum(r["ended"] and r["named"] and r["checkpoint_intact"] for r in rounds)
    slowest_s = max(r["seconds_to_end"] for r in rounds)
    logger.info(
        "%d of %d rounds as they must; slowest end %.1f s", good, len(rounds), slowest_s
    )
    if options.output:
        options.output.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")
    return 0 if good == len(rounds) else 1


def kill_once(folder: pathlib.Path, rank: int, num_steps: int, delay_s: float) -> dict:
    """One round; the moment is so many steps and seconds after the start."""
    before = count_steps(folder / "run")
    fields = {"run__iterations": 10**6, "mode__checkpoint_iteration": 2}
    path, text = folder / "output.log", {"encoding": "utf-8", "errors": "replace"}
    with open(path, "w+", **text) as output:
        launcher = subprocess.Popen(
            [
                processes.MPIRUN,
                *("-n", str(RANKS), "--bind-to", "none"),
                *processes.command(*tiny.flags(folder / "run", **fields)),
            ],
            env=processes.environment(),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        pids = wait_for_ranks(launcher)
        deadline = time.monotonic() + 300
        while num_steps and not 0 < count_steps(folder / "run") - before >= num_steps:
            if launcher.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the training does not get on")
            before = min(before, count_steps(folder / "run"))  # rows past a checkpoint
            time.sleep(0.05)
        time.sleep(delay_s)
        steps = count_steps(folder / "run")
        send_kill(pids[rank])
        start = time.monotonic()
        try:
            status = launcher.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
            launcher.kill()
        seconds = time.monotonic() - start
        left = [pid for pid in pids.values() if is_alive(pid)]
        output.seek(0)
        text = output.read()
    return {
        "rank": rank,
        "delay_s": round(delay_s, 2),
        "steps_done": steps,
        "status": status,
        "seconds_to_end": round(seconds, 2),
        "ended": status not in (None, 0) and not left,
        "named": f"process rank {rank} " in text or f"lost rank {rank}" in text,
        "checkpoint_intact": is_checkpoint_intact(folder / "run"),
    }


def wait_for_ranks(launcher: subprocess.Popen) -> dict[int, int]:
    """Process numbers by rank, from the environment of the launcher's children."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = {}
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                parent = int(
                    (path / "stat").read_text("utf-8").rpartition(")")[2].split()[1]
                )
                variables = (path / "environ").read_bytes().split(b"\0")
            except (OSError, ValueError, IndexError):
                continue
            if parent != launcher.pid:
                continue
            for variable in variables:
                name, _, value = variable.partition(b"=")
                if name == b"OMPI_COMM_WORLD_RANK":
                    found[int(value)] = int(path.name)
        if len(found) == RANKS:
            return found
        time.sleep(0.1)
    raise RuntimeError("mpirun did not start its ranks")


def send_kill(pid: int) -> None:
    """Kills a process that may have ended already."""
    subprocess.run(["kill", f"-{signal.SIGKILL}", str(pid)], check=False)


def is_alive(pid: int) -> bool:
    """Whether a process of ctjax still runs under this number."""
    try:
        return b"ctjax.main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def count_steps(folder: pathlib.Path) -> int:
    """Rows of the table of the run."""
    table = folder / "train_metrics.csv"
    return len(table.read_text("utf-8").splitlines()) - 1 if table.exists() else 0


def is_checkpoint_intact(folder: pathlib.Path) -> bool:
    """Whether the newest checkpoint, if there is one yet, can be restored."""
    if not list((folder / "checkpoints").glob("[0-9]*")):
        return True
    code = (
        "from tests.support import finished_runs, tiny; "
        "import sys; folder = sys.argv[1]; "
        "print(finished_runs.last_variables(folder, tiny.make(folder))[1])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env=processes.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        logger.error("%s", result.stderr)
    return result.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
