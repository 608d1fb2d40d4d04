"""CosmicTagger's own numbers of the networks beside UResNet, and ctjax's of the same.

The files lie in a folder for each network under CTJAX_SHARED; tests take all that are
there. How far float32 alone takes the original from its own numbers in float64 is in
each file (`noise/...`).
"""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctjax import models
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.base.head_labels import NO_CELL, HeadLabels, VertexLabel
from ctjax.config import resolve
from ctjax.config.architecture import AnyNetwork
from ctjax.config.choices import LossAverage, LossBalanceScheme
from ctjax.config.heads import active_heads, metric_names
from ctjax.learning import head_metrics, heads, losses, metrics
from ctjax.learning.head_losses import make_head_loss
from ctjax.learning.heads import Outputs
from ctjax.models import tensorflow_weights, torch_weights, uresnet_tensorflow
from tests.support.golden import TOLERANCE, group, read

GROUPS = ("uresnet3d", "v21", "tensorflow", "segformer", "cvt")

WITHOUT_COUNTS = ("tensorflow",)

HEADS = ("classification", "vertex")  # of v2.1

HEAD_PARTS = ("event_label", "vertex/detection", "vertex/localization")

CONV_MODES = {"conv_2D": "uresnet_v21", "conv_3D": "uresnet3d"}

COUNTERS = "num_batches_tracked"  # of torch's batch normalization; ctjax has none


def files() -> list:
    """Returns parameters of tests: every network's files."""
    return _parameters("*.npz")


def count_files() -> list:
    """Returns parameters of tests: the files of parameter counts."""
    groups = [name for name in GROUPS if name not in WITHOUT_COUNTS]
    return _parameters("parameter_counts.json", groups)


def _parameters(pattern: str, groups: Sequence[str] = GROUPS) -> list:
    marks = [pytest.mark.slow, pytest.mark.parity]
    if not os.environ.get("CTJAX_SHARED"):
        unset = pytest.mark.skip(reason="CTJAX_SHARED does not name the shared folder")
        return [pytest.param(None, marks=[*marks, unset], id="shared")]
    found = []
    for name in groups:
        folder = pathlib.Path(os.environ["CTJAX_SHARED"]) / "golden" / name
        paths = sorted(folder.glob(pattern))
        assert paths, f"no {pattern} in {folder}"
        for path in paths:
            mark = pytest.mark.xdist_group(f"{name}-{path.stem}")
            label = f"{name}-{path.stem}"
            found.append(pytest.param(path, marks=[*marks, mark], id=label))
    return found


def full_size(counts: pathlib.Path) -> dict:
    """Returns the networks of a file of parameter counts."""
    return json.loads(counts.read_text())


def network_of(config: dict) -> AnyNetwork:
    """Translates CosmicTagger's fields."""
    fields = config.copy()
    if config.get("conv_mode") != "conv_2D":
        assert not any(fields.pop(head, {"active": False})["active"] for head in HEADS)
    mode = fields.pop("conv_mode", None)
    if fields.pop("data_format", None) and "kernel_size" not in fields:
        fields.pop("weight_decay")  # a term of the loss, which ctjax does not have
        fields["architecture"] = "uresnet_tensorflow"
        return resolve.build(AnyNetwork, fields, "network.")
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


def losing_all_below(next_function, arguments, keywords, context):
    """Returns a level's skip connection, as TensorFlow's code does without one.

    An interceptor of `flax.linen.intercept_methods`.
    """
    y = next_function(*arguments, **keywords)
    module = context.module
    if isinstance(module, uresnet_tensorflow.Level) and module.depth > 0:
        return _SKIPPED.pop(module.scope.path), {}  # no head looks at a level
    if module.name == "down_blocks" and context.method_name == "__call__":
        _SKIPPED[module.scope.path[:-1]] = y
    return y


_SKIPPED: dict[tuple[str, ...], jax.Array] = {}


