"""Which locations of weights are CosmicTagger's, and which of them can be read."""

import pathlib

import pytest

from ctjax.commands import import_weights
from ctjax.config import fields, networks
from ctjax.models.torch_weights import WeightsError

TENSORFLOW = 'model_checkpoint_path: "model_30.ckpt"\n'

KINDS = {
    "index and file": {"checkpoint": "latest: m.ckpt\n", "m.ckpt": ""},
    "a run": {"checkpoints/checkpoint": "latest: m.ckpt\n", "checkpoints/m.ckpt": ""},
}

BUNDLE = {"model_30.ckpt.index": "", "model_30.ckpt.data-00000-of-00001": ""}

OF_TENSORFLOW = {
    "its folder": ({"checkpoint": TENSORFLOW, **BUNDLE}, "model_30.ckpt"),
    "its run": (
        {
            "checkpoints/checkpoint": TENSORFLOW,
            **{f"checkpoints/{name}": "" for name in BUNDLE},
        },
        "checkpoints/model_30.ckpt",
    ),
    "without index": (BUNDLE, "model_30.ckpt"),
    "Keras": ({"model_30.weights.h5": ""}, "model_30.weights.h5"),
}

REFUSED = {
    "TensorFlow's index alone": (
        {"checkpoint": TENSORFLOW},
        "names model_30.ckpt, which is not there",
    ),
    "two of Keras": (
        {"model_1.weights.h5": "", "model_2.weights.h5": ""},
        "the name of one of its files: model_1.weights.h5, model_2.weights.h5",
    ),
    "a model": ({"saved_model.pb": ""}, "whole model of TensorFlow"),
    "no index": (
        {"model-7.ckpt": "", "model-9.ckpt": ""},
        "expected a text file checkpoint in it, or the name of one of its files: "
        "model-7.ckpt, model-9.ckpt",
    ),
    "an archive": ({"weights.npz": ""}, "the name of one of its files: weights.npz"),
}


def make(folder: pathlib.Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_torch(kind, tmp_path):
    folder = make(tmp_path, KINDS[kind])
    assert import_weights.is_foreign(folder)
    assert import_weights.find_file(folder).endswith("m.ckpt")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_named(kind, tmp_path):
    files, words = REFUSED[kind]
    folder = make(tmp_path, files)
    assert import_weights.is_foreign(folder)
    with pytest.raises(WeightsError, match=f"^{folder}.*: .*{words}"):
        import_weights.find_file(folder)


@pytest.mark.parametrize("kind", OF_TENSORFLOW)
def test_folders_of_tensorflow(kind, tmp_path):
    files, name = OF_TENSORFLOW[kind]
    folder = make(tmp_path, files)
    assert import_weights.is_foreign(folder)
    assert import_weights.find_file(folder) == f"{folder}/{name}"


@pytest.mark.parametrize(
    "name",
    [
        "model_30.ckpt",
        "model_30.ckpt.index",
        "model_30.ckpt.data-00000-of-00001",
        "checkpoint",
    ],
)
def test_names_of_tensorflows_files(name, tmp_path):
    make(tmp_path, {**BUNDLE, "checkpoint": TENSORFLOW})
    assert import_weights.is_foreign(str(tmp_path / name))
    assert import_weights.find_file(str(tmp_path / name)) == f"{tmp_path}/model_30.ckpt"


@pytest.mark.parametrize(
    ("file", "network", "words"),
    [
        (
            "model_30.ckpt.index",
            fields.Network(),
            "found weights of TensorFlow, expected weights of torch, or "
            "network=uresnet_tensorflow, with network.architecture=uresnet",
        ),
        (
            "m.npz",
            networks.UResNetTensorFlow(),
            "found weights of torch, expected weights of TensorFlow with "
            "network.architecture=uresnet_tensorflow",
        ),
    ],
)
def test_weights_of_one_framework_for_the_network_of_the_other(
    file, network, words, tmp_path
):
    make(tmp_path, {file: ""})
    with pytest.raises(WeightsError, match=words):
        import_weights.read_weights(
            str(tmp_path / file), {}, fields.Config(network=network)
        )


@pytest.mark.parametrize("name", ["m.ckpt", "m.npz", "state.pt", "anything"])
def test_files(name, tmp_path):
    make(tmp_path, {name: ""})
    assert import_weights.is_foreign(str(tmp_path / name))
    assert import_weights.find_file(str(tmp_path / name)) == str(tmp_path / name)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"process.log": "", "checkpoints/_": "", "mine.ckpt": ""},
        {"6/variables": "", "mine.npz": ""},
    ],
)
def test_folders_of_ctjax(files, tmp_path):
    assert not import_weights.is_foreign(make(tmp_path, files))
    assert not import_weights.is_foreign(str(tmp_path / "absent"))
