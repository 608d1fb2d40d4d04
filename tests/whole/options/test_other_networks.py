"""Each field of the networks beside UResNet, changed, changes what it should."""

import jax
import numpy as np
import pytest

from ctjax import models
from ctjax.config import networks
from ctjax.config.architecture import AnyNetwork, Architecture
from ctjax.config.choices import (
    BlockStyle,
    Connection,
    Downsampling,
    GrowthRate,
    Normalization,
    Upsampling,
)
from ctjax.config.heads import Heads
from tests.support import small_runs
from tests.support.small_networks import (
    OTHERS,
    as_input,
    other_network,
    random_variables,
)

pytestmark = pytest.mark.xdist_group("options_of_other_networks")

OF_MASTER = {
    "bias": False,
    "normalization": Normalization.NONE,
    "n_initial_filters": 3,
    "blocks_per_layer": 2,
    "blocks_deepest_layer": 2,
    "blocks_final": 2,
    "depth": 2,
    "filter_size_deepest": 1,
    "bottleneck_deepest": 4,
    "residual": False,
    "connections": Connection.SUM,
    "growth_rate": GrowthRate.MULTIPLICATIVE,
    "downsampling": Downsampling.CONVOLUTIONAL,
    "upsampling": Upsampling.CONVOLUTIONAL,
}

CHANGES = {
    Architecture.URESNET_V21: {
        "bias": False,
        "normalization": Normalization.INSTANCE,
        "n_initial_filters": 3,
        "blocks_per_layer": 2,
        "blocks_deepest_layer": 2,
        "blocks_final": 2,
        "depth": 2,
        "kernel_size": 5,
        "bottleneck_deepest": 4,
        "block_style": BlockStyle.CONVNEXT,
        "depthwise": True,
        "connections": Connection.SUM,
        "growth_rate": GrowthRate.MULTIPLICATIVE,
        "downsampling": Downsampling.CONVOLUTIONAL,
        "upsampling": Upsampling.CONVOLUTIONAL,
    },
    Architecture.URESNET3D: OF_MASTER,
    Architecture.URESNET_TENSORFLOW: OF_MASTER
    | {"normalization": Normalization.LAYER, "block_concat": True},
    Architecture.URESNET_SPARSE: {
        name: value
        for name, value in OF_MASTER.items()
        if name not in ("downsampling", "upsampling")
    },
    Architecture.SEGFORMER: {
        "in_dims": (6, 8, 10, 16),
        "depths": (1, 2, 1, 0),
        "num_heads": (2, 2, 5, 8),
        "sr_ratios": (4, 1, 1, 1),
        "mlp_ratios": (2, 2, 3, 2),
        "decoder_dim": 5,
    },
    Architecture.CVT: {
        "layer_embed": (4, 12),
        "blocks": (1, 2),
        "num_heads": (2, 2),
        "deepest_width": 12,
        "deepest_heads": 4,
    },
}
"""Another value of every field that is the network's own, but for two.

`sync_batch_norm` changes nothing on one device, `kernels` nothing but the time.
"""

BASES = {
    "growth_rate": {"depth": 2},  # of one level it is the same
    "depthwise": {"block_style": BlockStyle.CONVNEXT},  # the only one that has it
}
"""What else a field needs to make a difference."""

IMAGE = np.random.default_rng(0).exponential(size=(1, 3, 16, 32)).astype(np.float32)


@pytest.mark.parametrize("architecture", OTHERS, ids=lambda a: a.value)
def test_every_field_has_its_change(architecture):
    # Those of every network are in test_network.py, the heads' in files of their own.
    common = set(networks.field_names(AnyNetwork)) | {"sync_batch_norm", "kernels"}
    common |= set(networks.field_names(Heads))
    names = set(networks.field_names(networks.SECTIONS[architecture]))
    assert set(CHANGES[architecture]) == names - common


def scores(architecture, changes):
    network = other_network(architecture, **changes)
    variables = random_variables(network)
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables)
    apply = jax.jit(models.make(network).apply)
    image, to_images = as_input(network, IMAGE)
    return shapes, np.asarray(to_images(apply(variables, image)))


@pytest.fixture(scope="module")
def plain():
    return {architecture: scores(architecture, {}) for architecture in OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "field"),
    [(known, field) for known, fields in CHANGES.items() for field in fields],
    ids=lambda part: getattr(part, "value", part),
)
def test_scores(plain, architecture, field):
    value = CHANGES[architecture][field]
    base = BASES.get(field, {})
    shapes, logits = scores(architecture, base | {field: value})
    others = scores(architecture, base) if base else plain[architecture]
    if shapes == others[0]:
        assert np.abs(logits - others[1]).max() > 1e-3
    assert np.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [Architecture.URESNET3D, Architecture.URESNET_SPARSE],
    ids=lambda a: a.value,
)
def test_sync_batch_norm(runs, architecture):
    """Four devices with the statistics of all are as one device."""
    fields = {f"network__{k}": v for k, v in OTHERS[architecture].items()}
    fields |= {"network__architecture": architecture, "run__iterations": 1}
    # The loss of empty pixels is hardly changed by any network.
    fields |= {"mode__optimizer__loss_charged_pixels_only": True}
    one = runs.train(one_device=True, **fields)
    four = runs.train(**fields)
    together = runs.train(network__sync_batch_norm=True, **fields)
    assert together.losses == pytest.approx(one.losses, rel=1e-4)
    assert four.losses != pytest.approx(one.losses, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHERS, ids=lambda a: a.value)
def test_a_run_has_the_network_that_is_asked_for(runs, tmp_path, architecture):
    fields = CHANGES[architecture] | {"architecture": architecture}
    config = runs.config(
        "train",
        tmp_path,
        run__iterations=1,
        data__synthetic=True,
        data__downsample=4,
        **{f"network__{name}": value for name, value in fields.items()},
    )
    run = small_runs.run_and_listen(config)
    expected = random_variables(networks.SECTIONS[architecture](**fields))["params"]
    assert jax.tree.map(np.shape, run.result.params) == jax.tree.map(np.shape, expected)
