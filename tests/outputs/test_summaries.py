"""TensorBoard's scalars: each tag, at which steps, and the tables' own numbers."""

import math

import pytest

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.outputs import summaries
from tests.support import small_runs
from tests.support.summaries import read_plugins, read_scalars

pytestmark = pytest.mark.xdist_group("runs_of_summaries")


@pytest.fixture(scope="module")
def run(runs):
    return runs.train(
        run__iterations=5,
        run__aux_iterations=2,
        data__aux_file=runs.file,
        mode__summary_iteration=2,
        mode__optimizer__learning_rate=1e-4,
        run__precision="mixed",
    )


def test_tags_and_steps(run):
    extra = ("learning_rate", "grad_norm", "loss_scale")
    speed = ("images_per_second", "io_fetch_time", "step_time", "global_step_per_sec")
    train, test = run.scalars("train"), run.scalars("test")
    assert set(train) == {"loss", *COSMIC_TAGGER.metric_names, *extra, *speed}
    assert set(test) == {"loss", *COSMIC_TAGGER.metric_names}
    assert {tuple(steps) for steps in train.values()} == {(0, 2, 4)}
    assert {tuple(steps) for steps in test.values()} == {(2, 4)}


@pytest.mark.parametrize("kind, name", [("train", "train"), ("test", "val")])
def test_values_are_those_of_the_table(run, kind, name):
    scalars = run.scalars(kind)
    rows = {row["step"]: row for row in run.table(f"{name}_metrics")}
    for tag in ("loss", *COSMIC_TAGGER.metric_names):
        for step, value in scalars[tag].items():
            assert value == pytest.approx(rows[step][tag], rel=1e-6), (tag, step)
    assert len(set(scalars["loss"].values())) > 1


def test_rate_norm_and_speed(run):
    scalars, timings = run.scalars("train"), run.timings("train")
    for step in (0, 2, 4):
        wait_s, step_s = timings[step]["wait_s"], timings[step]["step_s"]
        assert scalars["images_per_second"][step] == pytest.approx(4 / step_s, rel=1e-6)
        assert scalars["io_fetch_time"][step] == pytest.approx(wait_s, rel=1e-6)
        assert scalars["step_time"][step] == pytest.approx(step_s, rel=1e-6)
        assert scalars["global_step_per_sec"][step] == pytest.approx(1 / step_s)
        assert scalars["learning_rate"][step] == pytest.approx(1e-4, rel=1e-6)
        assert scalars["loss_scale"][step] == 2**16
        assert scalars["grad_norm"][step] > 0


def test_the_norm_is_that_of_the_gradient(runs):
    """Plain descent of rate 1 moves the parameters by it."""
    fields = {"run__iterations": 1, "mode__optimizer__learning_rate": 1.0}
    first, trained = runs.train().params, runs.train(**fields)
    squares = sum(((trained.params[p] - first[p]) ** 2).sum() for p in first)
    norm = trained.scalars("train")["grad_norm"][0]
    assert norm == pytest.approx(squares**0.5, rel=1e-3)


def test_a_run_that_goes_on_goes_on_with_the_steps(runs, tmp_path):
    for iterations in (2, 4):
        config = runs.config("train", tmp_path, run__iterations=iterations)
        run = small_runs.run_and_listen(config)
    losses = run.scalars("train")["loss"]
    assert list(losses) == [0, 1, 2, 3]
    assert list(losses.values()) == pytest.approx(run.losses, rel=1e-6)


def test_configuration_as_text_and_hyperparameters(run):
    """In the folder of the training's scalars, and in no other."""
    (text,) = (v for p, _, _, v in read_plugins(run.folder / "train") if p == "text")
    table = text.tensor.string_val[0].decode()
    assert "\n| mode.optimizer.learning_rate | 0.0001 |\n" in table
    content = b"".join(
        value.metadata.plugin_data.content
        for plugin, _, _, value in read_plugins(run.folder / "train")
        if plugin == "hparams"
    )
    for name in ("mode.optimizer.learning_rate", "network.depth", "Average/mIoU"):
        assert name.encode() in content
    assert read_plugins(run.folder / "test") == []
    assert not [path for path in (run.folder / "train").iterdir() if path.is_dir()]


def test_two_runs_within_a_second_leave_two_files(tmp_path):
    for start in (0, 1):
        summary = summaries.open_summary(str(tmp_path), "train", start)
        summary.add_scalar("loss", 1.5, start)
        summary.close()
    assert read_scalars(tmp_path / "train") == {"loss": {0: 1.5, 1: 1.5}}


def test_what_is_no_number_is_written_without_another_warning(tmp_path, caplog):
    summary = summaries.open_summary(str(tmp_path), "train", 0)
    summary.add_scalar("grad_norm", math.inf, 0)
    summary.close()
    assert read_scalars(tmp_path / "train") == {"grad_norm": {0: math.inf}}
    assert not caplog.records
