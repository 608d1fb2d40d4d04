"""CosmicTagger's own numbers of the networks beside UResNet, and ctjax's of the same.

The files lie in a folder for each network under CTJAX_SHARED; tests take all that are
there. How far float32 alone takes the original from its own numbers in float64 is in
each file (`noise/...`).
"""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.config import resolve
from ctjax.config.architecture import AnyNetwork
from ctjax.config.choices import LossAverage, LossBalanceScheme
from ctjax.learning import losses, metrics
from ctjax.models import torch_weights
from tests.support.golden import group, read

GROUPS = ("uresnet3d", "v21", "segformer", "cvt")

HEADS = ("classification", "vertex")  # of v2.1, switched off in these files

CONV_MODES = {"conv_2D": "uresnet_v21", "conv_3D": "uresnet3d"}

COUNTERS = "num_batches_tracked"  # of torch's batch normalization; ctjax has none


def files() -> list:
    """Returns parameters of tests: every network's files, of those without a head."""
    return _parameters("*.npz")


def count_files() -> list:
    """Returns parameters of tests: the files of parameter counts."""
    return _parameters("parameter_counts.json")


def _parameters(pattern: str) -> list:
    marks = [pytest.mark.slow, pytest.mark.parity]
    if not os.environ.get("CTJAX_SHARED"):
        unset = pytest.mark.skip(reason="CTJAX_SHARED does not name the shared folder")
        return [pytest.param(None, marks=[*marks, unset], id="shared")]
    found = []
    for name in GROUPS:
        folder = pathlib.Path(os.environ["CTJAX_SHARED"]) / "golden" / name
        paths = sorted(folder.glob(pattern))
        assert paths, f"no {pattern} in {folder}"
        for path in paths:
            if path.suffix == ".npz" and has_heads(_config_of(path)):
                continue
            mark = pytest.mark.xdist_group(f"{name}-{path.stem}")
            label = f"{name}-{path.stem}"
            found.append(pytest.param(path, marks=[*marks, mark], id=label))
    return found


def _config_of(path: pathlib.Path) -> dict:
    with np.load(path) as arrays:
        return json.loads(str(arrays["config"]))


def full_size(counts: pathlib.Path) -> dict:
    """Returns the networks of a file of parameter counts, of those without a head."""
    networks = json.loads(counts.read_text())
    return {
        name: values
        for name, values in networks.items()
        if not has_heads(values["config"])
    }


def network_of(config: dict) -> AnyNetwork:
    """Translates CosmicTagger's fields."""
    fields = {name: value for name, value in config.items() if name not in HEADS}
    assert not has_heads(config)
    mode = fields.pop("conv_mode", None)
    if mode != "conv_3D":
        fields.pop("activation")  # which v2.1 does not read
    if mode is not None:
        assert not fields.pop("block_concat")
        fields["architecture"] = CONV_MODES[mode]
    else:
        # Its transformers have their kind for a name; sizes that it has in the code
        # are in `encoder` where a file has others.
        fields["architecture"] = fields["name"]
        encoder = fields.pop("encoder", {})
        assert encoder.pop("embed_dims", fields.get("in_dims")) == fields.get("in_dims")
        fields |= encoder
    return resolve.build(AnyNetwork, fields, "network.")


def has_heads(config: dict) -> bool:
    """Says whether CosmicTagger's fields ask for a head, of which ctjax has none."""
    return any(config[head]["active"] for head in HEADS if head in config)


class Golden:
    """A file, and ctjax's network on the same weights and pixels."""

    def __init__(self, path: pathlib.Path):
        self.path, self.arrays = path, read(path)
        self.network = network_of(json.loads(str(self.arrays["config"])))
        self.model = models.make(self.network)
        self.image = jnp.asarray(self.arrays["input"])
        self.label = jnp.asarray(self.arrays["label"])
        self.mask = jnp.ones(len(self.image))
        self.like = jax.eval_shape(self.model.init, jax.random.key(0), self.image)
        self.variables = torch_weights.to_variables(self.group("state"), self.like)
        self.schemes = sorted(self.group("loss"))
        self.trained_schemes = [s for s in self.schemes if self.group(f"grad/{s}")]
        assert self.schemes and self.trained_schemes

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns the arrays under a prefix, without torch's counters."""
        return {
            name: array
            for name, array in group(self.arrays, prefix).items()
            if not name.endswith(COUNTERS)
        }

    def noise(self, name: str) -> float:
        return float(self.arrays[f"noise/{name}"])

    def loss(self, scheme: str, logits: jax.Array) -> jax.Array:
        """Computes the loss of the version that the network is of."""
        is_v21 = self.path.parent.name != "uresnet3d"
        average = LossAverage.PIXELS if is_v21 else LossAverage.WEIGHTS
        fn = losses.make_loss(LossBalanceScheme(scheme), average=average)
        return fn(logits, self.label, self.mask)

    @functools.cached_property
    def evaluated(self):
        """Logits [B, P, K, H, W] and metrics by name."""

        @jax.jit
        def evaluate(variables):
            logits = self.model.apply(variables, self.image)
            values = metrics.event_metrics(jnp.argmax(logits, -1), self.label)
            return logits, metrics.mean_of(*metrics.sum_metrics(values, self.mask))

        logits, values = evaluate(self.variables)
        return np.moveaxis(np.asarray(logits), -1, 2), metrics.named(np.asarray(values))

    @functools.cached_property
    def trained(self):
        """Logits [B, P, K, H, W], statistics, losses and gradients by torch's names."""
        params = self.variables["params"]
        stats = {k: v for k, v in self.variables.items() if k != "params"}

        @jax.jit
        def train(params):
            def forward(params):
                return self.model.apply(
                    {"params": params, **stats},
                    self.image,
                    train=True,
                    mutable=["batch_stats"],
                )

            logits, pullback, updated = jax.vjp(forward, params, has_aux=True)
            values = {scheme: self.loss(scheme, logits) for scheme in self.schemes}
            gradients = {
                scheme: pullback(jax.grad(functools.partial(self.loss, scheme))(logits))
                for scheme in self.trained_schemes
            }
            return logits, updated, values, gradients

        logits, updated, values, gradients = train(params)
        tensors = {
            scheme: torch_weights.from_variables({"params": gradient[0]})
            for scheme, gradient in gradients.items()
        }
        statistics = torch_weights.from_variables(updated)
        return np.moveaxis(np.asarray(logits), -1, 2), statistics, values, tensors
