"""Checkpoints that CosmicTagger's TensorFlow code has written, taken as they are."""

import json

import jax
import numpy as np
import pytest

from ctjax.base.errors import UserError
from ctjax.commands import command_line, export_weights, import_weights
from ctjax.config import dotted, fields
from ctjax.learning import devices, sharding
from ctjax.outputs import checkpoint
from ctjax.runs import inference, parts
from tests.support.finished_runs import read_table
from tests.support.golden_networks import network_of

pytestmark = pytest.mark.slow


def network(config):
    """v2.1's blocks have no normalization, and one size of kernels."""
    if "kernel_size" in config:
        gone = ("vertex", "classification", "activation", "depthwise")
        config = {name: config[name] for name in config if name not in gone}
        config["filter_size_deepest"] = config.pop("kernel_size")
        config["residual"] = config.pop("block_style") == "residual"
        config["normalization"] = "none"
    return dotted.flatten(fields.to_dict(network_of(config)))


@pytest.mark.parametrize("name", ["checkpoint_tf2", "checkpoint_v21"])
def test_the_originals_checkpoint(name, one_device, shared_folder, tmp_path):
    folder = shared_folder / f"golden/tensorflow/{name}"
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    values = network(json.loads(str(expected["config"])))
    names = [key for key in values if key not in ("name", "architecture")]
    entries = expected["events"].tolist()
    words = [
        *("framework=tensorflow", "mode=inference", "run.compute_mode=CPU"),
        *(f"network.{key}={values[key]}" for key in names),
        *("mode.mask_empty_pixels=False", "run.minibatch_size=1"),
        f"mode.start_index={entries[0]}",
        f"run.iterations={len(entries)}",
        f"data.downsample={expected['downsample']}",
        f"data.file={shared_folder}/data/cosmic_tagging_light.h5",
        f"mode.weights_location={folder}",
        f"run.output_dir={tmp_path}/inferred",
    ]
    config, _ = command_line.parse_config(words)
    inference.run(config)
    rows = read_table(tmp_path / "inferred", "inference_metrics.csv")
    assert len(rows) == len(entries)
    if "metrics" in expected:
        for row, metrics in zip(
            rows, json.loads(str(expected["metrics"])), strict=True
        ):
            for metric, value in metrics.items():
                assert float(row[metric]) == pytest.approx(value, abs=1e-3), metric

    mesh = devices.select(config.run.compute_mode)
    with parts.open_events(config.data, config.data.file, True) as source:
        model, variables = parts.make_network(config, source.image_shape)
        variables = sharding.replicate(variables, mesh)
        location = config.mode.weights_location
        variables, step = parts.restore_weights(location, variables, config)
        image = np.zeros((len(entries), 3, *source.image_shape), np.float32)
        for place, entry in enumerate(entries):
            source.read(entry, image[place], np.zeros(image.shape[1:], np.uint8))
    assert step == 30
    logits = np.asarray(jax.jit(model.apply)(variables, image))
    assert np.mean(logits.argmax(-1) == expected["prediction"]) >= 0.9999
    rows_from, rows_to, columns_from, columns_to = expected["logits_window"]
    logits = np.moveaxis(logits, -1, 2)
    logits = logits[..., rows_from:rows_to, columns_from:columns_to]
    theirs = expected["logits"]
    assert np.abs(logits - theirs).max() < 1e-4 * np.abs(theirs).max()

    imported = str(tmp_path / "imported")
    assert import_weights.import_weights(str(folder), config, imported)[0] == 30
    weights, _ = checkpoint.restore_weights(imported, variables, config)
    jax.tree.map(np.testing.assert_array_equal, weights, variables)
    with pytest.raises(UserError, match="which CosmicTagger's torch code cannot use"):
        export_weights.export_weights(imported, str(tmp_path / "out.npz"))
