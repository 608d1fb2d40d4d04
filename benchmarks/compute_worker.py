"""One side of benchmarks/compute.py: a process with one framework and one step.

Takes a job as one JSON argument and answers one JSON line to each line it is told: the
first, unasked, once the step has run; then seconds for a number of steps; and at "end"
the peak of the memory. Minibatch and weights come as files, the same for all sides.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

CHECKED_STEPS = 3
ELEMENTS = {"cpu": 2**26, "gpu": 2**28}
"""float32 numbers of each array of the triad, beyond any cache."""
PRODUCT_SIZE = {"cpu": 2048, "gpu": 8192}
"""Rows and columns of the matrices that are multiplied."""
LIMIT_REPEATS = 7
LIMIT_CALLS = {"cpu": 1, "gpu": 10}
"""Between two looks at the clock, each of which costs a GPU's time to come back."""


class Side:
    """A framework with its step.

    Attributes:
      step: runs one step, not waiting for its end; returns what `check` looks at.
      wait: returns when all that was started is done.
      check: a number or several of what a step returned, to compare the sides by.
      peak: bytes of the most memory that was in use.
      more: what else the first answer says.
      program: text of the compiled step; None where the framework has none.
    """

    step: Callable[[], Any]
    wait: Callable[[], None]
    check: Callable[[Any], Any]
    peak: Callable[[], int]
    more: dict[str, Any]
    program: str | None = None

    def __init__(self) -> None:
        """The memory of the process, until a side says better."""
        self.peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.more = {}


def ctjax_side(job: dict) -> Side:
    """Times the steps that `ctjax train` and `ctjax infer` compile, on one device."""
    import jax

    from ctjax.config import resolve
    from ctjax.learning import devices, sharding
    from ctjax.runs import parts

    side = Side()
    config = resolve.resolve(job["config"])
    devices.select(config.run.compute_mode)
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    minibatch, image_shape = read_minibatch(config)
    model, variables = parts.make_network(config, image_shape)
    arrays: tuple = (sharding.distribute(minibatch, mesh),)
    if job["training"]:
        stop = np.zeros(len(minibatch.mask), np.float32)
        arrays += (sharding.distribute(stop, mesh),)
    program, held = make_program(
        job["training"], config, model, variables, image_shape, mesh
    )
    held = sharding.replicate(held, mesh)
    compiled = program.lower(held, *arrays).compile()
    side.program = compiled.as_text()
    memory = compiled.memory_analysis()
    if memory is not None:
        side.more["program_bytes"] = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
    latest: dict[str, Any] = {"held": held}

    def step():
        if job["training"]:
            latest["held"], results = compiled(latest["held"], *arrays)
        else:
            results = compiled(latest["held"], *arrays)
        latest["results"] = results
        return results["loss"] if job["training"] else results["prediction"]

    side.step = step
    side.wait = lambda: jax.block_until_ready(latest)
    side.check = _check(job["training"], np.asarray)
    device = jax.local_devices()[0]
    side.more["device"] = device.device_kind
    if device.platform != "cpu":
        side.peak = lambda: device.memory_stats()["peak_bytes_in_use"]
    return side


def read_minibatch(config: Any) -> tuple[Any, tuple[int, int]]:
    """Reads the first minibatch, for one device; returns it and the images' (H, W)."""
    import jax

    from ctjax.learning import sharding
    from ctjax.runs import parts

    mesh = sharding.make_mesh(jax.local_devices()[:1])
    files = config.data.file or ""
    entries = [np.arange(config.run.minibatch_size)]
    with parts.open_events(config.data, files, require_label=True) as source:
        with parts.read_events(config, source, entries, mesh) as reader:
            arrays = parts.step_arrays(next(reader))
        return jax.tree.map(np.array, arrays), source.image_shape


