"""Each field of the section `run`, changed, changes what it should in a run."""

import os
import pathlib
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import main
from ctjax.base.errors import ConfigError
from ctjax.config import resolve
from ctjax.processes.stop_requests import Interrupted
from ctjax.runs import iotest, train, training_loop
from tests.support import larcv_fixtures, small_runs, tiny
from tests.support.small_runs import entries_of, logits_of, loss_by_hand

pytestmark = pytest.mark.xdist_group("options_of_run")

ROOT = pathlib.Path(__file__).parents[3]


def read_from_the_command_line(folder, environment, **changes):
    flags = tiny.flags(folder, mode__name="iotest", run__iterations=1, **changes)
    return subprocess.run(
        [sys.executable, "-m", "ctjax.main", "--config", "configs/default.py", *flags],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {
        "run": {"id": "mine", "iterations": 1},
        "data": {"synthetic": True, "downsample": 5},
        "mode": {"name": "iotest"},
    }
    iotest.run(resolve.resolve(values))
    assert (tmp_path / "output/uresnet/mine/profiles/io_timings.npy").exists()


def test_iterations(runs):
    assert runs.train().column("train_metrics", "step") == [0, 1]
    three = runs.train(run__iterations=3)
    assert three.column("train_metrics", "step") == [0, 1, 2]
    assert int(three.result.step) == 3
    assert runs.infer().column("inference_metrics", "entry") == list(range(8))
    one = runs.infer(run__iterations=1)
    assert one.column("inference_metrics", "entry") == [0, 1, 2, 3]
    assert len(runs.read(run__iterations=3).timings("io")) == 3


def test_minibatch_size(runs):
    # Eight events at once are those of two steps of four, and a loss whose pixels all
    # weigh the same is the mean of the two steps'.
    (eight,) = runs.train(run__minibatch_size=8, run__iterations=1).losses
    assert eight == pytest.approx(np.mean(runs.train().losses), rel=1e-5)
    assert "Inference report: 2 batches processed for 8 entries." in (
        runs.infer().messages
    )
    assert "Inference report: 1 batches processed for 8 entries." in (
        runs.infer(run__minibatch_size=8).messages
    )
    assert runs.read().result["images"] == 8
    assert runs.read(run__minibatch_size=3).result["images"] == 6


def test_aux_iterations(runs):
    fields = {"data__aux_file": runs.file, "run__aux_minibatch_size": 4}
    every = runs.train(run__aux_iterations=1, run__iterations=4, **fields)
    assert every.column("val_metrics", "step") == [1, 2, 3, 4]
    second = runs.train(run__aux_iterations=2, run__iterations=4, **fields)
    assert second.column("val_metrics", "step") == [2, 4]


def test_aux_minibatch_size(runs, truth):
    image, label = truth
    run = runs.train(
        data__aux_file=runs.file, run__aux_iterations=1, run__aux_minibatch_size=8
    )
    logits = logits_of(run.config, run.variables, image)
    expected = loss_by_hand(logits, label, image)
    # All eight events each time, whatever their order.
    assert run.column("val_metrics", "loss") == pytest.approx([expected] * 2, rel=1e-5)


def test_aux_minibatch_size__is_the_minibatch_where_it_is_not_said(runs, truth):
    image, label = truth
    run = runs.train(data__aux_file=runs.file, run__aux_iterations=2)
    assert run.config.run.aux_minibatch_size == 4
    at = entries_of(0)
    logits = logits_of(run.config, run.variables, image[at])
    assert run.column("val_metrics", "loss") == pytest.approx(
        [loss_by_hand(logits, label[at], image[at])], rel=1e-5
    )


@pytest.mark.parametrize("mode", ["train", "inference"])
def test_compute_mode(runs, tmp_path, mode):
    if pathlib.Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    config = runs.config(mode, tmp_path, run__compute_mode="GPU")
    with pytest.raises(ConfigError, match=r"run\.compute_mode=GPU"):
        small_runs.MODES[mode].run(config)
    messages = runs.train(run__compute_mode="CPU").messages
    assert "Devices: 4 (cpu) of 1 process" in messages


@pytest.mark.parametrize("precision", ["bfloat16", "mixed"])
def test_precision(runs, truth, precision):
    image, label = truth
    at = entries_of(0)
    run = runs.train(run__precision=precision)
    kind = {"bfloat16": jnp.bfloat16, "mixed": jnp.float16}[precision]
    logits = logits_of(run.config, run.variables, image[at], dtype=jnp.dtype(kind))
    expected = loss_by_hand(logits, label[at], image[at])
    exact = runs.train().losses[0]
    # Nearer to the network in this number format than to the one in float32.
    assert abs(run.losses[0] - expected) < 0.2 * abs(run.losses[0] - exact)
    slower = f"run.precision={precision}: on this CPU slower than float32"
    assert any(slower in line for line in run.messages) == (precision == "mixed")
    scale = 2.0**16 if precision == "mixed" else 1.0
    assert set(run.scalars("train")["loss_scale"].values()) == {scale}
    assert {leaf.dtype for leaf in run.params.values()} == {np.dtype("f4")}


def test_precision__of_inference(runs):
    def scores(run):
        planes = [p for event in run.predictions("cosmic_prediction") for p in event]
        return np.concatenate([plane["value"] for plane in planes])

    exact, half = scores(runs.infer()), scores(runs.infer(run__precision="float16"))
    # float16 has 11 bits: charges of 50 are rounded by 0.02, scores by some percent.
    assert 1e-5 < np.abs(half - exact).max() < 0.1


@pytest.mark.slow
def test_remat(runs, tmp_path):
    """What is computed twice stands twice in the program of the step."""
    blocks = {"network__blocks_per_layer": 1, "network__blocks_final": 1}
    convolutions, losses = {}, {}
    for remat in ("none", "block", "stage"):
        config = runs.config("train", tmp_path / remat, run__remat=remat, **blocks)
        with small_runs.lowered_programs() as programs:
            losses[remat] = small_runs.run_and_listen(config).losses
            convolutions[remat] = programs().count("stablehlo.convolution")
    # Three residual blocks of two convolutions (down, up and final), of which each
    # block's last one is needed by nothing behind it.
    assert convolutions["none"] + 3 <= convolutions["block"]
    assert convolutions["none"] + 3 <= convolutions["stage"]
    assert losses["block"] == losses["stage"] == pytest.approx(losses["none"], rel=1e-5)


def test_distributed(tmp_path):
    """A launcher's variables that cannot be are noticed where they are looked at."""
    rank_5_of_2 = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "2"}
    joined = read_from_the_command_line(tmp_path, rank_5_of_2)
    assert joined.returncode == 1
    assert "OMPI_COMM_WORLD_RANK=5" in joined.stderr
    alone = read_from_the_command_line(tmp_path, rank_5_of_2, run__distributed=False)
    assert alone.returncode == 0, alone.stderr


