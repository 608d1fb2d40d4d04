"""Against the competition's own torch network, by the files of golden/sc21."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax.commands import command_line
from ctjax.config.fields import LossBalanceScheme
from ctjax.learning import losses, metrics
from ctjax.models import UResNet, torch_weights
from tests.support.golden import TOLERANCE, Variant, network_of, relative

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sc21")]

NAMES = ["scc21", "uresnet_bn_residual", "convupdown_bn_residual"]


@pytest.fixture(scope="module", params=NAMES)
def golden(request, shared_folder) -> Variant:
    return Variant(shared_folder / f"golden/sc21/{request.param}.npz")


def test_logits_and_metrics(golden):
    logits, values = golden.evaluated
    expected = golden.golden["logits_eval"]
    assert relative(np.moveaxis(logits, -1, 2), expected) < TOLERANCE
    logits = np.moveaxis(golden.trained[0], -1, 2)
    assert relative(logits, golden.golden["logits_train"]) < TOLERANCE
    found = metrics.named(values)
    names = [str(name) for name in golden.golden["metrics_names"]]
    for name, value in zip(names, golden.golden["metrics_values"], strict=True):
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_running_statistics(golden):
    found = torch_weights.from_variables({"batch_stats": golden.trained[1]})
    like = {"batch_stats": golden.stats}
    state = golden.group("state_after_forward")
    tensors = {name: state[name] for name in state if ".running_" in name}
    expected = torch_weights.from_variables(torch_weights.to_variables(tensors, like))
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert relative(found[name], tensor) < TOLERANCE, name


def test_losses_and_gradient(golden):
    label = jnp.asarray(golden.golden["label"])
    schemes = golden.group("loss")
    assert "light" in schemes
    for scheme, expected in schemes.items():
        loss_fn = losses.make_loss(LossBalanceScheme(scheme))
        loss = float(loss_fn(golden.trained[0], label, jnp.ones(len(label))))
        assert loss == pytest.approx(float(expected), rel=TOLERANCE), scheme
    assert golden.schemes == ["light"]
    ours, theirs = golden.trained[3][0], golden.golden_gradient[0]
    largest = np.abs(theirs).max()
    for name, where in golden.tensors.items():
        difference = np.abs(ours[where] - theirs[where]).max()
        assert golden.is_dead(name) or difference < TOLERANCE * largest, name
    live = golden.live
    error = np.linalg.norm((ours - theirs)[live]) / np.linalg.norm(theirs[live])
    assert error < TOLERANCE


def test_full_size_networks(shared_folder):
    file = shared_folder / "golden/sc21/parameter_counts.json"
    networks = json.loads(file.read_text())
    assert len(networks) == 4
    for expected in networks.values():
        network = network_of(expected["config"])
        image = jax.ShapeDtypeStruct((1, 3, 2**network.depth, 2**network.depth), "f4")
        shapes = jax.eval_shape(UResNet(network).init, jax.random.key(0), image)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        assert count == expected["parameters"]
        if "shapes" in expected:
            # One element, broadcast: the conversion sees shapes, nothing is filled.
            tensors = {
                name: np.broadcast_to(np.float32(0), shape)
                for name, shape in expected["shapes"].items()
            }
            torch_weights.to_variables(tensors, shapes)
    config, _ = command_line.parse_config(["--config-name", "SCC_21.yaml"])
    theirs = network_of(networks["SCC_21"]["config"])
    assert config.network == dataclasses.replace(theirs, name="scc21")
    assert networks["SCC_21"]["parameters"] == 9_323_011
