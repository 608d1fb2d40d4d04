"""A byte that has changed in any file of the newest checkpoint is noticed."""

import pathlib
import shutil

import pytest

from tests.support import small_runs

pytestmark = pytest.mark.xdist_group("runs_of_damage")


@pytest.fixture(scope="module")
def whole(runs):
    """A run with the checkpoints of steps 2 and 4."""
    return runs.train(run__iterations=4, mode__checkpoint_iteration=2)


def restored(runs, folder):
    """Restores the newest checkpoint that is whole; nothing is left to be trained."""
    return small_runs.run_and_listen(runs.config("train", folder, run__iterations=2))


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if path.is_file() and path.stat().st_size]


def test_what_is_whole_is_restored(runs, whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    run = restored(runs, tmp_path)
    assert int(run.result.step) == 4
    assert not any("Damaged" in message for message in run.messages)
    assert not (tmp_path / "checkpoints_damaged").exists()


def test_a_flipped_byte_in_any_file_is_noticed(runs, whole, tmp_path):
    newest = whole.folder / "checkpoints" / "4"
    paths = [path.relative_to(newest) for path in files_of(newest)]
    assert len(paths) > 5
    for number, path in enumerate(paths):
        folder = tmp_path / str(number)
        shutil.copytree(whole.folder, folder)
        damaged = folder / "checkpoints" / "4" / path
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        run = restored(runs, folder)
        words = [m for m in run.messages if m.startswith("Damaged checkpoint: ")]
        assert len(words) == 1 and "/checkpoints/4" in words[0], path
        assert int(run.result.step) == 2, path
        aside = folder / "checkpoints_damaged" / "4" / path
        assert aside.read_bytes() == content


@pytest.mark.parametrize("step", [2, 4])
def test_weights_of_a_damaged_checkpoint_are_refused(runs, whole, tmp_path, step):
    from ctjax.outputs.checkpoint import CheckpointError

    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    location = tmp_path / "checkpoints" / str(step)
    largest = max(files_of(location / "variables"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    config = runs.config(
        "inference", tmp_path / "out", mode__weights_location=str(location)
    )
    with pytest.raises(CheckpointError, match=f"/{step}: damaged"):
        small_runs.run_and_listen(config)
