"""Import and export of weights, as commands; against CosmicTagger's own checkpoint."""

import csv
import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ctjax.base.optional_packages import MissingExtraError
from ctjax.commands import export_weights, import_weights
from ctjax.config import fields, resolve
from ctjax.learning.minibatch import DenseMinibatch
from ctjax.learning.steps import make_eval_step
from ctjax.models import torch_weights
from ctjax.models.torch_weights import WeightsError
from ctjax.outputs import checkpoint, run_record
from ctjax.runs import inference, parts, train
from tests.support import ROOT, tiny
from tests.support.small_networks import step_options

pytestmark = pytest.mark.slow


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ctjax", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def network_flags(network):
    known = fields.to_dict(fields.Network())
    return [f"--config.network.{n}={v}" for n, v in network.items() if n in known]


@pytest.fixture(scope="module")
def golden(shared_folder):
    return shared_folder / "golden/inference"


@pytest.fixture(scope="module")
def expected(golden):
    arrays = np.load(golden / "expected.npz")
    return {
        "network": json.loads(str(arrays["config"])),
        "downsample": int(arrays["downsample"]),
        "prediction": arrays["prediction"],
        "logits_event0": arrays["logits_event0"],
        "metrics": json.loads(str(arrays["metrics"])),
    }


@pytest.fixture(scope="module")
def imported(golden, expected, tmp_path_factory):
    """CosmicTagger's checkpoint, imported by the command of the documentation."""
    pytest.importorskip("torch", reason="extra [torch] is not installed")
    folder = tmp_path_factory.mktemp("imported") / "weights"
    result = run(
        "import-weights",
        *("--source", golden / "upstream_checkpoint", "--output", folder),
        *("--config", "configs/default.py", *network_flags(expected["network"])),
    )
    assert result.returncode == 0, result.stderr
    assert "step 40" in result.stdout
    return folder


@pytest.fixture(scope="module")
def golden_config(shared_folder, expected, imported):
    """Of an inference that follows the original: no mask, charges as they are."""
    known = fields.to_dict(fields.Network())
    return {
        "run": {"compute_mode": "CPU", "minibatch_size": 2},
        "data": {
            "file": str(shared_folder / "data/cosmic_tagging_light.h5"),
            "downsample": expected["downsample"],
            "img_transform": False,
        },
        "network": {n: v for n, v in expected["network"].items() if n in known},
        "mode": {
            "name": "inference",
            "weights_location": str(imported),
            "mask_empty_pixels": False,
        },
    }


def test_imported_weights_predict_as_cosmictagger(
    one_device, golden_config, expected, tmp_path
):
    config = resolve.resolve({**golden_config, "output_dir": str(tmp_path)})
    with parts.open_events(config.data, config.data.file, True) as source:
        model, variables = parts.make_network(config, source.image_shape)
        variables, step = checkpoint.restore_weights(
            config.mode.weights_location, variables, config
        )
        assert step == 40
        image = np.zeros((5, 3, *source.image_shape), np.float32)
        label = np.zeros(image.shape, np.uint8)
        for entry in range(5):
            source.read(entry, image[entry], label[entry])
        eval_step = make_eval_step(
            model=model,
            options=step_options(
                source.image_shape, config.mode.optimizer.loss_balance_scheme
            ),
            with_scores=False,
        )
        results = jax.jit(eval_step)(
            variables, DenseMinibatch(image, label, np.ones(5, np.float32))
        )
        logits = model.apply(variables, image[:1], train=False)[0]
    agreement = np.mean(np.asarray(results["prediction"]) == expected["prediction"])
    assert agreement >= 0.9999, agreement
    logits = np.asarray(logits).transpose(0, 3, 1, 2)
    largest = np.abs(expected["logits_event0"]).max()
    assert np.abs(logits - expected["logits_event0"]).max() < 1e-4 * largest

    inference.run(config)
    with open(tmp_path / "inference_metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(expected["metrics"]) == 5
    for row, wanted in zip(rows, expected["metrics"], strict=True):
        assert len(wanted) == 20
        for name, value in wanted.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-3), name


