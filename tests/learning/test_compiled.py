"""Steps that are compiled ahead, and those whose memory is not there."""

import gc
import re
import weakref

import jax
import jax.numpy as jnp
import pytest

from ctjax.base import free_memory
from ctjax.base.errors import UserError
from ctjax.base.free_memory import Memory
from ctjax.learning import compiled, device_memory
from ctjax.processes import launchers
from ctjax.runs import parts, train, training_loop
from tests.support import tiny

NUMBERS = 2**20


@pytest.fixture
def step():
    """A program with four megabytes of results, and more in between."""

    def outer(x):
        return (jnp.sort(jnp.outer(x, x).ravel()) * 2).reshape(1024, 1024)

    return jax.jit(outer)


def with_free(monkeypatch, free):
    monkeypatch.setattr(free_memory, "find", lambda: Memory(free, 10**10, "this place"))


def test_says_when_it_begins_and_how_long_it_took(step, caplog, monkeypatch):
    with_free(monkeypatch, 5 * 10**9)
    caplog.set_level("INFO", "ctjax")
    x = jnp.arange(1024.0)
    call, program = compiled.compile_ahead("training", step, x)
    first, last = caplog.messages
    assert first == "Compiling the training step …"
    assert re.fullmatch(
        r"Compiled the training step in \d+\.\d s; each device: .* GB at most \(.*\); "
        r"5 GB free of 10 GB: this place",
        last,
    )
    assert device_memory.needed_bytes(program) >= 4 * NUMBERS
    assert call(x).shape == (1024, 1024)


def test_compiler_gives_its_memory_back(step, monkeypatch):
    calls = []

    def find():
        calls.append("find")
        return Memory(5 * 10**9, 10**10, "this place")

    monkeypatch.setattr(free_memory, "give_back", lambda: calls.append("give back"))
    monkeypatch.setattr(free_memory, "find", find)
    compiled.compile_ahead("training", step, jnp.arange(1024.0))
    assert calls == ["give back", "find"]  # so that what it had counts as free


def test_arguments_of_another_shape_are_compiled_for_once_more(monkeypatch):
    with_free(monkeypatch, 5 * 10**9)
    call, _ = compiled.compile_ahead("training", jax.jit(lambda x: 2 * x), jnp.ones(3))
    assert call(jnp.ones(3)).tolist() == [2, 2, 2]
    assert call(jnp.ones(5)).tolist() == [2, 2, 2, 2, 2]


def test_a_program_without_room_is_refused_in_one_line(step, monkeypatch):
    with_free(monkeypatch, 4 * NUMBERS - 1)
    with pytest.raises(UserError) as caught:
        compiled.compile_ahead("training", step, jnp.arange(1024.0))
    words = str(caught.value)
    assert "\n" not in words
    assert "found 0.00419 GB free of 10 GB: this place" in words
    for name in ("run.minibatch_size", "data.downsample", "run.remat"):
        assert name in words


def test_all_devices_of_all_processes_share_a_host(step, monkeypatch):
    program = step.lower(jnp.arange(1024.0)).compile()
    needed = device_memory.needed_bytes(program)
    assert needed is not None
    monkeypatch.setattr(launchers, "local_processes", lambda: 3)
    with_free(monkeypatch, 3 * 4 * needed)
    device_memory.check_fits("training", program, jax.devices("cpu")[:4])
    with_free(monkeypatch, 3 * 4 * needed - 1)
    with pytest.raises(UserError, match="the compiled training step needs"):
        device_memory.check_fits("training", program, jax.devices("cpu")[:4])


class Accelerator:
    """A device with memory of its own."""

    platform, device_kind = "gpu", "a GPU"

    def __init__(self, **stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats or None


def test_a_gpu_has_its_own(step, monkeypatch):
    with_free(monkeypatch, 0)
    program = step.lower(jnp.arange(1024.0)).compile()
    room = Accelerator(bytes_limit=10**9, bytes_in_use=10**8)
    found = device_memory.check_fits("training", program, [room, room])
    assert found == "0.9 GB free of 1 GB: a GPU"
    full = Accelerator(bytes_limit=10**9, bytes_in_use=10**9 - NUMBERS)
    with pytest.raises(UserError, match="free of 1 GB: a GPU"):
        device_memory.check_fits("training", program, [full])
    assert (
        device_memory.check_fits("training", program, [Accelerator()])
        == "memory unknown"
    )


@pytest.mark.slow
def test_first_parameters_are_gone_when_a_training_begins(tmp_path, monkeypatch):
    drawn = []
    make_network = parts.make_network

    def make_and_watch(*arguments):
        model, variables = make_network(*arguments)
        drawn.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(variables))
        return model, variables

    def compile_ahead(name, step, state, minibatch, stop):
        gc.collect()
        alive = sum(leaf() is not None for leaf in drawn)
        raise UserError(f"{alive} of {len(drawn)} alive")

    monkeypatch.setattr(parts, "make_network", make_and_watch)
    monkeypatch.setattr(training_loop, "compile_ahead", compile_ahead)
    with pytest.raises(UserError, match=r"^0 of [1-9]\d* alive"):
        train.run(tiny.make(tmp_path))


@pytest.mark.slow
def test_a_training_without_room_ends_before_its_first_step(tmp_path, monkeypatch):
    def compile_ahead(name, step, state, minibatch, stop):
        assert int(state.step) == 0
        raise UserError("no room")

    monkeypatch.setattr(training_loop, "compile_ahead", compile_ahead)
    with pytest.raises(UserError, match="no room"):
        train.run(tiny.make(tmp_path))
    assert len((tmp_path / "train_metrics.csv").read_text().splitlines()) == 1
