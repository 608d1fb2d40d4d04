"""Gradients of several minibatches a step: what is counted by the step, what by it."""

import math

import pytest

from ctjax.config.fields import Optimizer
from ctjax.learning import optimizer
from tests.support import larcv_fixtures
from tests.support.small_runs import SHAPE, entries_of, logits_of, loss_by_hand

pytestmark = pytest.mark.xdist_group("runs_of_accumulation")

RATE = 0.0101  # 0.01 above the 1e-4 where the warm-up begins and the decay ends
TWICE = {"mode__optimizer__gradient_accumulation": 2}


def test_the_loss_is_the_mean_of_the_minibatches(runs, truth):
    image, label = truth
    run = runs.train(run__iterations=3, **TWICE)
    # A step takes the eight events of what were two steps, and an epoch is one step.
    logits = logits_of(run.config, run.variables, image)
    assert run.losses == pytest.approx([loss_by_hand(logits, label, image)] * 3)
    parts = [
        loss_by_hand(logits[at], label[at], image[at])
        for at in (entries_of(0), entries_of(1))
    ]
    assert run.losses[0] == pytest.approx(sum(parts) / 2)


def test_metrics_are_means_over_all_events_of_the_step(runs):
    once = runs.train().table("train_metrics")
    (twice,) = runs.train(run__iterations=1, **TWICE).table("train_metrics")
    for name in ("Average/Total_Accuracy", "Average/mIoU", "plane2/Cosmic_IoU"):
        assert twice[name] == pytest.approx((once[0][name] + once[1][name]) / 2)


def test_images_of_all_minibatches_count_in_the_throughput(runs):
    run = runs.train(run__iterations=3, **TWICE)
    step_s = run.timings("train")["step_s"]
    rates = run.scalars("train")["images_per_second"]
    assert [rates[n] for n in range(3)] == pytest.approx(list(8 / step_s), rel=1e-5)
    for step, line in enumerate(m for m in run.messages if m.startswith("train Step")):
        assert f"({8 / step_s[step]:.3g} Img/s / " in line
    assert run.messages[-1].endswith(f"throughput: {8 / step_s[2]:.4f}")


# An epoch is 2 steps of 4 of the 8 events, and 1 step of 2 x 4.
@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, [1e-4, 1e-4 + 0.01 / 2, RATE, RATE]),
        (TWICE, [1e-4, RATE, RATE, RATE]),
    ],
)
def test_an_epoch_of_the_schedule_is_that_of_the_events(runs, changes, expected):
    run = runs.train(
        run__iterations=4,
        mode__optimizer__learning_rate=RATE,
        mode__optimizer__lr_schedule="warmup_flat_decay",
        **changes,
    )
    rates = run.scalars("train")["learning_rate"]
    assert [rates[step] for step in range(4)] == pytest.approx(expected, rel=1e-5)


# By hand: the warm-up climbs from 1e-4 over an epoch, rounded to whole steps but at
# least one; flat until the first step at or after 21 epochs, which is still flat; then
# the part above 1e-4 falls by exp(-0.999 / steps of an epoch) a step.
@pytest.mark.parametrize(
    "steps_per_epoch, warmup, decay_start",
    [
        # 21 x 2.6 = 54.6; the climb ends at step 3 and not at 2.
        (2.6, [1e-4, 1e-4 + 0.01 / 3, 1e-4 + 0.02 / 3, RATE, RATE], 55),
        # 21 x 7.25 = 152.25; the climb has 7 steps.
        (7.25, [1e-4 + 0.01 * step / 7 for step in range(7)] + [RATE, RATE], 153),
        # 21 x 0.4 = 8.4; several epochs a step, and still the first one is at 1e-4.
        (0.4, [1e-4, RATE, RATE], 9),
    ],
)
def test_epochs_of_no_whole_number_of_steps(steps_per_epoch, warmup, decay_start):
    schedule = optimizer.make_schedule(
        Optimizer(learning_rate=RATE), steps_per_epoch, 1000
    )
    rates = [float(schedule(step)) for step in range(decay_start + 3)]
    assert rates[: len(warmup)] == pytest.approx(warmup, rel=1e-5)
    flat = rates[len(warmup) : decay_start + 1]
    assert flat == pytest.approx([RATE] * len(flat), rel=1e-5)
    fall = math.exp(-0.999 / steps_per_epoch)
    assert rates[decay_start + 1 :] == pytest.approx(
        [1e-4 + 0.01 * fall, 1e-4 + 0.01 * fall**2], rel=1e-5
    )


def test_a_run_has_its_epochs_of_no_whole_number_of_steps(runs):
    # 13 events in steps of 5: 2.6 steps.
    path = runs.write("thirteen.h5", larcv_fixtures.make_events(13, SHAPE))
    run = runs.train(
        one_device=True,
        data__file=path,
        run__minibatch_size=5,
        run__iterations=57,
        mode__optimizer__learning_rate=RATE,
        mode__optimizer__lr_schedule="warmup_flat_decay",
        mode__logging_iteration=100,
    )
    rates = run.scalars("train")["learning_rate"]
    climb = [1e-4, 1e-4 + 0.01 / 3, 1e-4 + 0.02 / 3, RATE]
    assert [rates[step] for step in range(4)] == pytest.approx(climb, rel=1e-5)
    assert rates[55] == pytest.approx(RATE, rel=1e-5)
    fall = math.exp(-0.999 / 2.6)
    assert rates[56] == pytest.approx(1e-4 + 0.01 * fall, rel=1e-5)
