"""No option without a test that changes it, and no such test without its option."""

import dataclasses
import importlib

import pytest

from ctjax.config import fields
from tests.support import small_runs

MODULES = {
    "run": ("test_run",),
    "data": ("test_data", "test_detector"),
    "network": ("test_network",),
    "network.classification": ("test_event_head",),
    "network.vertex": ("test_vertex_head",),
    "mode": ("test_mode",),
    "mode.optimizer": ("test_optimizer",),
    "": ("test_every_field",),
}
"""Where the fields of each section are changed, by `test_<field>[__<where>]`."""

NO_FIELDS = {"every_field_has_its_test", "scores"} | {
    "training_has_the_network_that_is_asked_for"
}
"""Tests of these modules that are of no field, or of many."""


def sections(section, name=""):
    """Names of the fields of every section, by its dotted name."""
    yield (
        name,
        {
            field.name
            for field in dataclasses.fields(section)
            if not dataclasses.is_dataclass(getattr(section, field.name))
        },
    )
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from sections(value, f"{name}.{field.name}".lstrip("."))


@pytest.mark.parametrize("section, names", list(sections(fields.Config())))
def test_every_field_has_its_test(section, names):
    tested = set()
    for name in MODULES[section]:
        module = importlib.import_module(f"{__package__}.{name}")
        tested |= {
            name.removeprefix("test_").partition("__")[0]
            for name in vars(module)
            if name.startswith("test_")
        }
        tested |= set(getattr(module, "CHANGES", ()))
    assert tested - NO_FIELDS == names


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_output_dir(runs, tmp_path, mode):
    files = {
        "train": "train_metrics.csv",
        "inference": "inference_metrics.csv",
        "iotest": "profiles/io_timings.npy",
    }
    weights = str(runs.train().folder)
    fields = {"mode__weights_location": weights} if mode == "inference" else {}
    folder = tmp_path / "here"
    small_runs.run_and_listen(runs.config(mode, folder, **fields))
    assert (folder / files[mode]).exists()
