"""Networks beside UResNet in whole runs: trained, applied, exported."""

import jax
import numpy as np
import pytest

from ctjax.commands import command_line, export_weights, import_weights
from ctjax.config.architecture import Architecture
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


BITS = {
    Architecture.URESNET_V21: ("mixed", "block"),
    Architecture.URESNET3D: ("bfloat16", "block"),
    Architecture.URESNET_TENSORFLOW: ("bfloat16", "stage"),
    Architecture.SEGFORMER: ("bfloat16", "block"),
    Architecture.CVT: ("mixed", "stage"),
    Architecture.URESNET_SPARSE: ("mixed", "block"),
}
"""run.precision and run.remat of the training of each."""

FILES = {Architecture.URESNET_SPARSE: "sparse"}
"""Configuration files that are not called after their architecture."""


def configuration(folder, architecture, mode=ModeName.TRAIN, **changes):
    """A run as the command line asks for it, by the network's configuration file."""
    fields = {**FIELDS, "output_dir": folder}
    for name, value in OTHERS[architecture].items():
        is_list = isinstance(value, tuple)
        fields[f"network.{name}"] = ",".join(map(str, value)) if is_list else value
    fields |= {name.replace("__", "."): value for name, value in changes.items()}
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    file = FILES.get(architecture, architecture.value)
    return command_line.parse_config(["--config", file, *words], mode)[0]


def test_training_in_few_bits_with_much_of_it_computed_twice(tmp_path, architecture):
    """On four devices; then applied, exported and imported again."""
    assert jax.device_count() == 4
    precision, remat = BITS[architecture]
    folder = tmp_path / "run"
    config = configuration(
        folder, architecture, run__precision=precision, run__remat=remat
    )
    assert (config.run.precision.value, config.run.remat.value) == (precision, remat)
    state = train.run(config)
    losses = [float(row["loss"]) for row in read_table(folder, "train_metrics.csv")]
    assert len(losses) == 12 and losses[-1] < 0.9 * losses[0]

    apply = configuration(
        tmp_path / "applied",
        architecture,
        ModeName.INFERENCE,
        mode__weights_location=folder,
        run__iterations=1,
    )
    inference.run(apply)
    assert len(read_table(tmp_path / "applied", "inference_metrics.csv")) == 4

    if architecture in (Architecture.URESNET_TENSORFLOW, Architecture.URESNET_SPARSE):
        return  # CosmicTagger's torch code has no use for their weights
    weights = str(tmp_path / "weights.npz")
    export_weights.export_weights(str(folder), weights)
    import_weights.import_weights(weights, apply, str(tmp_path / "back"))
    variables = jax.device_get(state.variables)
    back, _ = checkpoint.restore_weights(str(tmp_path / "back"), variables, apply)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
