"""Weights of other planes and classes: what is taken of them, and what is refused."""

import functools
import json
import logging
import pathlib

import jax
import numpy as np
import pytest

import ctjax
from ctjax.commands import command_line, export_weights, import_weights
from ctjax.learning import optimizer, precision, sharding
from ctjax.learning.state import make_state
from ctjax.models import torch_weights
from ctjax.models.torch_weights import WeightsError
from ctjax.outputs import checkpoint, saved_config
from ctjax.outputs.saved_config import CheckpointError, DamagedError
from ctjax.runs import parts, train
from tests.support import tiny

FIVE = "background,track,shower,michel,delta"
LINE = (
    "weights of 5 classes (background, track, shower, michel, delta), expected the 3 "
    "of data.classes (background, cosmic, neutrino)"
)


def drawn(folder, seed, **changes):
    """A tiny configuration and the initial variables of its network."""
    config = tiny.make(folder, run__seed=seed, **changes)
    _, variables = parts.make_network(config, (40, 64))
    return config, variables


@pytest.fixture(scope="module")
def of_five(tmp_path_factory):
    """Weights of five classes: their folder and they themselves."""
    folder = str(tmp_path_factory.mktemp("five") / "run")
    config, variables = drawn(folder, 7, data__classes=FIVE)
    checkpoint.save_weights(folder, variables, 9, config)
    return folder, variables


def check_taken(found, theirs, ours):
    """Checks that all is theirs but the last layer."""
    params = dict(found["params"])
    for name, tree in params.items():
        expected = (ours if name == "bottleneck" else theirs)["params"][name]
        jax.tree.map(np.testing.assert_array_equal, tree, expected)
    jax.tree.map(
        np.testing.assert_array_equal, found["batch_stats"], theirs["batch_stats"]
    )


def test_training_takes_all_but_the_last_layer(of_five, tmp_path, caplog):
    folder, theirs = of_five
    config, ours = drawn(tmp_path, 1)
    ours = sharding.replicate(ours, sharding.make_mesh())
    with caplog.at_level(logging.INFO, logger="ctjax"):
        found, step = parts.restore_weights(folder, ours, config, is_for_training=True)
    assert step == 9
    check_taken(found, theirs, ours)
    assert found["params"]["bottleneck"]["kernel"].shape[-1] == 3
    (record,) = caplog.records
    where = f"{folder}/checkpoints/9"
    assert record.getMessage() == f"{where}: {LINE}: all but the last layer is taken"


def test_others_refuse_other_classes(of_five, tmp_path):
    folder, _ = of_five
    config, ours = drawn(tmp_path, 1)
    with pytest.raises(CheckpointError) as caught:
        parts.restore_weights(folder, ours, config)
    assert str(caught.value) == f"{folder}/checkpoints/9: {LINE}"


def test_classes_of_other_names_are_taken_with_a_warning(of_five, tmp_path, caplog):
    folder, theirs = of_five
    names = "background,track,shower,michel,blip"
    config, ours = drawn(tmp_path, 1, data__classes=names)
    with caplog.at_level(logging.INFO, logger="ctjax"):
        found, _ = parts.restore_weights(folder, ours, config)
    jax.tree.map(np.testing.assert_array_equal, found, theirs)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "\n" not in record.getMessage()
    assert record.getMessage().endswith(
        "weights of the classes background, track, shower, michel, delta are taken for "
        "background, track, shower, michel, blip of data.classes"
    )


def test_other_planes_are_refused_of_trainings_too(of_five, tmp_path):
    folder, _ = of_five
    config, ours = drawn(tmp_path, 1, data__planes="0,1,2,3", data__classes=FIVE)
    message = r"/9: weights of 3 planes, expected 4, .*data\.planes$"
    for may in (True, False):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.restore_weights(folder, ours, config, is_for_training=may)


