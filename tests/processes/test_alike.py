"""Processes that see other files or weights under one name are told apart."""

import os
import threading

import numpy as np
import pytest

from ctjax.outputs import checksums
from ctjax.processes import join
from ctjax.processes.coordinator import DistributedError
from ctjax.processes.join import Processes
from ctjax.runs import parts
from tests.support import larcv_fixtures, tiny


def together(monkeypatch, *works):
    """Runs what each rank does, in threads that gather as processes do.

    Returns the error of each, None where it ends without.
    """
    barrier, gathered = threading.Barrier(len(works)), [None] * len(works)
    rank, errors = threading.local(), [None] * len(works)

    def gather(values):
        gathered[rank.number] = values
        barrier.wait(60)
        every = np.stack(gathered)
        barrier.wait(60)
        return every

    def work(number):
        rank.number = number
        try:
            works[number]()
        except DistributedError as error:
            errors[number] = str(error)

    monkeypatch.setattr(join, "gather", gather)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_what_is_alike_passes(monkeypatch):
    same = [lambda: join.check_alike({"a": 1, "b": [1, 2]})] * 3
    assert together(monkeypatch, *same) == [None] * 3


def test_the_first_rank_that_differs_is_named_to_all(monkeypatch):
    found = [{"events": 3, "b": 1}, {"events": 3, "b": 1}, {"events": 5, "c": 2}]
    works = [lambda ours=ours: join.check_alike(ours) for ours in found]
    message = (
        "rank 2 differs from rank 0: b is None, expected 1; c is 2, expected None; "
        "events is 5, expected 3"
    )
    assert together(monkeypatch, *works) == [message] * 3


def test_of_many_differences_some_are_named(monkeypatch):
    works = [
        lambda n=n: join.check_alike({f"name {i}": n for i in range(9)})
        for n in range(2)
    ]
    (message, _) = together(monkeypatch, *works)
    assert message.endswith("name 3 is 1, expected 0; and 5 more")


def files_of_one_name(tmp_path, *changes):
    """Folders with a file of one name; each changed in its own way."""
    events = larcv_fixtures.make_events(5)
    for number, change in enumerate(changes):
        folder = tmp_path / str(number)
        folder.mkdir()
        larcv_fixtures.write_larcv(folder / "events.h5", change(events), filters={})
    return [tmp_path / str(number) for number in range(len(changes))]


def relabel(events):
    """One class of one pixel is another."""
    changed = [[tuple(map(np.copy, plane)) for plane in event] for event in events]
    classes = changed[3][1][2]
    classes[-1] = (classes[-1] + 1) % 3
    return changed


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda events: events, None),
        (lambda events: events[:3], "events.h5: events is 3, expected 5"),
        (relabel, "events.h5: content is "),
    ],
)
@pytest.mark.parametrize("names", ["file", "aux_file"])
def test_files_of_one_name(tmp_path, monkeypatch, change, words, names):
    folders = files_of_one_name(tmp_path, lambda events: events, change)
    opened = []

    def work(rank):
        # Both name it alike: each process has its own disk.
        config = tiny.make(
            tmp_path,
            data__synthetic=False,
            data__downsample=0,
            data__data_directory=str(folders[rank]),
            **{"data__file": "events.h5", f"data__{names}": "events.h5"},
        )
        data = config.data
        with parts.open_events(data, getattr(data, names), True, Processes(rank, 2)):
            opened.append(rank)

    describe = parts.sources.EventSource.describe

    def without_folder(source):
        return {
            name.rpartition("/")[2]: value
            for name, value in describe(source).items()
            if name != "order of the files"
        }

    monkeypatch.setattr(parts.sources.EventSource, "describe", without_folder)
    descriptors = len(os.listdir("/proc/self/fd"))
    errors = together(monkeypatch, lambda: work(0), lambda: work(1))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    if words is None:
        assert errors == [None, None] and sorted(opened) == [0, 1]
    else:
        assert opened == [] and errors[0] == errors[1]
        assert errors[0].startswith("rank 1 differs from rank 0: ")
        assert words in errors[0]


def test_weights_are_told_apart_by_step_and_every_byte(tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (2, 10):
        (folder / str(step) / "variables").mkdir(parents=True)
        (folder / str(step) / "variables" / "d").write_bytes(b"numbers")

    def describe(step=None):
        return checksums.describe("run", str(folder), step)

    ours = describe()
    assert ours == describe(10) != describe(2)
    assert ours["step of run"] == 10
    (folder / "10" / "variables" / "d").write_bytes(b"Numbers")
    theirs = describe()
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name] != theirs[name]]
    assert different == ["run: 10/variables/d"]
    (tmp_path / "empty").mkdir()
    assert checksums.describe("run", str(tmp_path / "empty"), None) == {
        "step of run": None
    }
