"""A run that is started again: what it says, and what it moves aside."""

import os

import pytest

from ctjax import main
from ctjax.base.errors import ConfigError
from ctjax.outputs import lock
from ctjax.outputs.saved_config import CheckpointError
from tests.support import small_runs

pytestmark = pytest.mark.xdist_group("runs_that_start_again")


@pytest.fixture(scope="module")
def first(runs):
    """A training of two steps, to which nothing else is done."""
    return runs.train()


def again(runs, first, **changes):
    """Starts in the folder of a finished run."""
    config = runs.config("train", first.folder, **changes)
    return small_runs.run_and_listen(config)


def test_a_finished_run_says_what_to_do(runs, first):
    (line,) = (m for m in again(runs, first).messages if "done before" in m)
    assert line == (
        "Step 2 of 2: done before, so that nothing is run; expected more "
        "run.iterations, another run.id, or run.fresh=True, which moves "
        f"{first.folder} aside and starts anew"
    )


def test_what_differs_is_said_and_weights_are_not_left_unused_in_silence(runs, first):
    """The run is over, so that nothing is compiled for it."""
    other = str(first.folder.parent / "other")
    messages = again(
        runs, first, run__minibatch_size=8, data__seed=2, mode__weights_location=other
    ).messages
    assert [m for m in messages if m.startswith("Another run than")] == [
        "Another run than up to step 2: run.minibatch_size=8 from here on, 4 before",
        "Another run than up to step 2: data.seed=2 from here on, 0 before",
    ]
    (line,) = (m for m in messages if "weights_location" in m)
    assert line.startswith(
        f"mode.weights_location={other} is not used: the run goes on"
    )
    assert not any("Another run" in m for m in again(runs, first).messages)


def test_other_images_are_refused_when_a_run_goes_on(runs, first):
    message = r"data\.downsample is 0, expected 1; mode\.allow_other_images=True"
    with pytest.raises(CheckpointError, match=message):
        again(runs, first, data__downsample=1)
    messages = again(
        runs, first, data__downsample=1, mode__allow_other_images=True
    ).messages
    said = "Another run than up to step 2: data.downsample=1 from here on, 0 before"
    assert said in messages


@pytest.fixture
def read_into(runs, monkeypatch):
    """Runs the IO test as the command line does, into a folder."""
    monkeypatch.setattr(main.report, "write_after_run", lambda folder: None)

    def read(folder, **changes):
        main.run(runs.config("iotest", folder, **changes))

    return read


def test_fresh_moves_the_former_run_aside(read_into, tmp_path):
    folder = tmp_path / "run"
    for count in range(3):
        read_into(folder, run__fresh=True, run__iterations=count + 1)
    names = ["run", "run.old-1", "run.old-2"]
    assert sorted(os.listdir(tmp_path)) == names
    logs = [(tmp_path / name / "process.log").read_text() for name in names]
    moved = [f"run.fresh=True: the former run is now in {folder}.old-2", None, None]
    moved[2] = f"run.fresh=True: the former run is now in {folder}.old-1"
    for text, words in zip(logs, moved, strict=True):
        assert text.count("the former run is now in") == (words is not None)
        assert words is None or words in text
    # The oldest is the first.
    assert [text.count("time to fetch a minibatch") for text in logs] == [3, 1, 2]


def test_without_fresh_nothing_is_moved(read_into, tmp_path):
    for _ in range(2):
        read_into(tmp_path / "run", run__iterations=1)
    assert os.listdir(tmp_path) == ["run"]


def test_fresh_leaves_a_run_that_is_under_way_alone(read_into, tmp_path):
    folder = tmp_path / "run"
    read_into(folder, run__iterations=1)
    with lock.hold(str(folder)):
        with pytest.raises(lock.RunLockError, match="in use by process"):
            read_into(folder, run__fresh=True, run__iterations=1)
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(
    "mode, location",
    [("inference", None), ("train", "."), ("inference", "checkpoints/2")],
)
def test_fresh_does_not_move_the_weights_that_a_run_takes(runs, first, mode, location):
    where = location and str(first.folder / location)
    config = runs.config(
        mode, first.folder, run__fresh=True, mode__weights_location=where
    )
    with pytest.raises(ConfigError, match=r"run\.fresh=True: .* holds the weights"):
        main.run(config)
    assert first.folder.is_dir()
