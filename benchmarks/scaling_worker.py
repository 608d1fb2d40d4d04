"""One process of benchmarks/scaling.py: times the parts of a training step.

Three loops alternate. "alone": the step on this process's own devices and events, with
no other process to talk to. "step": the step of all processes, its minibatch on the
devices already. "whole": reading, transfer and step as a training has them. Their
differences are what communication and reading cost beyond what they hide.
"""

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import machine
from ctjax.config import resolve
from ctjax.config.fields import Config
from ctjax.data import order
from ctjax.learning import compiled, devices, optimizer, sharding, steps
from ctjax.learning.state import count_parameters, make_state
from ctjax.processes import join, launchers
from ctjax.runs import parts


def compile_step(config: Config, mesh: Any, image_shape: tuple[int, int]) -> tuple:
    """The compiled training step of a mesh, and the first state on it."""
    model, variables = parts.make_network(config, image_shape)
    rule = config.mode.optimizer
    schedule = optimizer.make_schedule(rule, 1, 1)
    update = optimizer.make_optimizer(rule, schedule, config.network.weight_decay)
    step = steps.make_train_step(
        model=model,
        optimizer=update,
        schedule=schedule,
        options=parts.make_step_options(config, image_shape),
    )
    state = sharding.replicate(make_state(variables, update), mesh)
    return compiled.compile_train_step(step, mesh), state


def seconds_per_step(loop: Callable[[int], None], num_steps: int) -> float:
    """Times some steps after all processes have met."""
    if jax.process_count() > 1:
        join.wait_for_all("loop")
    start = time.perf_counter()
    loop(num_steps)
    return (time.perf_counter() - start) / num_steps


def draw_entries(
    num_events: int, minibatch_size: int, processes: Any, num_devices: int
) -> Iterator[np.ndarray]:
    """Yields the entries that this process reads of every minibatch, without end."""
    for step in itertools.count():
        entries = order.training_entries(num_events, minibatch_size, 0, step)
        yield order.local_entries(
            entries, processes.index, processes.count, num_devices
        )


def measure(config: Config, processes: Any, repeats: int, num_steps: int) -> dict:
    """Medians over the repeats of the three loops, by this process."""
    everywhere = devices.select(config.run.compute_mode)
    here = sharding.make_mesh(jax.local_devices())
    size = config.run.minibatch_size
    with parts.open_events(config.data, config.data.file, True) as source:
        entries = draw_entries(source.num_events, size, processes, everywhere.size)
        together, state = compile_step(config, everywhere, source.image_shape)
        apart, own_state = compile_step(config, here, source.image_shape)
        with parts.read_events(config, source, entries, everywhere) as reader:
            minibatch = jax.tree.map(np.copy, parts.step_arrays(next(reader)))
            never = np.zeros(len(minibatch.mask), np.float32)
            arrays = sharding.distribute((minibatch, never), everywhere)
            own_arrays = sharding.distribute((minibatch, never), here)
            program = together.lower(state, *arrays).compile().as_text()
            held = {"state": state, "own": own_state}

            def alone(count: int) -> None:
                for _ in range(count):
                    held["own"], results = apart(held["own"], *own_arrays)
                jax.block_until_ready(results)

            def step(count: int) -> None:
                for _ in range(count):
                    held["state"], results = together(held["state"], *arrays)
                jax.block_until_ready(results)

            def whole(count: int) -> None:
                before = None
                for _ in range(count):
                    minibatch = next(reader)
                    given = parts.step_arrays(minibatch), never
                    given = sharding.distribute(given, everywhere)
                    held["state"], results = together(held["state"], *given)
                    if before is not None:
                        jax.block_until_ready(before[1])
                        reader.release(before[0])
                    before = minibatch, results
                jax.block_until_ready(before[1])
                reader.release(before[0])

            loops = {"alone": alone, "step": step, "whole": whole}
            for loop in loops.values():
                loop(1)  # compiles
            times: dict[str, list[float]] = {name: [] for name in loops}
            for _ in range(repeats):
                for name, loop in loops.items():
                    times[name].append(seconds_per_step(loop, num_steps))
        found = sharding.collectives(program)
        return {
            "times": times,
            "devices": everywhere.size,
            "collectives": len(found),
            "collective_bytes": sum(number for _, number in found),
            "parameters": count_parameters(held["state"].params),
            "image_shape": list(source.image_shape),
        }


def main() -> None:
    """Measures; the first process writes the JSON file."""
    output, repeats, num_steps, fields = sys.argv[1:5]
    config = resolve.resolve(json.loads(fields))
    processes = join.start(config, launchers.find(os.environ))
    result = measure(config, processes, int(repeats), int(num_steps))
    names = list(result["times"])
    times = np.array([result["times"][name] for name in names])
    if processes.count > 1:
        # The slowest process sets the pace.
        times = join.gather(times).max(0)
    result["times"] = {
        name: [round(float(s), 6) for s in row]
        for name, row in zip(names, times, strict=True)
    }
    result["medians"] = {k: statistics.median(v) for k, v in result["times"].items()}
    result["machine"] = machine.describe("jax", "jaxlib", "flax", "numpy")
    if processes.is_first:
        with open(output, "w") as file:
            json.dump(result, file)


if __name__ == "__main__":
    main()
