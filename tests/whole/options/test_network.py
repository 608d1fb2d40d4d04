"""Each field of the section `network`, changed, changes what it should in a run."""

import jax
import numpy as np
import pytest

from ctjax.config.architecture import Architecture
from ctjax.models import UResNet
from ctjax.outputs import checkpoint
from ctjax.runs import iotest
from tests.support import small_networks, small_runs
from tests.support.small_runs import SHAPE, logits_of

pytestmark = pytest.mark.xdist_group("options_of_network")

NETWORK = {
    "network__depth": 2,
    "network__normalization": "batch",
    "network__blocks_per_layer": 1,
    "network__blocks_deepest_layer": 1,
    "network__blocks_final": 1,
}

CHANGES = {
    "bias": False,
    "normalization": "layer",
    "n_initial_filters": 3,
    "blocks_per_layer": 2,
    "blocks_deepest_layer": 2,
    "blocks_final": 2,
    "depth": 3,
    "filter_size_deepest": 1,
    "bottleneck_deepest": 4,
    "residual": False,
    "block_concat": True,
    "connections": "sum",
    "growth_rate": "multiplicative",
    "downsampling": "convolutional",
    "upsampling": "convolutional",
}
"""Fields that change the parameters or the output, with another value each."""


def scores(runs, folder, changes):
    """Scores by an inference and by the network itself, with the same weights."""
    config = runs.config(
        "inference",
        folder / "inference",
        mode__weights_location=str(folder),
        mode__write_predictions=True,
        run__iterations=1,
        **{**NETWORK, **changes},
    )
    drawn = small_networks.random_variables(config.network)
    variables = {"batch_stats": {}, **drawn}
    checkpoint.save_weights(str(folder), variables, 1, config)
    run = small_runs.run_and_listen(config)
    image, _ = small_runs.larcv_fixtures.dense_truth(runs.events[:4], SHAPE)
    by_hand = jax.nn.softmax(logits_of(config, variables, image), axis=-1)
    found, expected = [], []
    for entry, planes in enumerate(run.predictions("cosmic_prediction")):
        for plane, pixels in enumerate(planes):
            columns, rows = np.divmod(pixels["id"].astype(int), SHAPE[0])
            found.append(pixels["value"])
            expected.append(by_hand[entry, plane, rows, columns, 1])
    return np.concatenate(found), np.concatenate(expected), config.network


@pytest.fixture(scope="module")
def plain(runs, tmp_path_factory):
    return scores(runs, tmp_path_factory.mktemp("plain"), {})


@pytest.mark.slow
@pytest.mark.parametrize("field", CHANGES)
def test_scores(runs, tmp_path, plain, field):
    changes = {f"network__{field}": CHANGES[field]}
    found, expected, network = scores(runs, tmp_path, changes)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert getattr(network, field) != getattr(plain[2], field)
    assert np.abs(found - plain[0]).max() > 1e-3


def test_training_has_the_network_that_is_asked_for(runs, tmp_path):
    changes = {f"network__{name}": value for name, value in CHANGES.items()}
    config = runs.config("train", tmp_path, run__iterations=1, **{**NETWORK, **changes})
    trained = small_runs.flat(small_runs.run_and_listen(config).result.params)
    image = jax.numpy.zeros((1, 3, *SHAPE))
    shapes = jax.eval_shape(UResNet(config.network).init, jax.random.key(0), image)
    expected = {
        tuple(part.key for part in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"])
    }
    assert {path: leaf.shape for path, leaf in trained.items()} == expected


@pytest.mark.slow
def test_architecture(runs, tmp_path):
    fields = {
        f"network__{name}": value
        for name, value in small_networks.OTHERS[Architecture.URESNET3D].items()
    }
    fields |= {"network__architecture": "uresnet3d", "run__iterations": 1}
    config = runs.config("train", tmp_path, **fields)
    params = small_runs.run_and_listen(config).result.params
    assert params["initial_convolution"]["conv"]["kernel"].shape == (1, 5, 5, 1, 2)


def test_name(runs, tmp_path, monkeypatch):
    from ctjax.config import resolve

    monkeypatch.chdir(tmp_path)
    values = {
        "run": {"iterations": 1},
        "data": {"synthetic": True, "downsample": 5},
        "mode": {"name": "iotest"},
        "network": {"name": "mine"},
    }
    iotest.run(resolve.resolve(values))
    assert (tmp_path / "output/mine/test/profiles/io_timings.npy").exists()


@pytest.mark.slow
def test_sync_batch_norm(runs):
    """Four devices with the statistics of all are as one device."""
    fields = {**NETWORK, "network__depth": 1, "run__iterations": 1}
    one = runs.train(one_device=True, **fields)
    four = runs.train(**fields)
    together = runs.train(network__sync_batch_norm=True, **fields)
    assert together.losses == pytest.approx(one.losses, rel=1e-4)
    assert four.losses != pytest.approx(one.losses, rel=1e-3)


def test_weight_decay(runs):
    """Decoupled: lr x decay x kernel is taken off, and off nothing else."""
    fields = {"run__iterations": 1, "mode__optimizer__learning_rate": 0.01}
    first, plain = runs.train().params, runs.train(**fields).params
    decayed = runs.train(network__weight_decay=5.0, **fields).params
    for path, leaf in plain.items():
        decay = 0.01 * 5.0 * first[path] if path[-1] == "kernel" else 0 * leaf
        np.testing.assert_allclose(decayed[path], leaf - decay, rtol=1e-4, atol=1e-5)
    assert {path[-1] for path in plain} == {"kernel", "bias"}


@pytest.mark.slow
def test_kernels(runs, tmp_path):
    """Other programs of the same network, from 16 features on."""
    fields = {
        **NETWORK,
        "network__n_initial_filters": 16,
        "data__synthetic": True,
        "data__downsample": 5,
        "run__iterations": 1,
    }
    losses, programs = {}, {}
    for kernels in ("xla", "columns", "fused"):
        config = runs.config(
            "train", tmp_path / kernels, network__kernels=kernels, **fields
        )
        with small_runs.lowered_programs() as read:
            losses[kernels] = small_runs.run_and_listen(config).losses
            programs[kernels] = read()
    for kernels in ("columns", "fused"):
        assert losses[kernels] == pytest.approx(losses["xla"], rel=1e-4)
        assert programs[kernels] != programs["xla"]