def make_program(
    training: bool,
    config: Any,
    model: Any,
    variables: Any,
    image_shape: tuple,
    mesh: Any,
) -> tuple[Any, Any]:
    """Returns the jitted step of a training or an inference, and what it steps on.

    Args:
      training: whether it trains, else it predicts.
      config: the configuration.
      model: its network.
      variables: of the network.
      image_shape: (H, W).
      mesh: of the devices that the program is for.

    Returns:
      The function, and the state or variables, which are yet to be put on the devices.
    """
    from ctjax.learning import compiled, state, steps
    from ctjax.learning import optimizer as learning_optimizer
    from ctjax.runs import parts

    options = parts.make_step_options(config, image_shape)
    if not training:
        eval_step = steps.make_eval_step(model=model, options=options, with_scores=True)
        program = compiled.compile_eval_step(eval_step, mesh, with_scores=True)
        return program, variables
    rule = config.mode.optimizer
    schedule = learning_optimizer.make_schedule(rule, 1, 1)
    update = learning_optimizer.make_optimizer(
        rule, schedule, config.network.weight_decay
    )
    train_step = steps.make_train_step(
        model=model, optimizer=update, schedule=schedule, options=options
    )
    program = compiled.compile_train_step(train_step, mesh)
    return program, state.make_state(variables, update)


def torch_side(job: dict) -> Side:
    """The peer's network and step, as the contender of the job wants them."""
    import torch

    from benchmarks import torch_peer
    from ctjax.config import fields, resolve

    side = Side()
    config = resolve.resolve(job["config"])
    device = _set_up_torch(torch, job)
    contender = job["contender"]
    layout = torch.contiguous_format
    if contender["channels_last"]:
        layout = torch.channels_last
    model = torch_peer.UResNet(config.network)
    _load_weights(torch, model, job["weights"])
    model = model.to(device, memory_format=layout).train(job["training"])
    minibatch = _load(job["minibatch"])
    image = torch.tensor(minibatch["image"], device=device)
    label = torch.tensor(minibatch["label"], device=device).long()
    rounded = config.run.precision is fields.Precision.BFLOAT16
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=rounded)
    masked = config.mode.mask_empty_pixels

    def objective(image, label):
        with autocast:
            logits = model(image)
        return torch_peer.focal_loss(logits, label)

    @torch.no_grad()
    def prediction(image):
        with autocast:
            logits = model(image)
        return torch_peer.predict(logits, image, masked)

    if contender["compile"]:
        objective, prediction = torch.compile(objective), torch.compile(prediction)
    rule = config.mode.optimizer
    learning_optimizer = torch.optim.Adam(
        model.parameters(), rule.learning_rate, fused=True
    )

    def train():
        learning_optimizer.zero_grad(set_to_none=True)
        loss = objective(image, label)
        loss.backward()
        learning_optimizer.step()
        return loss.detach()

    side.step = train if job["training"] else lambda: prediction(image)[0]
    side.check = _check(job["training"], lambda x: x.cpu().numpy())
    side.wait = lambda: None
    if device.type == "cuda":
        side.wait = torch.cuda.synchronize
        side.peak = torch.cuda.max_memory_allocated
    return side


def _load_weights(torch: Any, model: Any, path: str) -> None:
    """Loads weights into the peer; how many batches it has seen stays at none."""
    tensors = {name: torch.tensor(a) for name, a in _load(path).items()}
    counters = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.endswith("num_batches_tracked")
    }
    model.load_state_dict(tensors | counters, strict=True)


