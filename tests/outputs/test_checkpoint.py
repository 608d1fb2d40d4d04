"""Checkpoints of other versions, and saves that fail."""

import json
import pathlib
import re
import zipfile

import jax
import numpy as np
import pytest

import ctjax
from ctjax.commands import import_weights
from ctjax.config import fields
from ctjax.models import torch_weights
from ctjax.models.torch_weights import WeightsError
from ctjax.outputs import checkpoint, checkpoint_saver, checksums, saved_config
from ctjax.outputs.saved_config import CheckpointError, DamagedError
from ctjax.runs import inference, parts, train
from tests.support import tiny

RELEASE = pathlib.Path(__file__).parent / "checkpoint_v0.1"
NETWORK = {"network__blocks_final": 0, "network__blocks_deepest_layer": 0}
RELEASED = {**NETWORK, "network__depth": 2}


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
    config = tiny.make(folder, **{**NETWORK, **changes})
    _, variables = parts.make_network(config, (40, 64))
    return checkpoint.restore_weights(str(folder), variables, config)


def drop(*names):
    """Returns a change after which fields of the network seem added since."""

    def change(item):
        for name in names:
            del item["config"]["network"][name]

    return change


def test_weights_of_the_last_release_are_restored_bit_for_bit(released, expected):
    variables, step = restore_weights(released, **RELEASED)
    assert step == 2
    np.testing.assert_array_equal(flat(variables), expected["variables_after_2"])


# Of roundings: see the stage "slow tests of numbers" of .ci/run.
@pytest.mark.slow
@pytest.mark.parametrize("change", [None, drop("residual", "kernels", "growth_rate")])
def test_training_goes_on_as_the_last_release_did(released, expected, change):
    if change is not None:
        change_item(released, change)
    state = train.run(tiny.make(released, run__iterations=3, **RELEASED))
    np.testing.assert_allclose(
        flat(state.variables), expected["variables_after_3"], rtol=1e-4, atol=1e-6
    )
    last = (released / "train_metrics.csv").read_text().splitlines()[-1].split(",")
    assert last[0] == "2"
    assert float(last[1]) == pytest.approx(float(expected["loss_of_step_2"]), rel=1e-5)


def test_a_field_added_since_has_its_default(released):
    change_item(released, drop("residual"))
    assert checkpoint.read_network(str(released)).residual is True
    restore_weights(released, **RELEASED)
    with pytest.raises(
        CheckpointError,
        match=r"written by ctjax 0\.1\.0: network\.residual is True, expected False",
    ):
        restore_weights(released, **RELEASED, network__residual=False)


def test_what_keeps_the_parameters_may_differ(released):
    names = {
        field.name
        for field in fields.dataclasses.fields(fields.Network)
        if "option" in field.metadata  # the heads' sections have fields of their own
        and field.metadata["option"].keeps_parameters
    }
    assert names == {"name", "weight_decay", "sync_batch_norm", "kernels"}
    restore_weights(
        released,
        **RELEASED,
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
        r"/2: written by ctjax 9\.1\.0, unknown to ctjax "
        rf"{re.escape(ctjax.__version__)}: "
        r"network\.attention: no such field"
    )
    with pytest.raises(CheckpointError, match=message):
        restore_weights(released, **RELEASED)
    with pytest.raises(CheckpointError, match=message):
        train.run(tiny.make(released, run__iterations=3, **RELEASED))


