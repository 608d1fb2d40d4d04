"""Signals before, in and after the steps of a training."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ctjax import main
from ctjax.commands import command_line
from ctjax.config.fields import ModeName
from ctjax.processes import stop_requests
from ctjax.processes.join import SINGLE_PROCESS, Processes
from ctjax.runs import iotest
from tests.support import ROOT, processes, tiny


@pytest.fixture
def hangup():
    """SIGHUP as it is without nohup, whatever the tests run under."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_a_request_unless_it_is_ignored(hangup):
    with stop_requests.watch(0) as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert request.reason == "SIGHUP"
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests.watch(0) as request:
        os.kill(os.getpid(), signal.SIGHUP)
        assert request.reason is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", stop_requests.SIGNALS)
def test_before_the_first_step_the_status_is_that_of_a_stop(number):
    code = (
        "import os, signal; from ctjax.processes import stop_requests\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "with stop_requests.ending_at_once():\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == stop_requests.STATUS
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"ctjax: stopped by {number.name} while no step was under way"
    )


def handlers():
    return [signal.getsignal(number) for number in stop_requests.SIGNALS]


@pytest.mark.parametrize(
    "mode, group, expected",
    [
        (ModeName.TRAIN, SINGLE_PROCESS, stop_requests._end),
        (ModeName.TRAIN, Processes(1, 4), stop_requests._end),
        (ModeName.INFERENCE, SINGLE_PROCESS, signal.default_int_handler),
        (ModeName.INFERENCE, Processes(1, 4), signal.SIG_DFL),
    ],
)
def test_who_takes_sigterm_in_each_mode(hangup, mode, group, expected):
    before = handlers()
    with main._taking_signals(mode, group):
        assert signal.getsignal(signal.SIGTERM) == expected
        assert signal.getsignal(signal.SIGHUP) == expected
    assert handlers() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_ends_in_one_line(
    hangup, tmp_path, monkeypatch, capsys, number
):
    def run(config, group):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(iotest, "run", run)
    before = handlers()
    assert main.main(tiny.flags(tmp_path, mode__name="iotest")) == 1
    assert handlers() == before
    assert capsys.readouterr().err == f"ctjax: error: {command_line.INTERRUPTED}\n"


def test_other_threads_set_no_handlers():
    before, found = handlers(), []

    def enter():
        with stop_requests.ending_at_once(), stop_requests.interrupting():
            found.append(handlers())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.slow
def test_a_training_that_is_starting_ends_with_the_status_of_a_stop(tmp_path):
    """After its first line of the log it is importing, opening, restoring."""
    training = subprocess.Popen(
        processes.command(*tiny.flags(tmp_path, run__iterations=10**6)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert training.stdout is not None
        assert any("Resolved configuration" in line for line in training.stdout)
        training.terminate()
        _, errors = training.communicate(timeout=120)
    finally:
        training.kill()
    assert training.returncode == stop_requests.STATUS, errors
