"""Each field of the section `mode`, changed, changes what it should in a run."""

import sys
import types
from typing import Any

import numpy as np
import pytest

from ctjax import main
from ctjax.outputs import checkpoint
from ctjax.outputs.saved_config import CheckpointError
from ctjax.runs import parts
from tests.support import small_networks, small_runs
from tests.support.small_runs import accuracy_by_hand, entries_of, logits_of

pytestmark = pytest.mark.xdist_group("options_of_mode")

LEFT_BY = {
    "train": ["train_metrics.csv", "checkpoints/2"],
    "inference": ["inference_metrics.csv", "inference_confusion.csv"],
    "iotest": ["profiles/io_timings.npy"],
}
"""What each mode leaves and no other one does."""


@pytest.mark.parametrize("mode", LEFT_BY)
def test_name(runs, tmp_path, mode, monkeypatch):
    monkeypatch.setattr(main.report, "write_after_run", lambda folder: None)
    fields = {}
    if mode == "inference":
        fields["mode__weights_location"] = str(runs.train().folder)
    main.run(runs.config(mode, tmp_path, **fields))
    for name, paths in LEFT_BY.items():
        assert [(tmp_path / path).exists() for path in paths] == (
            [name == mode] * len(paths)
        )


def test_weights_location(runs):
    other = runs.train(run__seed=7)
    started = runs.train(mode__weights_location=str(other.folder), run__iterations=1)
    assert int(started.result.step) == 1
    for path, leaf in other.params.items():
        np.testing.assert_array_equal(started.params[path], leaf)
    words = f"Restored weights of step 2 from {other.folder}"
    assert words in started.messages
    inferred = runs.infer(mode__weights_location=str(other.folder))
    assert words in inferred.messages
    assert inferred.result == runs.infer(run__seed=7).result != runs.infer().result


def test_start_index(runs):
    late = runs.infer(mode__start_index=5)
    assert late.column("inference_metrics", "entry") == [5, 6, 7]
    assert late.column("inference_metrics", "event") == [105, 106, 107]
    whole = runs.infer().table("inference_metrics")
    assert late.table("inference_metrics") == whole[5:]


def test_wrap(runs):
    """Twelve entries of a file of eight."""
    asked = {"run__iterations": 3}
    once, round_again = runs.infer(**asked), runs.infer(mode__wrap=True, **asked)
    rows = runs.infer().table("inference_metrics")
    assert once.table("inference_metrics") == rows
    assert round_again.table("inference_metrics") == [*rows, *rows[:4]]
    before = "Asked for 12 entries (run.iterations=3 minibatches of 4), the data has 8 "
    before += "from mode.start_index=0 on: mode.wrap="
    report = "Inference report: {} batches processed for {} entries."
    assert f"{before}False takes 8 entries" in once.messages
    at = once.messages.index(report.format(2, 8))
    assert once.messages[at + 1] == (
        "  Asked for 12 entries, the data has no more: mode.wrap=True goes round again"
    )
    assert f"{before}True goes round again" in round_again.messages
    at = round_again.messages.index(report.format(3, 12))
    assert round_again.messages[at + 1] == (
        "  Some of them more than once: the data has 8 (mode.wrap=True)"
    )
    assert not any("sked for" in message for message in runs.infer().messages)
    # Whoever asks for no number gets every event once.
    assert runs.infer(mode__wrap=True).table("inference_metrics") == rows


def test_allow_other_images(runs, biased):
    for change in ({"data__downsample": 1}, {"data__img_transform": True}):
        with pytest.raises(CheckpointError, match="trained with other images: data"):
            runs.infer(mode__allow_other_images=False, **change)
        trained = {"mode__weights_location": str(runs.train().folder)}
        with pytest.raises(CheckpointError, match="trained with other images: data"):
            runs.train(**trained, **change)
    # Those who are allowed to, do: see test_data.py.
    assert runs.infer(data__downsample=1).result != runs.infer().result
    # Weights alone, of an import, do not say what they were trained with.
    config = runs.config("inference", "unused", data__downsample=1)
    _, variables = parts.make_network(config, (8, 12))
    checkpoint.restore_weights(biased, variables, config)


def test_start_index__of_the_io_test(runs, tmp_path, monkeypatch):
    from ctjax.data import sources

    read = []
    original = sources.EventSource.read

    def spy(source, entry, *arrays):
        read.append(entry)
        return original(source, entry, *arrays)

    monkeypatch.setattr(sources.EventSource, "read", spy)
    fields = {"data__io_threads": 1, "run__iterations": 1}
    config = runs.config("iotest", tmp_path, mode__start_index=6, **fields)
    small_runs.run_and_listen(config)
    assert read[:4] == [6, 7, 0, 1]


