"""Which locations of weights are CosmicTagger's, and which of them can be read."""

import pathlib

import pytest

from ctjax.commands import import_weights
from ctjax.models.torch_weights import WeightsError

TENSORFLOW = 'model_checkpoint_path: "model_30.ckpt"\n'

KINDS = {
    "index and file": {"checkpoint": "latest: m.ckpt\n", "m.ckpt": ""},
    "a run": {"checkpoints/checkpoint": "latest: m.ckpt\n", "checkpoints/m.ckpt": ""},
}

REFUSED = {
    "TensorFlow's folder": (
        {"checkpoint": TENSORFLOW, "model_30.ckpt.index": ""},
        "weights of TensorFlow, which ctjax does not read yet; expected those of Cos",
    ),
    "TensorFlow's run": (
        {"checkpoints/checkpoint": TENSORFLOW},
        "weights of TensorFlow",
    ),
    "TensorFlow without index": (
        {"model_30.ckpt.index": "", "model_30.ckpt.data-00000-of-00001": ""},
        "weights of TensorFlow",
    ),
    "Keras": ({"model_30.weights.h5": ""}, "weights of TensorFlow"),
    "a model": ({"saved_model.pb": ""}, "weights of TensorFlow"),
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
    with pytest.raises(WeightsError, match=f"^{folder}: .*{words}"):
        import_weights.find_file(folder)


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt.index", "checkpoint"])
def test_names_of_tensorflows_files(name, tmp_path):
    make(tmp_path, {"model.ckpt.index": "", "checkpoint": TENSORFLOW})
    assert import_weights.is_foreign(str(tmp_path / name))
    with pytest.raises(WeightsError, match="weights of TensorFlow"):
        import_weights.find_file(str(tmp_path / name))


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
