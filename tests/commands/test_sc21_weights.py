"""Checkpoints that the competition's code has written, taken as they are."""

import json

import jax
import numpy as np
import pytest

from ctjax.commands import command_line, import_weights
from ctjax.config import dotted, fields
from ctjax.learning import devices, sharding
from ctjax.outputs import checkpoint
from ctjax.runs import inference, parts
from tests.support.finished_runs import read_table
from tests.support.golden import network_of

pytestmark = pytest.mark.slow


def words_of(network):
    """A network as fields of the command line, but for its label."""
    values = dotted.flatten(fields.to_dict(network), "network.")
    return [f"{name}={values[name]}" for name in values if name != "network.name"]


@pytest.mark.parametrize("name", ["scc21", "uresnet_bn_residual"])
def test_the_competitions_checkpoint(name, one_device, shared_folder, tmp_path):
    pytest.importorskip("torch", reason="extra [torch] is not installed")
    folder = shared_folder / f"golden/sc21/checkpoint_{name}"
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    words = [
        *("--config-name", "SCC_21.yaml", "mode=inference", "run.compute_mode=CPU"),
        *words_of(network_of(json.loads(str(expected["config"])))),
        f"data.downsample={expected['downsample']}",
        f"data.file={shared_folder}/data/cosmic_tagging_light.h5",
        f"mode.weights_location={folder}",
        f"run.output_dir={tmp_path}/inferred",
    ]
    config, _ = command_line.parse_config(words)
    inference.run(config)
    rows = read_table(tmp_path / "inferred", "inference_metrics.csv")
    wanted = json.loads(str(expected["metrics"]))
    assert len(rows) == len(wanted) == 5
    for row, values in zip(rows, wanted, strict=True):
        for metric, value in values.items():
            assert float(row[metric]) == pytest.approx(value, abs=1e-3), metric

    mesh = devices.select(config.run.compute_mode)
    with parts.open_events(config.data, config.data.file, True) as source:
        model, variables = parts.make_network(config, source.image_shape)
        variables = sharding.replicate(variables, mesh)
        location = config.mode.weights_location
        variables, step = parts.restore_weights(location, variables, config)
        image = np.zeros((5, 3, *source.image_shape), np.float32)
        for entry in range(5):
            source.read(entry, image[entry], np.zeros(image.shape[1:], np.uint8))
    assert step == 40
    logits = np.asarray(jax.jit(model.apply)(variables, image))
    assert np.mean(logits.argmax(-1) == expected["prediction"]) >= 0.9999
    logits = np.moveaxis(logits[0], -1, 1)
    rows_from, rows_to, columns_from, columns_to = expected["logits_window"]
    logits = logits[..., rows_from:rows_to, columns_from:columns_to]
    theirs = expected["logits_event0"]
    assert np.abs(logits - theirs).max() < 1e-4 * np.abs(theirs).max()

    imported = str(tmp_path / "imported")
    assert import_weights.import_weights(str(folder), config, imported)[0] == 40
    weights, _ = checkpoint.restore_weights(imported, variables, config)
    jax.tree.map(np.testing.assert_array_equal, weights, variables)