def test_a_run_that_goes_on_refuses_other_classes_and_damages_nothing(tmp_path):
    config, variables = drawn(tmp_path, 1, data__classes=FIVE)
    rule = config.mode.optimizer
    update = optimizer.make_optimizer(rule, optimizer.make_schedule(rule, 1, 1), 0.0)
    policy = precision.POLICIES[config.run.precision]
    with checkpoint.open_for_saving(str(tmp_path)) as saver:
        saver.save(make_state(variables, update, policy), config, None)
    other, variables = drawn(tmp_path, 1)
    with (
        checkpoint.open_for_saving(str(tmp_path)) as saver,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoint.restore_latest(saver, make_state(variables, update, policy), other)
    assert LINE in str(caught.value) and "mode.weights_location" in str(caught.value)
    assert not isinstance(caught.value, DamagedError)
    assert not (tmp_path / "checkpoints_damaged").exists()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_others(of_five, tmp_path, caplog, prefix):
    _, theirs = of_five
    tensors = torch_weights.from_variables(theirs)
    path = tmp_path / "weights.npz"
    np.savez(path, **{f"{prefix}{name}": array for name, array in tensors.items()})
    config, ours = drawn(tmp_path, 1)
    line = f"{path}: {LINE.replace(' (background, track, shower, michel, delta)', '')}"
    with pytest.raises(WeightsError) as caught:
        parts.restore_weights(str(path), ours, config)
    assert str(caught.value) == line
    with caplog.at_level(logging.INFO, logger="ctjax"):
        found, _ = parts.restore_weights(
            str(path),
            sharding.replicate(ours, sharding.make_mesh()),
            config,
            is_for_training=True,
        )
    check_taken(found, theirs, ours)
    assert caplog.messages == [f"{line}: all but the last layer is taken"]
    four, ours = drawn(tmp_path, 1, data__planes="0,1,2,3")
    with pytest.raises(WeightsError, match="weights of 3 planes, expected 4"):
        parts.restore_weights(str(path), ours, four, is_for_training=True)


@pytest.mark.slow
def test_weights_of_five_classes_go_out_and_come_back(of_five, tmp_path):
    folder, theirs = of_five
    path = str(tmp_path / "weights.npz")
    export_weights.export_weights(folder, path)
    config, ours = drawn(tmp_path, 1, data__classes=FIVE)
    import_weights.import_weights(path, config, str(tmp_path / "back"))
    back, _ = checkpoint.restore_weights(str(tmp_path / "back"), ours, config)
    jax.tree.map(np.testing.assert_array_equal, back, theirs)


def write_checkpoint(folder, is_of_training=True, **changes):
    """What a checkpoint says of itself, without its tensors."""
    step = pathlib.Path(folder) / "checkpoints/3"
    (step / "config").mkdir(parents=True)
    item = saved_config.to_item(tiny.make(folder, **changes))
    (step / "config/metadata").write_text(json.dumps(item))
    if is_of_training:
        (step / "training").mkdir()


TRAINED = {
    "data__classes": "background,track,shower",
    "data__label_map": "0:background,7:track,other:shower",
    "data__img_transform": True,
    "data__charge_scale": 0.01,
}


def infer(folder, *words):
    words = [f"mode.weights_location={folder}", "data.synthetic=True", *words]
    config, notes = command_line.parse_config(words, command_line.ModeName.INFERENCE)
    data = config.data
    values = data.classes, data.label_map, data.img_transform, data.charge_scale
    return values, notes


DEFAULTS = ("background,cosmic,neutrino", None, False, 1.0)


def test_an_inference_has_from_its_weights_what_nobody_says(tmp_path):
    write_checkpoint(tmp_path, **TRAINED)
    values, notes = infer(tmp_path)
    assert values == tuple(TRAINED.values())
    assert len(notes) == 4
    assert notes[2] == (
        f"data.img_transform=True: so {tmp_path} was trained, and nothing else is said"
    )
    # What is said stays, were it the default.
    values, notes = infer(tmp_path, "data.img_transform=False", "data.charge_scale=2")
    assert values == (*list(TRAINED.values())[:2], False, 2.0)
    assert len(notes) == 2
    # A map is of its classes.
    values, _ = infer(tmp_path, f"data.classes={FIVE}")
    assert values == (FIVE, None, True, 0.01)
    values, _ = infer(tmp_path, "mode.allow_other_images=True")
    assert values == (*list(TRAINED.values())[:2], *DEFAULTS[2:])


def test_weights_alone_do_not_say_what_images_they_have_seen(tmp_path):
    write_checkpoint(tmp_path, is_of_training=False, **TRAINED)
    assert infer(tmp_path)[0] == (*list(TRAINED.values())[:2], *DEFAULTS[2:])


@pytest.mark.parametrize("content", [None, "", "{}", '{"version": "1"}'])
def test_what_cannot_be_read_is_left_to_restoring(tmp_path, content):
    write_checkpoint(tmp_path)
    path = tmp_path / "checkpoints/3/config/metadata"
    path.unlink() if content is None else path.write_text(content)
    assert infer(tmp_path) == (DEFAULTS, [])
    assert infer(tmp_path / "nowhere") == (DEFAULTS, [])


def test_a_training_takes_nothing_unsaid(tmp_path):
    write_checkpoint(tmp_path, **TRAINED)
    words = [f"mode.weights_location={tmp_path}", "data.synthetic=True"]
    config, notes = command_line.parse_config(words, command_line.ModeName.TRAIN)
    assert config.data.classes == DEFAULTS[0] and not notes


def test_checkpoints_of_classes_that_are_none_are_refused():
    item = json.loads(json.dumps(saved_config.to_item(tiny.make("out"))))
    item["config"]["data"]["classes"] = "background,background"
    with pytest.raises(CheckpointError, match="unknown to ctjax"):
        saved_config.from_item(item, "here")
    del item["config"]["data"]["classes"], item["config"]["data"]["planes"]
    detector = saved_config.from_item(item, "here").detector
    assert (detector.num_planes, detector.num_classes) == (3, 3)


def test_a_loaded_network_has_the_classes_of_its_weights(of_five):
    folder, theirs = of_five
    tagger = ctjax.load(folder)
    assert tagger.config.data.classes == FIVE
    jax.tree.map(np.testing.assert_array_equal, tagger.variables, theirs)


@pytest.mark.slow
def test_fine_tuning_begins_with_weights_of_other_classes(of_five, tmp_path):
    folder, theirs = of_five
    changes = {"mode__optimizer__learning_rate": 1e-9, "run__iterations": 1}
    config, ours = drawn(tmp_path, 1, mode__weights_location=folder, **changes)
    state = train.run(config)
    expected = {**theirs["params"], "bottleneck": ours["params"]["bottleneck"]}
    compare = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(compare, dict(state.params), expected)
