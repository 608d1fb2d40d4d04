"""A training on a disk that fills up, turns read-only or is slow; as root only.

    python -m tests.chaos.full_disk --output report.json

A small tmpfs is mounted (and unmounted at the end) as the run's folder. Training must
go on and say so while two saves fail, and end when a third one in a row does; older
checkpoints must stay whole, and once there is room again the run must end where an
unbroken one ends. The slow disk is a file in memory, mounted so
that every write waits for it, at so many bytes a second; it needs control groups of the
first version.
"""

import argparse
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.support import ROOT, processes, tiny

logger = logging.getLogger("full_disk")
STEPS = 60
THROTTLE = pathlib.Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
SLOW_BYTES_PER_S = 200_000
FAULTS = {"full": 24, "read-only": 24, "full for good": 2}
"""Steps between checkpoints: two saves come after the fault, or many."""


def main() -> int:
    """Runs the faults; returns 0 if all went as they must."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.full_disk")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        train(folder / "unbroken", 24).wait()
        expected = last_losses(folder / "unbroken")
        results = [with_fault(folder / fault, fault, expected) for fault in FAULTS]
        slow = on_slow_disk(folder / "slow", expected) if THROTTLE.exists() else None
    results += [slow] if slow else []
    for result in results:
        logger.info("%s", json.dumps(result))
    if options.output:
        options.output.write_text(
            json.dumps(results, indent=1) + "\n", encoding="utf-8"
        )
    return (
        0 if all(r["went_on"] and r["loud"] and r["same_end"] for r in results) else 1
    )


def train(folder: pathlib.Path, steps_between: int) -> subprocess.Popen:
    """Starts the training, with so many steps between checkpoints."""
    fields = {"run__iterations": STEPS, "mode__checkpoint_iteration": steps_between}
    return subprocess.Popen(
        processes.command(*tiny.flags(folder, **fields)),
        env=processes.environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def with_fault(folder: pathlib.Path, fault: str, expected: list[str]) -> dict:
    """Lets the disk fail in the middle of a run, mends it, and starts the run again."""
    folder.mkdir()
    is_full, steps_between = fault.startswith("full"), FAULTS[fault]
    size = "size=3m" if is_full else "size=64m"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True
    )
    filler = folder / "filler"
    covered = folder / "run" / "checkpoints"
    try:
        run = folder / "run"
        training = train(run, steps_between)
        wait_for_rows(run, steps_between + 4, training)
        if is_full:
            fill(filler)
        else:
            # What is being written to cannot be remounted, but covered.
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(covered)], check=True
            )
        try:
            output, _ = training.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            training.kill()
            output, _ = training.communicate()
        status = training.returncode
        if fault == "read-only":
            subprocess.run(["umount", str(covered)], check=True)
        filler.unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,rw,size=64m", str(folder)], check=True)
        again = train(run, steps_between)
        last, _ = again.communicate(timeout=300)
        same = again.returncode == 0 and last_losses(run) == expected
        if not same:
            logger.error("%s", last[-2000:])
        # Every step is on the terminal, whatever the disk takes.
        is_done = f"train Step {STEPS - 1} metrics" in output
        is_ended = "3 saves in a row have failed" in output and not is_done
        return {
            "fault": fault,
            "status": status,
            "went_on": is_ended if fault == "full for good" else is_done,
            "loud": "could not be saved" in output and status == 1,
            "restarted_from": restarted_from(last),
            "same_end": same,
        }
    finally:
        for mounted in (covered, folder):
            subprocess.run(["umount", str(mounted)], check=False, capture_output=True)


def on_slow_disk(folder: pathlib.Path, expected: list[str]) -> dict:
    """Runs from start to end on a disk that takes little at a time."""
    folder.mkdir()
    image = pathlib.Path(tempfile.mkstemp(dir="/dev/shm")[1])
    with open(image, "wb") as file:
        file.truncate(2**26)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop,sync", str(image), str(folder)], check=True)
    device = os.stat(folder).st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        THROTTLE.write_text(f"{name} {SLOW_BYTES_PER_S}", encoding="utf-8")
        run, start = folder / "run", time.monotonic()
        training = train(run, 2)
        output, _ = training.communicate(timeout=1800)
        seconds = time.monotonic() - start
        return {
            "fault": "slow",
            "status": training.returncode,
            "went_on": f"train Step {STEPS - 1} metrics" in output,
            "loud": training.returncode == 0,  # nothing to be loud about
            "bytes_per_s": SLOW_BYTES_PER_S,
            "seconds": round(seconds, 1),
            "same_end": last_losses(run) == expected,
        }
    finally:
        THROTTLE.write_text(f"{name} 0", encoding="utf-8")
        subprocess.run(["umount", str(folder)], check=False)
        image.unlink()


def fill(path: pathlib.Path) -> None:
    """Writes until there is no room."""
    try:
        with open(path, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        return


def wait_for_rows(run: pathlib.Path, count: int, training: subprocess.Popen) -> None:
    """Waits for steps in the table."""
    table = run / "train_metrics.csv"
    deadline = time.monotonic() + 240
    while not table.exists() or len(table.read_text("utf-8").splitlines()) <= count:
        if training.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the training does not get on")
        time.sleep(0.02)


def last_losses(run: pathlib.Path) -> list[str]:
    """Step and loss of every row."""
    lines = (run / "train_metrics.csv").read_text("utf-8").splitlines()[1:]
    return [",".join(line.split(",")[:2]) for line in lines]


def restarted_from(output: str) -> str:
    """The log's words about where the run went on."""
    lines = [line for line in output.splitlines() if "Restored step" in line]
    return lines[0].partition("Restored step ")[2].split()[0] if lines else "scratch"


if __name__ == "__main__":
    sys.exit(main())
