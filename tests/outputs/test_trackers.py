"""Trackers of experiments, by stand-ins of their packages; a run survives them."""

import sys
import types

import pytest

from ctjax.outputs import trackers
from tests.support import tiny


class StandIn(types.ModuleType):
    """Notes every call by its name; that of `fails` raises an error of two lines."""

    def __init__(self, name, fails=""):
        super().__init__(name)
        self.calls, self.fails = [], fails

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            if name == self.fails:
                raise RuntimeError("no\nanswer")
            return self

        return call

    def names(self):
        return [name for name, _, _ in self.calls]


def track(tmp_path, monkeypatch, package, fails="", is_good=True):
    module = StandIn(package, fails)
    monkeypatch.setitem(sys.modules, package, module)
    tracked = trackers.TrackedRun(tiny.make(tmp_path, mode__tracker=package))
    for step in range(2):
        tracked.send("train", step, {"loss": 0.5})
    tracked.close(is_good)
    return module


def test_wandb(tmp_path, monkeypatch):
    module = track(tmp_path, monkeypatch, "wandb", is_good=False)
    assert module.names() == ["Settings", "init", "log", "log", "finish"]
    _, _, options = module.calls[1]
    assert options["dir"] == str(tmp_path) and options["name"] == "test"
    assert options["config"]["run"]["iterations"] == 4
    assert module.calls[3][1:] == (({"train/loss": 0.5},), {"step": 1})
    assert module.calls[4][2] == {"exit_code": 1}


def test_mlflow(tmp_path, monkeypatch):
    module = track(tmp_path, monkeypatch, "mlflow")
    assert module.names() == [
        *("set_experiment", "start_run", "log_params"),
        *("log_metrics", "log_metrics", "end_run"),
    ]
    assert module.calls[2][1][0]["mode.optimizer.learning_rate"] == 1e-2
    assert module.calls[4][1:] == (({"train/loss": 0.5},), {"step": 1})
    assert module.calls[5][1] == ("FINISHED",)


@pytest.mark.parametrize(
    "package, fails, count",
    [
        ("wandb", "init", 2),
        ("wandb", "log", 3),
        ("wandb", "finish", 5),
        ("mlflow", "log_params", 3),
        ("mlflow", "log_metrics", 4),
        ("mlflow", "end_run", 6),
    ],
)
def test_a_run_survives_its_failure(
    tmp_path, monkeypatch, caplog, package, fails, count
):
    module = track(tmp_path, monkeypatch, package, fails)
    assert len(module.calls) == count and module.names()[-1] == fails
    assert caplog.messages == [f"mode.tracker={package}: no more is sent: no answer"]


def test_a_package_that_is_absent(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    trackers.TrackedRun(tiny.make(tmp_path, mode__tracker="wandb")).close(True)
    (line,) = caplog.messages
    assert "pip install 'ctjax[wandb]'" in line


def test_none(tmp_path, caplog):
    tracked = trackers.TrackedRun(tiny.make(tmp_path))
    tracked.send("train", 0, {"loss": 1.0})
    tracked.close(True)
    assert not caplog.records
