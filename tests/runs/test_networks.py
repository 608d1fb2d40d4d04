"""Networks beside UResNet in whole runs: trained, continued, applied, exported."""

import json

import jax
import numpy as np
import pytest

from ctjax.commands import command_line, export_weights, import_weights
from ctjax.config.fields import ModeName
from ctjax.outputs import checkpoint
from ctjax.runs import inference, train
from tests.support.finished_runs import read_table
from tests.support.small_networks import OTHERS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("architecture", OTHERS, ids=lambda a: a.value),
]

FIELDS = {
    "run.iterations": 12,
    "run.minibatch_size": 4,  # one for each of the four devices
    "run.compute_mode": "CPU",
    "data.downsample": 4,  # 80 x 128 pixels
    "data.synthetic": True,
    "mode.optimizer.learning_rate": 1e-2,
    "mode.optimizer.lr_schedule": "flat",
    "mode.optimizer.loss_balance_scheme": "light",
}


def configuration(folder, architecture, mode=ModeName.TRAIN, **changes):
    """A run as the command line asks for it, by the network's configuration file."""
    fields = {**FIELDS, "output_dir": folder}
    for name, value in OTHERS[architecture].items():
        is_list = isinstance(value, tuple)
        fields[f"network.{name}"] = ",".join(map(str, value)) if is_list else value
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    return command_line.parse_config(["--config", architecture.value, *words], mode)


def losses(folder):
    return [float(row["loss"]) for row in read_table(folder, "train_metrics.csv")]


@pytest.mark.parametrize(
    ("precision", "remat"), [("bfloat16", "block"), ("mixed", "stage")]
)
def test_training_in_few_bits_with_half_of_it_computed_twice(
    tmp_path, architecture, precision, remat
):
    assert jax.device_count() == 4
    plain, folder = tmp_path / "plain", tmp_path / "bits"
    train.run(configuration(plain, architecture))
    train.run(
        configuration(folder, architecture, run__precision=precision, run__remat=remat)
    )
    expected, found = losses(plain), losses(folder)
    assert expected[-1] < 0.9 * expected[0]
    assert found[0] == pytest.approx(expected[0], rel=0.03)
    assert found[-1] < 0.9 * found[0]
    assert found != expected


def test_as_many_devices_as_there_are(tmp_path, architecture, monkeypatch):
    """One device's training is that of four, where nothing is taken of a minibatch."""
    from ctjax.learning import sharding

    changes = {"run__iterations": 2}
    if architecture.value == "uresnet3d":
        changes["network__sync_batch_norm"] = True
    train.run(configuration(tmp_path / "four", architecture, **changes))
    make_mesh, first = sharding.make_mesh, jax.devices()[:1]
    monkeypatch.setattr(sharding, "make_mesh", lambda: make_mesh(first))
    train.run(configuration(tmp_path / "one", architecture, **changes))
    assert losses(tmp_path / "one") == pytest.approx(
        losses(tmp_path / "four"), rel=1e-3
    )


def test_a_checkpoint_is_continued_applied_and_exported(tmp_path, architecture):
    folder = tmp_path / "run"
    train.run(configuration(folder, architecture, run__iterations=2))
    state = train.run(configuration(folder, architecture, run__iterations=4))
    assert int(state.step) == 4 and len(losses(folder)) == 4
    apply = configuration(
        tmp_path / "applied",
        architecture,
        ModeName.INFERENCE,
        mode__weights_location=folder,
        run__iterations=1,
    )
    inference.run(apply)
    assert len(read_table(tmp_path / "applied", "inference_metrics.csv")) == 4
    weights = str(tmp_path / "weights.npz")
    export_weights.export_weights(str(folder), weights)
    import_weights.import_weights(weights, apply, str(tmp_path / "back"))
    variables = jax.device_get(state.variables)
    back, _ = checkpoint.restore_weights(str(tmp_path / "back"), variables, apply)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    saved = json.loads((folder / "config.json").read_text())
    assert saved["network"]["architecture"] == architecture.value