def _set_up_torch(torch: Any, job: dict) -> Any:
    """Threads, and the precision of float32 that JAX has by default: TF32 on GPUs."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda" if job["device"] == "gpu" else "cpu")


def _load(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _check(training: bool, fetch: Callable) -> Callable[[Any], Any]:
    """The loss of a training step, the pixels of each class of a prediction."""
    if training:
        return lambda loss: float(fetch(loss))
    return lambda found: np.bincount(fetch(found).ravel(), minlength=3).tolist()


def ctjax_limits(job: dict) -> dict[str, float]:
    """The rates of `_limits` in JAX."""
    import jax
    import jax.numpy as jnp

    from ctjax.config.fields import ComputeMode
    from ctjax.learning import devices

    cpu = job["device"] == "cpu"
    devices.select(ComputeMode.CPU if cpu else ComputeMode.GPU)
    triad = jax.jit(lambda a, b: 0.5 * a + b, donate_argnums=0)
    size = ELEMENTS[job["device"]]
    held = {"a": jnp.zeros(size), "b": jnp.ones(size)}

    def move():
        held["a"] = triad(held["a"], held["b"])

    product = jax.jit(jnp.matmul)

    def multiply(precision):
        side = PRODUCT_SIZE[job["device"]]
        # Not ones: with those a GPU takes less power and is faster than it ever is.
        matrix = jax.random.normal(jax.random.key(0), (side, side), precision)

        def once():
            held["product"] = product(matrix, matrix)

        return once

    return _limits(job, move, multiply, lambda: jax.block_until_ready(held))


def torch_limits(job: dict) -> dict[str, float]:
    """The rates of `_limits` in PyTorch."""
    import torch

    device = _set_up_torch(torch, job)
    size = ELEMENTS[job["device"]]
    a, b = torch.zeros(size, device=device), torch.ones(size, device=device)

    def multiply(precision):
        side = PRODUCT_SIZE[job["device"]]
        matrix = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
        return lambda: torch.mm(matrix, matrix)

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    return _limits(job, lambda: torch.add(b, a, alpha=0.5, out=a), multiply, wait)


def _limits(
    job: dict, move: Callable, multiply: Callable, wait: Callable
) -> dict[str, float]:
    """Bytes a second of a triad in place, operations a second of matrix products."""
    calls = LIMIT_CALLS[job["device"]]
    found = {"bytes": 12 * ELEMENTS[job["device"]] / _shortest(move, wait, calls)}
    for precision in job["precisions"]:
        number = 2 * PRODUCT_SIZE[job["device"]] ** 3
        found[precision] = number / _shortest(multiply(precision), wait, calls)
    return found


def _shortest(function: Callable, wait: Callable, calls: int) -> float:
    """Seconds of a call in the fastest of some rows of calls, after one to compile."""
    times = []
    for _ in range(1 + LIMIT_REPEATS):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        wait()
        times.append((time.perf_counter() - start) / calls)
    return min(times[1:])


def serve(side: Side, answer: Callable[[dict], None]) -> None:
    """Runs steps as they are asked for."""
    start = time.perf_counter()
    checks = []
    for number in range(CHECKED_STEPS):
        result = side.step()
        side.wait()
        if number == 0:
            first_s = time.perf_counter() - start
        checks.append(side.check(result))
    start = time.perf_counter()
    side.step()
    side.wait()
    one_s = time.perf_counter() - start
    answer({"first_s": first_s, "one_s": one_s, "checks": checks, **side.more})
    for line in sys.stdin:
        if line.strip() == "end":
            break
        # The first step after the other side's turn pays for memory that the kernel has
        # taken back; a training does not.
        side.step()
        side.wait()
        start, processor_start = time.perf_counter(), time.process_time()
        faults_start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(int(line)):
            side.step()
        side.wait()
        seconds = time.perf_counter() - start
        processor_s = time.process_time() - processor_start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults_start
        answer({"seconds": seconds, "processor_s": processor_s, "faults": faults})
    answer({"peak_bytes": side.peak()})


def main() -> None:
    """Does one job."""
    job = json.loads(sys.argv[1])
    os.sched_setaffinity(0, job["cpus"])
    # Answers go out by a channel of their own: libraries print to stdout.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(content: dict) -> None:
        channel.write(json.dumps(content) + "\n")

    if job["contender"] == "limits":
        limits = {"ctjax": ctjax_limits, "torch": torch_limits}[job["framework"]]
        answer(limits(job))
        return
    start = time.perf_counter()
    side = {"ctjax": ctjax_side, "torch": torch_side}[job["framework"]](job)
    side.more["setup_s"] = time.perf_counter() - start
    serve(side, answer)


if __name__ == "__main__":
    main()