@pytest.mark.parametrize("location", ["imported", "CosmicTagger's folder"])
def test_training_starts_from_weights_of_cosmictagger(
    one_device, golden_config, golden, imported, tmp_path, location
):
    is_imported = location == "imported"
    config = resolve.resolve(
        {
            **golden_config,
            "run": {"compute_mode": "CPU", "iterations": 1},
            "mode": {
                "weights_location": str(
                    imported if is_imported else golden / "upstream_checkpoint"
                ),
                "mask_empty_pixels": False,
                "optimizer": {
                    "learning_rate": 0.0,
                    "name": "sgd",
                    "lr_schedule": "flat",
                },
            },
            "output_dir": str(tmp_path / "run"),
        }
    )
    state = train.run(config)
    like = jax.tree.map(np.zeros_like, state.variables)
    weights, _ = checkpoint.restore_weights(str(imported), like, config)
    jax.tree.map(np.testing.assert_array_equal, state.params, weights["params"])


def test_a_run_does_not_go_on_in_a_folder_of_imported_weights(
    one_device, golden_config, imported
):
    config = resolve.resolve({**golden_config, "output_dir": str(imported)})
    with pytest.raises(checkpoint.CheckpointError, match=r"/40: weights alone, expect"):
        train.run(config)


def test_export_gives_back_every_tensor_of_the_original(imported, golden, tmp_path):
    torch = pytest.importorskip("torch")
    result = run("export-weights", "--source", imported, "--output", tmp_path / "torch")
    assert result.returncode == 0, result.stderr
    index = (tmp_path / "torch/checkpoint").read_text()
    assert index == (golden / "upstream_checkpoint/checkpoint").read_text()
    ours, theirs = (
        torch.load(folder / "model-40.ckpt", weights_only=True)
        for folder in (tmp_path / "torch", golden / "upstream_checkpoint")
    )
    assert ours["global_step"] == theirs["global_step"]
    assert sorted(ours["state_dict"]) == sorted(theirs["state_dict"])
    for name, tensor in theirs["state_dict"].items():
        assert ours["state_dict"][name].dtype == tensor.dtype, name
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(ours["state_dict"][name], tensor), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output folder of a tiny training, and its variables."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    return folder, train.run(tiny.make(folder)).variables


def test_through_npz_and_back(trained, tmp_path):
    folder, variables = trained
    step, count = export_weights.export_weights(
        str(folder), str(tmp_path / "weights.npz")
    )
    assert (step, count) == (4, len(jax.tree.leaves(variables)))
    config = tiny.make(tmp_path / "unused")
    import_weights.import_weights(
        str(tmp_path / "weights.npz"), config, str(tmp_path / "back")
    )
    back, step = checkpoint.restore_weights(str(tmp_path / "back"), variables, config)
    assert step == 0
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_inference_takes_an_npz_as_it_is(trained, tmp_path):
    folder, _ = trained
    export_weights.export_weights(str(folder), str(tmp_path / "weights.npz"))
    averages = [
        inference.run(
            tiny.make(
                tmp_path / f"of-{location.name}",
                mode__name="inference",
                mode__weights_location=str(location),
            )
        )
        for location in (folder, tmp_path / "weights.npz")
    ]
    assert averages[0] == averages[1] and averages[0]


@pytest.mark.parametrize("form", ["ckpt", "prefix", "bare", "run folder"])
def test_forms_of_torch_files(trained, tmp_path, form):
    torch = pytest.importorskip("torch", reason="extra [torch] is not installed")
    _, variables = trained
    tensors = {
        f"module.{name}" if form == "prefix" else name: torch.tensor(array)
        for name, array in torch_weights.from_variables(variables).items()
    }
    source = tmp_path / "checkpoints"
    source.mkdir()
    saved = tensors if form == "bare" else {"global_step": 7, "state_dict": tensors}
    torch.save(saved, source / "m.ckpt")
    (source / "checkpoint").write_text("latest: m.ckpt\n")
    path = tmp_path if form == "run folder" else source / "m.ckpt"
    config = tiny.make(tmp_path / "unused")
    import_weights.import_weights(str(path), config, str(tmp_path / "new"))
    back, step = checkpoint.restore_weights(str(tmp_path / "new"), variables, config)
    assert step == (0 if form == "bare" else 7)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def assert_one_line(result, *words):
    assert result.returncode == 1, result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_tensors_that_do_not_fit_are_listed(trained, tmp_path):
    folder, _ = trained
    export_weights.export_weights(str(folder), str(tmp_path / "weights.npz"))
    flags = tiny.flags(tmp_path / "x", network__bottleneck_deepest=5)
    result = run(
        "import-weights",
        *("--config", "configs/default.py", *flags),
        *("--source", tmp_path / "weights.npz", "--output", tmp_path / "new"),
    )
    assert_one_line(
        result,
        "weights.npz",
        "unbottleneck.conv.weight: shape (1, 1, 4, 12), expected (1, 1, 5, 12)",
        "tensors do not fit the network",
    )
    assert not (tmp_path / "new").exists()


