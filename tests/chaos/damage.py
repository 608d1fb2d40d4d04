"""Damages the newest checkpoint at random and looks at what is restored.

    python -m tests.chaos.damage --rounds 200 --seed 1 --output report.json

A file of it is cut, has a bit flipped, or is deleted. What is restored must be, bit for
bit, the state of the checkpoint before it, or that of the newest one where the damage
does not touch what it holds.
"""

import argparse
import json
import logging
import pathlib
import random
import shutil
import sys
import tempfile

import jax
import numpy as np

from ctjax.learning import optimizer, sharding
from ctjax.learning.state import make_state
from ctjax.outputs import checkpoint
from ctjax.runs import parts, train
from tests.support import tiny

logger = logging.getLogger("damage")
FIELDS = {"run__iterations": 6, "mode__checkpoint_iteration": 2}


def main() -> int:
    """Runs the rounds; 0 if nothing wrong was ever restored."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.damage")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args()
    logging.getLogger("ctjax").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        counts = run(pathlib.Path(name), options.rounds, random.Random(options.seed))
    sys.stdout.write(f"{json.dumps(counts)}\n")
    if options.output:
        options.output.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return 1 if counts["wrong"] else 0


def run(folder: pathlib.Path, rounds: int, generator: random.Random) -> dict:
    """How often each damage led to what."""
    original = folder / "original"
    config = tiny.make(original, **FIELDS)
    train.run(config)
    mesh = sharding.make_mesh(jax.devices()[:1])
    _, variables = parts.make_network(config, (40, 64))
    rule = config.mode.optimizer
    update = optimizer.make_optimizer(rule, optimizer.make_schedule(rule, 1, 1), 0.0)
    like = sharding.replicate(make_state(variables, update), mesh)
    good = {}
    for step in (4, 6):
        copy = folder / "copy"
        shutil.copytree(original, copy)
        if step == 4:
            shutil.rmtree(copy / "checkpoints" / "6")
        good[step] = restore(copy, like, config)
        shutil.rmtree(copy)
    counts = {"rounds": 0, "restored 4": 0, "restored 6": 0, "wrong": 0}
    for _ in range(rounds):
        copy = folder / "copy"
        shutil.copytree(original, copy)
        kind = damage(copy / "checkpoints" / "6", generator)
        state = restore(copy, like, config)
        shutil.rmtree(copy)
        step = int(state.step)
        is_right = step in good and all(
            np.array_equal(a, b)
            for a, b in zip(
                jax.tree.leaves(state), jax.tree.leaves(good[step]), strict=True
            )
        )
        counts["rounds"] += 1
        counts[f"restored {step}" if is_right else "wrong"] += 1
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def restore(folder: pathlib.Path, like, config):
    """What a run started in this folder would begin with."""
    with checkpoint.open_for_saving(str(folder)) as saver:
        return jax.device_get(checkpoint.restore_latest(saver, like, config))


def damage(folder: pathlib.Path, generator: random.Random) -> str:
    """Harms one file; returns how."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    path = generator.choice(files)
    content = bytearray(path.read_bytes())
    kind = generator.choice(("cut", "flipped", "deleted"))
    if kind == "cut":
        path.write_bytes(content[: generator.randrange(len(content))])
    elif kind == "flipped":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
    else:
        path.unlink()
    return kind


if __name__ == "__main__":
    sys.exit(main())
