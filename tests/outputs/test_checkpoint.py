"""Checkpoints of other versions, and saves that fail."""

import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest

import ctjax
from ctjax.config import fields
from ctjax.outputs import checkpoint, checkpoint_saver, checksums, saved_config
from ctjax.outputs.saved_config import CheckpointError, DamagedError
from ctjax.runs import inference, parts, train
from tests.support import tiny

RELEASE = pathlib.Path(__file__).parent / "checkpoint_v0.1"
NETWORK = {"network__blocks_final": 0, "network__blocks_deepest_layer": 0}


@pytest.fixture
def released(tmp_path):
    """The folder of a training of two steps by ctjax 0.1."""
    with zipfile.ZipFile(RELEASE / "run.zip") as file:
        file.extractall(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def expected():
    """What ctjax 0.1 had after two steps and made of the third."""
    with np.load(RELEASE / "expected.npz") as arrays:
        return dict(arrays)


def change_item(folder, change):
    """Changes what a checkpoint says of itself, and its checksums with it."""
    (path,) = (folder / "checkpoints/2/config").glob("metadata")
    item = json.loads(path.read_text())
    change(item)
    path.write_text(json.dumps(item))
    checksums.write_checksums(str(folder / "checkpoints"), 2)


def flat(variables):
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ravel(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    return np.concatenate([leaves[name] for name in sorted(leaves)])


def restore_weights(folder, **changes):
    config = tiny.make(folder, **NETWORK, **changes)
    _, variables = parts.make_network(config, (40, 64))
    return checkpoint.restore_weights(str(folder), variables, config)


def drop(*names):
    """Returns a change after which fields of the network seem added since."""

    def change(item):
        for name in names:
            del item["config"]["network"][name]

    return change


def test_weights_of_the_last_release_are_restored_bit_for_bit(released, expected):
    variables, step = restore_weights(released)
    assert step == 2
    np.testing.assert_array_equal(flat(variables), expected["variables_after_2"])


@pytest.mark.parametrize("change", [None, drop("residual", "kernels", "growth_rate")])
def test_training_goes_on_as_the_last_release_did(released, expected, change):
    if change is not None:
        change_item(released, change)
    state = train.run(tiny.make(released, run__iterations=3, **NETWORK))
    np.testing.assert_allclose(
        flat(state.variables), expected["variables_after_3"], rtol=1e-4, atol=1e-6
    )
    last = (released / "train_metrics.csv").read_text().splitlines()[-1].split(",")
    assert last[0] == "2"
    assert float(last[1]) == pytest.approx(float(expected["loss_of_step_2"]), rel=1e-5)


def test_a_field_added_since_has_its_default(released):
    change_item(released, drop("residual"))
    assert checkpoint.read_network(str(released)).residual is True
    restore_weights(released)
    with pytest.raises(
        CheckpointError,
        match=r"written by ctjax 0\.1\.0: network\.residual is True, expected False",
    ):
        restore_weights(released, network__residual=False)


def test_what_keeps_the_parameters_may_differ(released):
    names = {
        field.name
        for field in fields.dataclasses.fields(fields.Network)
        if field.metadata["option"].keeps_parameters
    }
    assert names == {"name", "weight_decay", "sync_batch_norm", "kernels"}
    restore_weights(
        released,
        network__name="other",
        network__weight_decay=0.1,
        network__sync_batch_norm=True,
        network__kernels="xla",
    )


def test_a_field_of_a_newer_version_is_named(released):
    def add(item):
        item["version"] = "9.1.0"
        item["config"]["network"]["attention"] = True

    change_item(released, add)
    message = (
        rf"/2: written by ctjax 9\.1\.0, unknown to ctjax {ctjax.__version__}: "
        r"network\.attention: no such field"
    )
    with pytest.raises(CheckpointError, match=message):
        restore_weights(released)
    with pytest.raises(CheckpointError, match=message):
        train.run(tiny.make(released, run__iterations=3, **NETWORK))


def test_a_newer_format_is_refused_and_kept(released):
    def make_newer(item):
        item.clear()
        item.update(format=saved_config.FORMAT + 1, version="9.1.0", config="other")

    change_item(released, make_newer)
    message = (
        rf"/2: checkpoint of format {saved_config.FORMAT + 1}, written by ctjax 9\.1\.0"
    )
    for refused in (
        lambda: restore_weights(released),
        lambda: train.run(tiny.make(released, run__iterations=3, **NETWORK)),
        lambda: inference.run(tiny.make(released, mode__name="inference", **NETWORK)),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert (released / "checkpoints/2").is_dir()


@pytest.mark.parametrize("item", [{}, [], {"version": "0.1.0", "config": {}}])
def test_what_is_no_checkpoint_of_ctjax_is_damaged(item):
    with pytest.raises(DamagedError, match="here: not a checkpoint of ctjax"):
        saved_config.from_item(item, "here")


def test_a_checkpoint_says_its_format_version_and_configuration(tmp_path):
    config = tiny.make(tmp_path)
    item = json.loads(json.dumps(saved_config.to_item(config)))
    assert item["format"] == 1 and item["version"] == ctjax.__version__
    assert item["config"] == fields.to_dict(config)
    saved = saved_config.from_item(item, "here")
    assert (saved.network, saved.optimizer) == (config.network, "adam")


def failing(monkeypatch, error, steps):
    """Has saves of some steps raise an error."""
    save = checkpoint_saver.ocp.CheckpointManager.save

    def maybe_save(self, step, *arguments, **more):
        if step in steps:
            raise error
        return save(self, step, *arguments, **more)

    monkeypatch.setattr(checkpoint_saver.ocp.CheckpointManager, "save", maybe_save)


FULL = OSError(28, "No space left on device")


@pytest.mark.slow
def test_three_failed_saves_in_a_row_end_a_training(tmp_path, monkeypatch, caplog):
    failing(monkeypatch, FULL, {4, 6, 8})
    config = tiny.make(tmp_path, run__iterations=20, mode__checkpoint_iteration=2)
    message = r"step 8 could not be saved .* 3 saves in a row have failed"
    with pytest.raises(CheckpointError, match=message) as caught:
        train.run(config)
    assert "\n" not in str(caught.value)
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {"2"}
    assert caplog.text.count("could not be saved") == 3


def test_failed_saves_with_one_between_that_works_end_nothing(tmp_path, monkeypatch):
    failing(monkeypatch, ValueError("RESOURCE_EXHAUSTED"), {2, 4, 8, 10})
    config = tiny.make(tmp_path, run__iterations=12, mode__checkpoint_iteration=2)
    assert int(train.run(config).step) == 12
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert kept == {"6", "12"}


@pytest.mark.parametrize("error", [TypeError, AttributeError, RuntimeError])
def test_a_defect_in_a_save_is_not_taken_for_a_full_disk(tmp_path, monkeypatch, error):
    failing(monkeypatch, error("a defect"), {2})
    config = tiny.make(tmp_path, run__iterations=4, mode__checkpoint_iteration=2)
    with pytest.raises(error, match="a defect"):
        train.run(config)
