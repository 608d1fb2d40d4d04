"""Weights of networks with other heads: what is taken of them, and what is refused."""

import logging

import jax
import numpy as np
import pytest

from ctjax import models
from ctjax.commands import import_weights
from ctjax.config.architecture import Architecture
from ctjax.config.heads import Classification, Heads, Vertex
from ctjax.config.networks import SECTIONS
from ctjax.learning import optimizer, precision, sharding
from ctjax.learning.state import init_variables, make_state
from ctjax.models import other_heads, torch_weights
from ctjax.models.torch_weights import WeightsError
from ctjax.outputs import checkpoint
from ctjax.outputs.saved_config import CheckpointError, DamagedError
from ctjax.runs import parts
from tests.support import tiny
from tests.support.small_networks import OTHERS, SMALL

FIVE = "background,neutrino,shower,michel,delta"
KINDS = ["checkpoint", "npz"]


def heads(*names, **changes):
    """Fields of small heads."""
    values = {"active": True, "n_filters": 3, "n_layers": 1} | changes
    fields = {f"network__{n}__{key}": v for n in names for key, v in values.items()}
    fields |= {"network__vertex__depth": 0} if "vertex" in names else {}
    # Of synthetic events nothing could be learnt.
    return {"data__synthetic": False, "data__file": "none.h5", **fields}


BOTH = heads("classification", "vertex")


def drawn(folder, seed, **changes):
    """A tiny configuration and the initial variables of its network."""
    config = tiny.make(folder, run__seed=seed, **{**heads(), **changes})
    _, variables = parts.make_network(config, (40, 64))
    return config, variables


def written(folder, kind, **changes):
    """Weights of a network in some form: their name and they themselves."""
    config, variables = drawn(folder / "theirs", 7, **changes)
    if kind == "checkpoint":
        location = str(folder / "theirs")
        checkpoint.save_weights(location, variables, 9, config)
        return location, f"{location}/checkpoints/9", variables
    location = str(folder / "weights.npz")
    tensors = torch_weights.from_variables(variables)
    np.savez(location, **{f"module.{name}": array for name, array in tensors.items()})
    return location, location, variables


def restore(location, folder, is_for_training, **changes):
    config, ours = drawn(folder / "ours", 1, **changes)
    ours = sharding.replicate(ours, sharding.make_mesh())
    given = location, ours, config
    return parts.restore_weights(*given, is_for_training=is_for_training)[0], ours


def check(found, theirs, ours, own):
    """Checks that some modules are the network's own, and all others the weights'."""
    assert found.keys() == ours.keys() == {"params", "batch_stats"}
    for collection, tree in ours.items():
        assert found[collection].keys() == tree.keys()
        for name in tree:
            expected = (ours if name in own else theirs)[collection][name]
            jax.tree.map(
                np.testing.assert_array_equal, found[collection][name], expected
            )


