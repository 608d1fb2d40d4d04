"""The torch network of the benchmark is CosmicTagger's, by the golden files."""

import json

import numpy as np
import pytest

from ctjax.config import fields as config_fields
from ctjax.learning import losses
from ctjax.models import UResNet, torch_weights
from tests.support import golden
from tests.support.small_networks import SMALL, random_variables

torch = pytest.importorskip("torch", reason="torch is not installed: ctjax[torch]")

from benchmarks import torch_peer  # noqa: E402

TOLERANCE = 1e-5
BATCH_TOLERANCE = 5e-5
"""Of training: each normalization divides what rounding left by a minibatch's spread,
and the peer's 1 x 1 convolutions come before the interpolations."""


@pytest.mark.parametrize("path", golden.small_files() + golden.shared_files())
def test_golden_variant(path):
    stored = golden.read(path)
    fields = json.loads(str(stored["config"]))
    model = torch_peer.UResNet(golden.network_of(fields))

    def tensors(prefix):
        arrays = golden.group(stored, prefix)
        return {name: torch.tensor(array) for name, array in arrays.items()}

    model.load_state_dict(tensors("state"), strict=True)
    image = torch.tensor(stored["input"])
    label = torch.tensor(stored["label"]).long()
    with torch.no_grad():
        logits = model.eval()(image).numpy()
        found = golden.stored_pixels(stored, logits)
        assert found.shape == stored["logits_eval"].shape
        assert golden.relative(found, stored["logits_eval"]) < TOLERANCE
        logits = model.train()(image)
    found = golden.stored_pixels(stored, logits.numpy())
    assert golden.relative(found, stored["logits_train"]) < BATCH_TOLERANCE
    state = model.state_dict()
    expected = tensors("state_after_forward")
    assert expected or not any("running" in name for name in state)
    for name, tensor in expected.items():
        # A running mean near zero is a sum that cancels.
        torch.testing.assert_close(state[name], tensor, rtol=TOLERANCE, atol=2e-6)
    loss = float(torch_peer.focal_loss(logits, label))
    assert loss == pytest.approx(float(stored["loss/focal"]), rel=TOLERANCE)


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_weights_of_ctjax_load_and_give_its_logits_and_loss(normalization):
    network = config_fields.Network(
        **SMALL, normalization=config_fields.Normalization(normalization)
    )
    variables = random_variables(network)
    model = torch_peer.UResNet(network)
    tensors = torch_weights.from_variables(variables)
    for name in model.state_dict():
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.array(0)
    model.load_state_dict(
        {name: torch.tensor(array) for name, array in tensors.items()}, strict=True
    )
    random = np.random.default_rng(0)
    image = random.normal(size=(2, 3, 8, 16)).astype(np.float32)
    label = random.integers(0, 3, (2, 3, 8, 16))
    logits = np.asarray(UResNet(network).apply(variables, image))
    found = model.eval()(torch.tensor(image))
    assert (
        golden.relative(np.moveaxis(found.detach().numpy(), 2, -1), logits) < TOLERANCE
    )
    loss_fn = losses.make_loss(config_fields.LossBalanceScheme.FOCAL)
    expected = loss_fn(logits, label, np.ones(2, np.float32))
    loss = torch_peer.focal_loss(found, torch.tensor(label))
    assert float(loss.detach()) == pytest.approx(float(expected), rel=TOLERANCE)
    # Rather channels last and under autocast, about the same.
    moved = model.to(memory_format=torch.channels_last)
    again = moved(torch.tensor(image)).detach()
    torch.testing.assert_close(again, found.detach(), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = moved(torch.tensor(image)).detach()
    assert rounded.dtype == torch.float32
    assert golden.relative(rounded.numpy(), found.detach().numpy()) < 0.1


def test_prediction_is_that_of_the_steps():
    logits = torch.tensor([0.0, 2.0, 1.0]).reshape(1, 1, 3, 1, 1).expand(1, 3, 3, 1, 2)
    image = torch.tensor([0.0, 5.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    found, score = torch_peer.predict(logits, image, mask_empty_pixels=True)
    assert found.dtype == torch.uint8 and found[0, :, 0].tolist() == [[0, 1]] * 3
    assert torch.allclose(score.sum(2), torch.ones(1, 3, 1, 2))
    found, _ = torch_peer.predict(logits, image, mask_empty_pixels=False)
    assert found[0, :, 0].tolist() == [[1, 1]] * 3


def test_layer_normalization_is_refused():
    network = config_fields.Network(
        **SMALL, normalization=config_fields.Normalization.LAYER
    )
    with pytest.raises(ValueError, match="not in the torch peer"):
        torch_peer.UResNet(network)
