"""Programs of networks that run without ctjax."""

import os
import subprocess
import sys

import jax.export
import numpy as np
import pytest

import ctjax
from ctjax.api.tagger import Tagger
from ctjax.base.errors import UserError
from ctjax.config import resolve
from ctjax.config.architecture import Architecture
from ctjax.runs import parts
from tests.support import small_networks
from tests.support.small_runs import SHAPE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("exporting")]

ALONE = """
import sys

sys.modules["ctjax"] = None  # an import of it fails
import jax, jax.export, numpy as np

with open("tagger.stablehlo", "rb") as file:
    program = jax.export.deserialize(bytearray(file.read()))
np.save("scores.npy", program.call(np.load("charge.npy")))
"""

# Of 8 features at the top, which the functions in C compute where they may.
DENSE = {
    "run__seed": 3,
    "network__n_initial_filters": 8,
    "network__normalization": "instance",
    "data__img_transform": True,
}
OTHERS = [name for name in small_networks.OTHERS if name.value != "uresnet_sparse"]


@pytest.fixture
def dense(runs):
    return ctjax.load(runs.train(**DENSE).folder)


def initial(architecture):
    """Another network with its initial parameters."""
    options = small_networks.OTHERS[architecture]
    fields = {"architecture": architecture.value, **options}
    values = {
        "mode": {"name": "inference"},
        "network": fields,
        "data": {"file": "none.h5", "img_transform": True},
    }
    config = resolve.resolve(values)
    model, variables = parts.make_network(config, None)
    return Tagger(config, model, variables, ("initial", 0), None, None)


@pytest.fixture
def charge(runs):
    with ctjax.open(runs.file) as events:
        return np.stack([event.charge for event in events])


def exported(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def assert_same(found, tagger, charge):
    expected = tagger.predict(charge)
    is_exact = tagger.config.run.precision.value == "float32"
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 if is_exact else 0.05)
    if is_exact:
        classes = tagger.classify(charge)
        assert len(np.unique(classes)) > 1
        np.testing.assert_array_equal(found.argmax(-1), classes)


def check_export(tagger, charge, folder):
    path = folder / "tagger.stablehlo"
    tagger.export(path, charge.shape[-2:])
    assert os.listdir(folder) == ["tagger.stablehlo"]
    program = exported(path)
    assert "custom_call @ctjax" not in program.mlir_module()
    for count in (8, 1):
        assert_same(np.asarray(program.call(charge[:count])), tagger, charge[:count])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_are_those_of_predict(runs, charge, tmp_path, precision):
    """For any number of events."""
    folder = runs.train(**DENSE).folder
    check_export(ctjax.load(folder, precision=precision), charge, tmp_path)


@pytest.mark.parametrize("architecture", OTHERS, ids=lambda name: name.value)
def test_other_networks_are_exported(architecture, tmp_path):
    charge = np.random.default_rng(1).exponential(50, (8, 3, 64, 64))
    charge = np.where(charge > 100, charge, 0).astype(np.float32)
    check_export(initial(architecture), charge, tmp_path)


def test_a_process_without_ctjax_runs_it(dense, charge, tmp_path):
    """Of images of other rows and columns than the network takes."""
    cut = np.ascontiguousarray(charge[..., :-3, :-1])
    path = tmp_path / "tagger.stablehlo"
    path.write_text("of before")
    dense.export(path, cut.shape[-2:])
    np.save(tmp_path / "charge.npy", cut)
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True, timeout=300)
    assert_same(np.load(tmp_path / "scores.npy"), dense, cut)


def test_what_cannot_be_exported_is_said(dense, tmp_path):
    path = tmp_path / "tagger.stablehlo"
    with pytest.raises(UserError, match=r"sparse network.*expected one that takes"):
        initial(Architecture.URESNET_SPARSE).export(path, SHAPE)
    for shape in (16, (16,), (0, 24), (16.0, 24)):
        with pytest.raises(UserError, match=r"image_shape: expected \(rows, columns\)"):
            dense.export(path, shape)
    assert not list(tmp_path.iterdir())
