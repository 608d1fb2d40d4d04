"""What a checkpoint's configuration decides: what is said, and what is refused."""

import json

import pytest

from ctjax.outputs import saved_config
from ctjax.outputs.saved_config import CheckpointError
from tests.support import tiny

CHANGES = {
    "run.minibatch_size": (8, 4),
    "run.precision": ("bfloat16", "float32"),
    "run.seed": (3, 0),
    "data.data_directory": ("elsewhere", ""),
    "data.file": ("other.h5", "cosmic_tagging_train.h5"),
    "data.aux_file": ("test.h5", None),
    "data.downsample": (4, 5),
    "data.synthetic": (False, True),
    "data.img_transform": (True, False),
    "data.image_product": ("wires", "sbndwire"),
    "data.label_product": ("segments", "sbnd_cosmicseg"),
    "data.planes": ("2,1,0", "0,1,2"),
    "data.classes": ("nothing,track,shower", "background,cosmic,neutrino"),
    "data.label_map": ("3:cosmic", None),
    "data.charge_scale": (0.01, 1.0),
    "data.on_bad_event": ("skip", "stop"),
    "data.seed": (1, 0),
    "network.sync_batch_norm": (True, False),
    "network.weight_decay": (0.1, 0.0),
    "network.classification.detach": (False, True),
    "network.classification.weight": (0.5, 0.01),
    "network.vertex.detach": (False, True),
    "network.vertex.weight": (0.5, 1.0),
    "network.vertex.l_det": (0.2, 0.1),
    "network.vertex.l_coord": (0.3, 0.1),
    "mode.optimizer.learning_rate": (1e-3, 1e-2),
    "mode.optimizer.gradient_accumulation": (2, 1),
    "mode.optimizer.bfloat16_gradients": (True, False),
    "mode.optimizer.loss_balance_scheme": ("focal", "light"),
    "mode.optimizer.class_weights": ("1,2,3", None),
    "mode.optimizer.loss_charged_pixels_only": (True, False),
    "mode.optimizer.lr_schedule": ("warmup_flat_decay", "flat"),
}
"""Another value of each field that a training depends on, and the one before."""


def saved(**changes):
    item = json.loads(json.dumps(saved_config.to_item(tiny.make("out", **changes))))
    return saved_config.from_item(item, "here")


def test_every_field_of_a_training_is_compared():
    assert set(CHANGES) == set(saved_config.TRAINED_WITH)


@pytest.mark.parametrize("name", CHANGES)
def test_a_training_that_goes_on_differently_says_so_in_a_line(name):
    ours, theirs = CHANGES[name]
    config = tiny.make("out", **{name.replace(".", "__"): ours})
    assert saved_config.describe_changes(saved(), config) == [
        f"{name}={ours} from here on, {theirs} before"
    ]


def test_a_head_that_is_not_there_has_no_sizes():
    idle = {"network__vertex__n_filters": 5, "network__vertex__l_det": 0.5}
    saved_config.check_network(saved(**idle), tiny.make("out").network, "here")
    active = {"network__vertex__active": True, "network__vertex__depth": 0}
    active |= {"data__synthetic": False}
    with pytest.raises(
        saved_config.CheckpointError,
        match=r"another network, .*: network\.vertex\.active is True, expected False$",
    ):
        saved_config.check_network(saved(**active), tiny.make("out").network, "here")
    other = tiny.make("out", **active, **idle).network
    with pytest.raises(
        saved_config.CheckpointError,
        match=r": network\.vertex\.n_filters is 128, expected 5$",
    ):
        saved_config.check_network(saved(**active), other, "here")


def test_more_iterations_and_what_changes_no_number_are_not_told():
    config = tiny.make("elsewhere", run__iterations=9, run__id="b", data__prefetch=5)
    assert saved_config.describe_changes(saved(), config) == []


def test_a_schedule_that_more_iterations_stretch_is_told():
    cycle = {"mode__optimizer__lr_schedule": "one_cycle"}
    config = tiny.make("out", run__iterations=9, **cycle)
    (line,) = saved_config.describe_changes(saved(**cycle), config)
    assert line.startswith("run.iterations=9, 4 before: mode.optimizer.lr_schedule=one")


@pytest.mark.parametrize("name", saved_config.IMAGES)
def test_other_images_are_refused_unless_they_are_allowed(name):
    ours, theirs = CHANGES[name]
    change = {name.replace(".", "__"): ours}
    message = (
        f"here: weights trained with other images: {name} is {theirs}, expected "
        f"{ours}; mode.allow_other_images=True takes them all the same"
    )
    with pytest.raises(CheckpointError) as caught:
        saved_config.check_images(saved(), tiny.make("out", **change), "here")
    assert str(caught.value) == message
    allowing = tiny.make("out", mode__allow_other_images=True, **change)
    saved_config.check_images(saved(), allowing, "here")
    saved_config.check_images(saved(), tiny.make("out", data__seed=4), "here")