def test_mistakes_of_the_import(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.ckpt").write_text("no tensors")
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "index").mkdir()
    (tmp_path / "index/checkpoint").write_text("latest: gone.ckpt\n")
    folder, _ = trained
    sources = {
        "none": "no such file",
        "empty": "a text file checkpoint",
        "text.npz": "an .npz of arrays",
        "index": "gone.ckpt, which is not there",
    }
    config = tiny.make(tmp_path / "unused")
    for source, words in sources.items():
        with pytest.raises(WeightsError, match=words):
            import_weights.import_weights(
                str(tmp_path / source), config, str(tmp_path / "new")
            )
    with pytest.raises(FileExistsError, match="expected none"):
        export_weights.export_weights(str(folder), str(tmp_path / "text.npz"))
    export_weights.export_weights(str(folder), str(tmp_path / "good.npz"))
    with pytest.raises(FileExistsError, match="a folder checkpoints"):
        import_weights.import_weights(str(tmp_path / "good.npz"), config, str(folder))
    assert_one_line(run("import-weights"), "--source")
    assert_one_line(
        run("export-weights", "--source", tmp_path, "--output", tmp_path / "o"),
        "expected a checkpoint",
    )


class Code:
    """What unpickles by running a function."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path):
    torch = pytest.importorskip("torch", reason="extra [torch] is not installed")
    torch.save({"state_dict": Code(str(tmp_path / "made"))}, tmp_path / "evil.ckpt")
    with pytest.raises(WeightsError, match=r"evil\.ckpt: expected a torch file"):
        import_weights.import_weights(
            str(tmp_path / "evil.ckpt"), tiny.make(tmp_path), str(tmp_path / "new")
        )
    assert not (tmp_path / "made").exists()


def test_without_torch_the_extra_is_named(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    folder, _ = trained
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"ctjax\[torch\]"):
        import_weights.import_weights(
            str(tmp_path / "x.ckpt"), tiny.make(tmp_path), str(tmp_path / "new")
        )
    with pytest.raises(MissingExtraError, match=r"ctjax\[torch\]"):
        export_weights.export_weights(str(folder), str(tmp_path / "torch"))


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("/env/bin/ctjax train --config scc21 run.id=a", "scc21"),
        ("/lib/ctjax/__main__.py train run.id=a --config-name=own.py", "own.py"),
        ("ctjax/main.py --config 'a b.py' run.id=a", "a b.py"),
        ("/bin/ctjax train --config scc21 network=uresnet_v21", "uresnet_v21"),
        ("/bin/ctjax quickstart run.iterations=5", "quickstart"),
        ("/bin/ctjax train run.iterations=5", "default"),
        ("/bin/ctjax run", "default"),
        ("/lib/ipykernel_launcher.py -f kernel.json", None),
        ("own.py --config scc21", None),
        ("/bin/ctjax train --confgi scc21", None),
        ("/bin/ctjax 'train", None),
        ("", None),
    ],
)
def test_the_configuration_of_a_command(command, found):
    assert export_weights.find_configuration(command) == found


def test_a_card_beside_the_weights(trained, tmp_path, capsys, monkeypatch):
    """The file first, then what the training's record says of it."""
    folder, _ = trained
    words = ["--source", str(folder), "--output", str(tmp_path / "w.npz"), "--card"]
    assert export_weights.main(words) == 1
    error = capsys.readouterr().err
    assert "no train_config.json, expected the output folder of a training" in error
    assert not (tmp_path / "w.npz").exists()
    program = ["/usr/lib/python3/ctjax/__main__.py", "train", "--config", "my/own.py"]
    monkeypatch.setattr(sys, "argv", program)
    run_record.save_config(tiny.make(folder))
    assert export_weights.main(words) == 0
    assert capsys.readouterr().out.endswith("w.md: model card\n")
    checksum = hashlib.sha256((tmp_path / "w.npz").read_bytes()).hexdigest()
    card = (tmp_path / "w.md").read_text()
    assert f"step 4; SHA-256 of the file `{checksum}`" in card
    assert 'ctjax.load("w.npz", config="own.py")' in card
    assert export_weights.main([*words[:3], str(tmp_path / "f"), "--card"]) == 1
    assert "expected --output of an .npz" in capsys.readouterr().err
    (tmp_path / "w.npz").unlink()
    assert export_weights.main(words) == 1
    assert "w.md: exists" in capsys.readouterr().err
    assert not (tmp_path / "w.npz").exists()