def test_checkpoint_iteration(runs):
    def saved(**changes):
        run = runs.train(run__iterations=4, **changes)
        return {int(path.name) for path in (run.folder / "checkpoints").iterdir()}

    assert saved() == {4}
    assert saved(mode__checkpoint_iteration=3) == {3, 4}
    assert saved(mode__checkpoint_iteration=1) == {1, 2, 3, 4}


def test_logging_iteration(runs):
    fields = {"run__iterations": 4, "mode__logging_iteration": 3}
    run = runs.train(**fields)
    assert run.steps_logged("train") == [0, 3]
    # The tables have every step all the same.
    assert run.column("train_metrics", "step") == [0, 1, 2, 3]
    assert runs.train(run__iterations=4).steps_logged("train") == [0, 1, 2, 3]
    assert runs.infer().steps_logged("ana") == [0, 1]
    assert runs.infer(mode__logging_iteration=2).steps_logged("ana") == [0]


def test_summary_iteration(runs):
    for changes, steps in (
        ({}, [0, 1, 2, 3]),
        ({"mode__summary_iteration": 2}, [0, 2]),
    ):
        scalars = runs.train(run__iterations=4, **changes).scalars("train")
        for tag in ("loss", "Average/mIoU", "learning_rate", "grad_norm"):
            assert list(scalars[tag]) == steps


def test_tracker(runs, monkeypatch):
    sent = []
    wandb: Any = types.ModuleType("wandb")
    wandb.Settings = dict
    wandb.init = lambda **options: types.SimpleNamespace(
        log=lambda scalars, step: sent.append((step, scalars)),
        finish=lambda exit_code: sent.append(exit_code),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = runs.train(mode__tracker="wandb")
    *steps, status = sent
    assert [step for step, _ in steps] == [0, 1] and status == 0
    losses = [scalars["train/loss"] for _, scalars in steps]
    assert losses == pytest.approx(run.losses, rel=1e-6)
    runs.train()
    assert len(sent) == 3


def test_no_summary_images(runs):
    pytest.importorskip("matplotlib", reason="extra [display] is not installed")
    from tests.support import summaries

    fields = {"data__aux_file": runs.file, "run__aux_iterations": 1}
    for hidden, pictures in ((True, []), (False, [("event", 0)])):
        run = runs.train(mode__no_summary_images=hidden, run__iterations=1, **fields)
        assert list(summaries.read_images(run.folder / "train")) == pictures


@pytest.fixture(scope="module")
def biased(runs):
    """Weights of a network that calls cosmic what it sees nothing of."""
    folder = runs.folder / "biased"
    config = runs.config("train", folder)
    drawn = small_networks.random_variables(config.network)
    drawn["params"]["bottleneck"]["bias"] = np.array([0, 5, 0], np.float32)
    checkpoint.save_weights(str(folder), {"batch_stats": {}, **drawn}, 1, config)
    return str(folder)


@pytest.mark.parametrize("masked", [True, False])
def test_mask_empty_pixels(runs, truth, biased, masked):
    """Of training, validation and inference, against the rule by hand."""
    image, label = truth
    run = runs.train(
        mode__mask_empty_pixels=masked,
        mode__weights_location=biased,
        data__aux_file=runs.file,
        run__aux_iterations=1,
    )
    expected = []
    for step in range(2):
        at = entries_of(step)
        logits = logits_of(run.config, run.variables, image[at])
        expected.append(accuracy_by_hand(logits, label[at], image[at], masked))
    accuracy = "Average/Total_Accuracy"
    assert run.column("train_metrics", accuracy) == pytest.approx(expected, rel=1e-4)
    assert run.column("val_metrics", accuracy) == pytest.approx(expected, rel=1e-4)

    inferred = runs.infer(mode__mask_empty_pixels=masked, mode__weights_location=biased)
    logits = logits_of(run.config, run.variables, image)
    by_event = [
        accuracy_by_hand(*(part[None] for part in event), masked)
        for event in zip(logits, label, image, strict=True)
    ]
    found = inferred.column("inference_metrics", accuracy)
    assert found == pytest.approx(by_event, rel=1e-4)
    # Most of the pixels are empty.
    other = [accuracy_by_hand(logits, label, image, rule) for rule in (True, False)]
    assert other[0] > other[1] + 0.3


def test_write_predictions(runs):
    with_them = runs.infer()
    assert (with_them.folder / "predictions.h5").exists()
    without = runs.infer(mode__write_predictions=False)
    assert not (without.folder / "predictions.h5").exists()
    assert without.result == with_them.result
