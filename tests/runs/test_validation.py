"""Validation: which events each one sees, and the checkpoint that its score keeps."""

import numpy as np
import pytest

from tests.support import small_runs
from tests.support.small_runs import entries_of, logits_of, loss_by_hand

pytestmark = pytest.mark.xdist_group("runs_of_validation")


SEED = 0
"""Of an order of events whose first or second validation has the best score."""


def losses_by_hand(run, truth, counts):
    """Of the validations of these numbers, the first one 0."""
    image, label = truth
    logits = logits_of(run.config, run.variables, image)
    return [
        loss_by_hand(logits[at], label[at], image[at]) for at in map(entries_of, counts)
    ]


def test_each_validation_sees_the_next_events(runs, truth):
    run = runs.train(data__aux_file=runs.file, run__aux_iterations=1, run__iterations=4)
    expected = losses_by_hand(run, truth, range(4))
    assert run.column("val_metrics", "loss") == pytest.approx(expected, rel=1e-5)
    assert len(set(np.round(expected, 3))) == 4


def test_a_run_that_goes_on_goes_on_with_the_next_events(runs, truth, tmp_path):
    fields = {"data__aux_file": runs.file, "run__aux_iterations": 2}
    for iterations in (2, 6):
        config = runs.config("train", tmp_path, run__iterations=iterations, **fields)
        run = small_runs.run_and_listen(config)
    assert run.column("val_metrics", "step") == [2, 4, 6]
    expected = losses_by_hand(run, truth, range(3))
    assert run.column("val_metrics", "loss") == pytest.approx(expected, rel=1e-5)


def kept(run):
    return {int(path.name) for path in (run.folder / "checkpoints").iterdir()}


def test_the_best_checkpoint_is_kept_besides_the_last_five(runs):
    fields = {"run__iterations": 8, "mode__checkpoint_iteration": 1}
    run = runs.train(
        data__aux_file=runs.file, run__aux_iterations=1, data__seed=SEED, **fields
    )
    scores = run.column("val_metrics", "Average/mIoU")
    best = int(np.argmax(scores)) + 1  # the first validation is that of step 1
    assert best < 3 and scores.count(max(scores)) == 1
    assert kept(run) == {best, 4, 5, 6, 7, 8}
    # Without validations there is no best one.
    assert kept(runs.train(**fields)) == {4, 5, 6, 7, 8}