EVENT, VERTEX = (other_heads.MODULES[head] for head in ("classification", "vertex"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_begins_heads_anew(tmp_path, caplog, kind):
    location, where, theirs = written(tmp_path, kind)
    with caplog.at_level(logging.INFO, logger="ctjax"):
        found, ours = restore(location, tmp_path, True, **BOTH)
    check(found, theirs, ours, EVENT + VERTEX)
    assert {"classifier", "vertex_layers"} <= found["batch_stats"].keys()
    assert caplog.messages == [
        f"{where}: weights without the head of network.classification and "
        "network.vertex: begun anew"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_others_refuse_weights_without_their_heads(tmp_path, kind):
    location, where, _ = written(tmp_path, kind, **heads("classification"))
    with pytest.raises((CheckpointError, WeightsError)) as caught:
        restore(location, tmp_path, False, **BOTH)
    assert str(caught.value) == (
        f"{where}: weights without the head of network.vertex, expected weights with "
        "it, or network.vertex.active=False; a training may begin with these"
    )


@pytest.mark.parametrize("is_for_training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_heads_that_the_network_has_not_are_left_out(
    tmp_path, caplog, kind, is_for_training
):
    location, where, theirs = written(tmp_path, kind, **BOTH)
    with caplog.at_level(logging.INFO, logger="ctjax"):
        found, ours = restore(location, tmp_path, is_for_training)
    check(found, theirs, ours, ())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"{where}: the head of network.classification and network.vertex is left out"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_head_for_the_other_and_other_classes(tmp_path, caplog, kind):
    changes = {"data__classes": FIVE, **heads("classification")}
    location, _, theirs = written(tmp_path, kind, **changes)
    with caplog.at_level(logging.INFO, logger="ctjax"):
        found, ours = restore(location, tmp_path, True, **heads("vertex"))
    check(found, theirs, ours, ("bottleneck", *VERTEX))
    assert len(caplog.messages) == 3
    assert "all but the last layer is taken" in caplog.messages[0]


@pytest.mark.parametrize("kind", KINDS)
def test_heads_of_other_sizes_are_refused(tmp_path, kind):
    location, where, _ = written(tmp_path, kind, **heads("vertex"))
    with pytest.raises((CheckpointError, WeightsError)) as caught:
        restore(location, tmp_path, True, **heads("vertex", n_filters=5))
    message = str(caught.value)
    assert message.startswith(f"{where}: ") and "\n" not in message
    assert "damaged" not in message and "vertex" in message


def test_other_weights_are_refused_whatever_their_heads(tmp_path):
    location, _, _ = written(tmp_path, "checkpoint", network__n_initial_filters=5)
    with pytest.raises(CheckpointError) as caught:
        restore(location, tmp_path, True, **BOTH)
    message = str(caught.value)
    assert message.endswith(": network.n_initial_filters is 5, expected 2")


def test_weights_are_imported_without_their_heads_never_without_ones_own(tmp_path):
    location, _, theirs = written(tmp_path, "npz", **heads("vertex"))
    config, ours = drawn(tmp_path / "ours", 1)
    import_weights.import_weights(location, config, str(tmp_path / "back"))
    back, _ = checkpoint.restore_weights(str(tmp_path / "back"), ours, config)
    check(back, theirs, ours, ())
    config, _ = drawn(tmp_path / "both", 1, **BOTH)
    with pytest.raises(WeightsError, match=r"without the head of network\.classificat"):
        import_weights.import_weights(location, config, str(tmp_path / "none"))


@pytest.mark.parametrize("theirs, ours", [(heads(), BOTH), (BOTH, heads())])
def test_a_run_that_goes_on_refuses_other_heads(tmp_path, theirs, ours):
    config, variables = drawn(tmp_path, 1, **theirs)
    rule = config.mode.optimizer
    update = optimizer.make_optimizer(rule, optimizer.make_schedule(rule, 1, 1), 0.0)
    policy = precision.POLICIES[config.run.precision]
    with checkpoint.open_for_saving(str(tmp_path)) as saver:
        saver.save(make_state(variables, update, policy), config, None)
    other, variables = drawn(tmp_path, 1, **ours)
    with (
        checkpoint.open_for_saving(str(tmp_path)) as saver,
        pytest.raises(CheckpointError, match="checkpoint of another network") as caught,
    ):
        checkpoint.restore_latest(saver, make_state(variables, update, policy), other)
    assert "network.vertex.active" in str(caught.value)
    assert not isinstance(caught.value, DamagedError)
    assert not (tmp_path / "checkpoints_damaged").exists()


@pytest.mark.parametrize(
    "architecture",
    [known for known, section in SECTIONS.items() if issubclass(section, Heads)],
    ids=lambda known: known.value,
)
def test_the_modules_of_heads_are_named(architecture):
    options = (OTHERS | {Architecture.URESNET: SMALL})[architecture]

    def modules(**heads):
        model = models.make(SECTIONS[architecture](**options, **heads))
        return init_variables(model, 0)["params"].keys()

    small = {"active": True, "n_filters": 3, "n_layers": 1}
    for name, head in {
        "classification": Classification(**small),
        "vertex": Vertex(**small, depth=0),
    }.items():
        expected = set(other_heads.MODULES[name])
        assert modules(**{name: head}) - modules() == expected