def loss_of_other_planes(scheme: str, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Computes TensorFlow's light and even, weighted by the classes of other planes.

    Cosmic pixels are those of plane 1, neutrino pixels those of plane 2.

    Args:
      scheme: light or even.
      logits: [B, P, H, W, K].
      label: [B, P, H, W].
    """
    one_hot = jax.nn.one_hot(label, 3)
    entropy = -(one_hot * jax.nn.log_softmax(logits)).sum(-1)
    classes = jnp.array([1.0, 1.5, 10.0]).reshape(1, 1, 1, 1, 3)
    if scheme == "even":
        classes = 0.3333 / (one_hot.sum((0, 2, 3), keepdims=True) + 1)
    other = jnp.where(label[:, 2] == 2, 2, jnp.where(label[:, 1] == 1, 1, 0))
    weight = (jax.nn.one_hot(other, 3)[:, None] * classes).sum(-1)
    weight = jnp.broadcast_to(weight, entropy.shape)
    return ((weight * entropy).sum((0, 2, 3)) / weight.sum((0, 2, 3))).sum()


class Golden:
    """A file, and ctjax's network on the same weights and pixels."""

    def __init__(self, path: pathlib.Path):
        self.path, self.arrays = path, read(path)
        self.group_name = path.parent.name
        config = json.loads(str(self.arrays["config"]))
        self.network = network_of(config)
        self.loses_below = self.is_of_tensorflow and config["connections"] == "none"
        self.model = models.make(self.network)
        self.image = jnp.asarray(self.arrays["input"])
        self.label = jnp.asarray(self.arrays["label"])
        self.mask = jnp.ones(len(self.image))
        self.like = jax.eval_shape(self.model.init, jax.random.key(0), self.image)
        self.variables = torch_weights.to_variables(self.group("state"), self.like)
        self.schemes = sorted(self.group("loss"))
        self.trained_schemes = [s for s in self.schemes if self.group(f"grad/{s}")]
        assert self.schemes and self.trained_schemes
        self.heads = active_heads(self.network)
        self.head_labels = self._read_head_labels()

    @property
    def is_of_tensorflow(self) -> bool:
        return self.group_name == "tensorflow"

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Returns the arrays under a prefix by torch's names, without its counters."""
        arrays = group(self.arrays, prefix)
        if self.is_of_tensorflow and "/" not in prefix.removeprefix("grad/"):
            arrays = tensorflow_weights.to_torch(arrays)
        return {
            name: array for name, array in arrays.items() if not name.endswith(COUNTERS)
        }

    def as_upstream(self) -> contextlib.AbstractContextManager:
        """Lets the network be at fault where the file's is."""
        if self.loses_below:
            return nn.intercept_methods(losing_all_below)
        return contextlib.nullcontext()

    def noise(self, name: str) -> float:
        """Returns the rounding of a number, which TensorFlow's files do not have."""
        return float(self.arrays.get(f"noise/{name}", TOLERANCE / 10))

    def _read_head_labels(self) -> HeadLabels:
        event = vertex = None
        if self.heads.classification is not None:
            event = jnp.asarray(self.arrays["label/event"], jnp.int32)
        if self.heads.vertex is not None:
            detection = self.arrays["label/vertex_detection"]
            events, planes, rows, columns = detection.shape
            assert [rows, columns] == self.arrays["vertex_meta/cells"].tolist()
            cell = np.full((events, planes, 2), NO_CELL, np.int32)
            for *image, row, column in np.argwhere(detection):
                cell[tuple(image)] = row, column
            position = np.where(cell < 0, np.nan, self.arrays["label/vertex_cm"])
            geometry = (
                np.broadcast_to(self.arrays[f"vertex_meta/{name}"], position.shape)
                for name in ("origin", "cell_size")
            )
            vertex = VertexLabel(
                *(position, cell, self.arrays["label/vertex_offset"], *geometry)
            )
            vertex = jax.tree.map(jnp.asarray, vertex)
        return HeadLabels(event, vertex)

    def loss_parts(self, scheme: str, outputs: Outputs) -> dict[str, jax.Array]:
        """Computes the parts of the loss, of which it is the sum."""
        parts = {"segmentation": self.loss(scheme, outputs.pixels)}
        if self.heads:
            head_loss = make_head_loss(self.heads)
            parts |= head_loss(outputs, self.head_labels, self.mask)
        return parts

    def loss(self, scheme: str, logits: jax.Array) -> jax.Array:
        """Computes the loss of pixels of the version that the network is of."""
        if self.is_of_tensorflow and scheme in ("light", "even"):
            return loss_of_other_planes(scheme, logits, self.label)
        is_v21 = self.group_name not in ("uresnet3d", "tensorflow")
        average = LossAverage.PIXELS if is_v21 else LossAverage.WEIGHTS
        fn = losses.make_loss(LossBalanceScheme(scheme), average=average)
        return fn(logits, self.label, self.mask)

    @functools.cached_property
    def evaluated(self):
        """Logits [B, P, K, H, W], metrics by name, and what heads say."""

        @jax.jit
        def evaluate(variables):
            outputs = heads.split(self.model.apply(variables, self.image))
            values = metrics.event_metrics(
                metrics.confusion(jnp.argmax(outputs.pixels, -1), self.label)
            )
            means = [metrics.mean_of(*metrics.sum_metrics(values, self.mask))]
            if self.heads:
                values = head_metrics.event_metrics(outputs, self.head_labels)
                sums = head_metrics.sum_known(values, self.mask)
                means.append(head_metrics.mean_of(*sums))
            return outputs, jnp.concatenate(means)

        with self.as_upstream():
            outputs, values = evaluate(self.variables)
        names = *COSMIC_TAGGER.metric_names, *metric_names(self.heads, 3)
        by_name = metrics.named(np.asarray(values), names)
        return np.moveaxis(np.asarray(outputs.pixels), -1, 2), by_name, outputs

    @functools.cached_property
    def trained(self):
        """Logits [B, P, K, H, W], statistics, parts of losses, gradients, all outputs.

        Gradients have torch's names.
        """
        params = self.variables["params"]
        stats = {k: v for k, v in self.variables.items() if k != "params"}

        @jax.jit
        def train(params):
            def forward(params):
                outputs, updated = self.model.apply(
                    {"params": params, **stats},
                    self.image,
                    train=True,
                    mutable=["batch_stats"],
                )
                return heads.split(outputs), updated

            def total(scheme, outputs):
                return sum(self.loss_parts(scheme, outputs).values())

            outputs, pullback, updated = jax.vjp(forward, params, has_aux=True)
            values = {s: self.loss_parts(s, outputs) for s in self.schemes}
            gradients = {
                scheme: pullback(jax.grad(functools.partial(total, scheme))(outputs))
                for scheme in self.trained_schemes
            }
            return outputs, updated, values, gradients

        with self.as_upstream():
            outputs, updated, values, gradients = train(params)
        tensors = {
            scheme: torch_weights.from_variables({"params": gradient[0]})
            for scheme, gradient in gradients.items()
        }
        statistics = torch_weights.from_variables(updated)
        logits = np.moveaxis(np.asarray(outputs.pixels), -1, 2)
        return logits, statistics, values, tensors, outputs