def test_a_newer_format_is_refused_and_kept(released):
    def make_newer(item):
        item.clear()
        item.update(format=saved_config.FORMAT + 1, version="9.1.0", config="other")

    change_item(released, make_newer)
    message = (
        rf"/2: checkpoint of format {saved_config.FORMAT + 1}, written by ctjax 9\.1\.0"
    )
    for refused in (
        lambda: restore_weights(released, **RELEASED),
        lambda: train.run(tiny.make(released, run__iterations=3, **RELEASED)),
        lambda: inference.run(tiny.make(released, mode__name="inference", **RELEASED)),
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


@pytest.mark.slow
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


@pytest.fixture
def imported(tmp_path):
    """Weights imported from an .npz, and that file."""
    config = tiny.make(tmp_path / "weights", **NETWORK)
    _, variables = parts.make_network(config, (40, 64))
    np.savez(tmp_path / "torch.npz", **torch_weights.from_variables(variables))
    folder = tmp_path / "weights"
    import_weights.import_weights(str(tmp_path / "torch.npz"), config, str(folder))
    return folder


def files_of(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]


def test_imported_weights_are_sealed(imported):
    folder = imported / "checkpoints"
    paths = files_of(folder / "0")
    assert len(paths) > 5
    for path in paths:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        assert checksums.find_damage(str(folder), 0), path
        path.write_bytes(content)
    restore_weights(imported)
    path.write_bytes(changed)
    with pytest.raises(DamagedError, match=r"/0: damaged \(other bytes than were"):
        restore_weights(imported)


def test_a_seal_that_cannot_be_read_is_damage(imported):
    (path,) = (imported / "checkpoints_checksums").iterdir()
    for seal in (b"", b"{", b"{}", b"[1]", b"\xff\xfe"):
        path.write_bytes(seal)
        assert checksums.find_damage(str(imported / "checkpoints"), 0), seal
    path.unlink()
    assert not checksums.find_damage(str(imported / "checkpoints"), 0)


METADATA = ["_CHECKPOINT_METADATA", "config/metadata", "variables/_METADATA"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 99}'])
def test_altered_metadata_without_a_seal_end_in_one_line(imported, content):
    expected = flat(restore_weights(imported)[0])
    (path,) = (imported / "checkpoints_checksums").iterdir()
    path.unlink()
    refused = 0
    for name in METADATA:
        path = imported / "checkpoints" / "0" / name
        kept = path.read_bytes()
        path.write_bytes(content)
        try:
            found = flat(restore_weights(imported)[0])
            np.testing.assert_array_equal(found, expected)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(imported) in str(error)
            refused += 1
        path.write_bytes(kept)
    assert refused >= 2


@pytest.mark.parametrize("change", ["other shape", "gone"])
def test_a_newer_layout_of_the_weights_ends_in_one_line(tmp_path, change):
    config = tiny.make(tmp_path, **NETWORK)
    _, variables = parts.make_network(config, (40, 64))
    params = dict(variables["params"])
    name = sorted(params)[0]
    if change == "gone":
        del params[name]
    else:
        shapes = jax.tree.map(lambda x: (2, *x.shape), params[name])
        params[name] = jax.tree.map(
            np.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple)
        )
    saved = {**variables, "params": params}
    checkpoint.save_weights(str(tmp_path), saved, 3, config)
    with pytest.raises(CheckpointError, match="/3: ") as caught:
        restore_weights(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("saved", [{}, {"batch_stats": {}}])
def test_weights_without_running_statistics(tmp_path, saved):
    """A collection that is empty may be left out of a checkpoint."""
    fields = {"network__normalization": "none"}
    config = tiny.make(tmp_path, **NETWORK, **fields)
    _, variables = parts.make_network(config, (40, 64))
    assert variables["batch_stats"] == {}
    saved = {"params": variables["params"], **saved}
    checkpoint.save_weights(str(tmp_path), saved, 1, config)
    restored, step = restore_weights(tmp_path, **fields)
    assert step == 1 and restored["batch_stats"] == {}
    np.testing.assert_array_equal(flat(restored), flat(variables))
    # Those of a network that has them are missed.
    config = tiny.make(tmp_path / "other", **NETWORK)
    _, variables = parts.make_network(config, (40, 64))
    checkpoint.save_weights(
        str(tmp_path / "other"), {"params": variables["params"]}, 1, config
    )
    with pytest.raises(CheckpointError, match="/1: damaged"):
        restore_weights(tmp_path / "other")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_numbers_that_are_none_are_not_imported(tmp_path, value):
    config = tiny.make(tmp_path / "weights", **NETWORK)
    _, variables = parts.make_network(config, (40, 64))
    tensors = torch_weights.from_variables(variables)
    name = sorted(tensors)[-1]
    wide = tensors[name].astype(np.float64)
    wide.ravel()[-1] = value
    np.savez(tmp_path / "torch.npz", **{**tensors, name: wide})
    words = rf"torch\.npz: found numbers that are not finite in {name}, expected"
    with pytest.raises(WeightsError, match=words):
        import_weights.import_weights(
            str(tmp_path / "torch.npz"), config, str(tmp_path / "weights")
        )
    assert not (tmp_path / "weights").exists()
    np.savez(tmp_path / "torch.npz", **{**tensors, name: wide.astype("S5")})
    with pytest.raises(WeightsError, match=f"{name} is of type .S5, expected real"):
        import_weights.import_weights(
            str(tmp_path / "torch.npz"), config, str(tmp_path / "weights")
        )


def test_a_damaged_archive_of_weights_ends_in_one_line(tmp_path):
    np.savez(tmp_path / "torch.npz", a=np.arange(1000.0))
    content = bytearray((tmp_path / "torch.npz").read_bytes())
    config = tiny.make(tmp_path / "weights", **NETWORK)
    for place in (10, 300, len(content) // 2, len(content) - 10):
        changed = bytearray(content)
        changed[place] ^= 255
        (tmp_path / "torch.npz").write_bytes(changed)
        with pytest.raises(WeightsError) as caught:
            import_weights.import_weights(
                str(tmp_path / "torch.npz"), config, str(tmp_path / "weights")
            )
        assert str(tmp_path / "torch.npz") in str(caught.value)