def test_max_time(runs, tmp_path):
    config = runs.config(
        "train", tmp_path, run__max_time=1e-3, run__iterations=20, data__prefetch=1
    )
    with pytest.raises(Interrupted, match=r"run\.max_time"):
        train.run(config)
    rows = small_runs.Finished(config, None, []).table("train_metrics")
    assert 1 <= len(rows) < 20
    assert (tmp_path / "checkpoints" / str(len(rows))).is_dir()


@pytest.mark.parametrize("timeout, watchdogs", [(1000, 1), (None, 0)])
def test_step_timeout(runs, tmp_path, timeout, watchdogs, monkeypatch):
    """A thread watches the steps; tests/runs/test_reliability.py sees it end a run."""
    found = []
    fetch = jax.device_get

    def device_get(tree):
        found.append([t.name for t in threading.enumerate() if "watchdog" in t.name])
        return fetch(tree)

    monkeypatch.setattr(jax, "device_get", device_get)
    changes = {} if timeout is None else {"run__step_timeout": timeout}
    train.run(runs.config("train", tmp_path, **changes))
    assert max(map(len, found)) == watchdogs


def test_on_nonfinite(runs, tmp_path):
    # A charge that is squared to infinity on its way through the network.
    events = [list(planes) for planes in runs.events[:4]]
    ids, values, classes = events[2][0]
    events[2][0] = ids, np.full_like(values, 9e5), classes
    path = larcv_fixtures.write_larcv(tmp_path / "hot.h5", events, small_runs.SHAPE)
    fields = {
        "data__file": str(path),
        "run__precision": "mixed",
        "run__minibatch_size": 4,
    }
    with pytest.raises(training_loop.TrainingError, match=r"step 0: loss (nan|inf)"):
        train.run(runs.config("train", tmp_path / "stop", **fields))
    skipped = small_runs.run_and_listen(
        runs.config("train", tmp_path / "skip", run__on_nonfinite="skip", **fields)
    )
    assert int(skipped.result.step) == 2
    assert sum("update skipped" in message for message in skipped.messages) == 2
    # Who reads the log takes every line with these words for one with the speed.
    steps = [message for message in skipped.messages if "train Step" in message]
    assert len(steps) == 2 and all(line.endswith("(Step)(s))") for line in steps)


def test_start_timeout(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    first_of_two = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_PROCESS_ID": "0",
        "JAX_NUM_PROCESSES": "2",
    }
    alone = read_from_the_command_line(tmp_path, first_of_two, run__start_timeout=2)
    assert alone.returncode != 0
    assert "within 2 s (run.start_timeout)" in alone.stderr


def test_profile(runs):
    run = runs.train(run__profile=True)
    assert list((run.folder / "profiles").rglob("*.xplane.pb"))
    words = "Compiled training step, each device: "
    assert sum(message.startswith(words) for message in run.messages) == 1
    plain = runs.train()
    assert not list((plain.folder / "profiles").rglob("*.xplane.pb"))
    assert not any(message.startswith(words) for message in plain.messages)


def kernels(run):
    return {path: leaf for path, leaf in run.params.items() if path[-1] == "kernel"}


def test_fresh(runs, tmp_path, monkeypatch):
    """More of it in tests/runs/test_starting_again.py."""
    monkeypatch.setattr(main.report, "write_after_run", lambda folder: None)
    for fresh, folders in ((False, 1), (False, 1), (True, 2)):
        main.run(runs.config("iotest", tmp_path / "run", run__fresh=fresh))
        assert len(list(tmp_path.iterdir())) == folders


def test_seed(runs):
    drawn, other = kernels(runs.train()), kernels(runs.train(run__seed=7))
    for path, kernel in other.items():
        assert not np.any(kernel == drawn[path])
    # Glorot's bound for 5 x 5 x 1 -> 2 features, and the seventh seed's numbers.
    path = ("initial_convolution", "conv", "kernel")
    bound = np.sqrt(6 / (25 * (1 + 2)))
    names = sorted([("params", *path) for path in runs.train().params])
    random = np.random.default_rng([7, names.index(("params", *path))])
    expected = random.uniform(-bound, bound, (5, 5, 1, 2)).astype(np.float32)
    np.testing.assert_array_equal(other[path], expected)


def test_seed__of_an_inference_before_any_training(runs, tmp_path):
    fields = {"data__synthetic": True, "data__downsample": 5, "run__iterations": 1}
    found = [
        small_runs.run_and_listen(
            runs.config("inference", tmp_path / str(seed), run__seed=seed, **fields)
        ).result
        for seed in (0, 7)
    ]
    assert found[0] != found[1]
