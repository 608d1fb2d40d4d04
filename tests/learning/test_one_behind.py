"""Steps are handed out one behind those that are started."""

import pytest

from ctjax.learning.one_behind import one_behind


def order_of(count, is_awaited=lambda step: False):
    """What happens when, of starting steps and of having them handed out."""
    events = []

    def start():
        for step in range(count):
            events.append(f"start {step}")
            yield step

    for step in one_behind(start(), is_awaited):
        events.append(f"finish {step}")
    return " ".join(events)


@pytest.mark.parametrize(
    "count, expected",
    [
        (0, ""),
        (1, "start 0 finish 0"),
        (3, "start 0 start 1 finish 0 start 2 finish 1 finish 2"),
    ],
)
def test_a_step_is_finished_when_the_next_one_is_started(count, expected):
    assert order_of(count) == expected


def test_an_awaited_step_is_finished_before_the_next_one_is_started():
    assert order_of(4, lambda step: step == 1) == (
        "start 0 start 1 finish 0 finish 1 start 2 start 3 finish 2 finish 3"
    )
    assert order_of(2, lambda step: True) == "start 0 finish 0 start 1 finish 1"


def test_nothing_is_started_after_the_steps_end_by_themselves():
    started = []

    def start():
        while len(started) < 3:
            started.append(len(started))
            yield started[-1]

    finished = []
    for step in one_behind(start()):
        finished.append(step)
        if step == 0:
            started.append(None)  # as a request to stop, found in step 0's results
    assert finished == [0, 1]


def test_an_error_in_starting_a_step_is_passed_on():
    def start():
        yield 0
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(one_behind(start()))
