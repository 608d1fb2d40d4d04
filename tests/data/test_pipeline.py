"""Orders of events, minibatches, read-ahead, errors of threads, several files."""

import copy
import os
import resource
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.data import forms, order, pipeline, sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.minibatch import Form, HostMinibatch, SiteForm
from tests.support import larcv_fixtures


@pytest.fixture
def events():
    return larcv_fixtures.make_events(7)


@pytest.fixture
def path(tmp_path, events):
    return str(larcv_fixtures.write_larcv(tmp_path / "good.h5", events))


@pytest.fixture
def source(path):
    with sources.open_source(file=path) as source:
        yield source


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("ctjax-io")]


@given(
    num_events=st.integers(1, 40),
    size=st.integers(1, 50),
    seed=st.integers(0, 2**40),
    first_epoch=st.integers(0, 3),
)
@settings(deadline=None)
def test_training_reads_each_event_once_an_epoch(num_events, size, seed, first_epoch):
    steps = -(-(first_epoch + 2) * num_events // size)
    entries = np.concatenate(
        [order.training_entries(num_events, size, seed, s) for s in range(steps)]
    )
    for epoch in range(first_epoch + 2):
        part = entries[epoch * num_events : (epoch + 1) * num_events]
        assert sorted(part) == list(range(num_events))


def test_training_order_depends_on_seed_epoch_and_step_alone():
    def orders(seed):
        return [order.training_entries(50, 4, seed, s).tolist() for s in range(25)]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    flat = np.ravel(orders(1)).tolist()
    assert flat[:50] != flat[50:]
    order.permutation.cache_clear()
    assert order.training_entries(50, 4, 1, 24).tolist() == orders(1)[24]


def test_training_order_is_the_same_for_ever():
    # Resumed runs rely on it: a change here breaks them.
    found = [order.training_entries(5, 3, 0, s).tolist() for s in range(4)]
    assert found == [[0, 2, 1], [4, 3, 3], [2, 4, 1], [0, 2, 1]]


def test_far_steps_take_no_time():
    start = time.perf_counter()
    entries = order.training_entries(43_075, 64, 0, 10**9)
    assert time.perf_counter() - start < 0.5
    assert len(set(entries.tolist())) == 64


def test_sequential_order():
    entries = [e.tolist() for e in order.sequential_entries(7, 3, 2)]
    assert entries == [[2, 3, 4], [5, 6, -1]]
    assert list(order.sequential_entries(7, 3, 7)) == []


def test_wrapped_order():
    entries = order.wrapped_entries(5, 3, 4)
    assert [next(entries).tolist() for _ in range(3)] == [
        [4, 0, 1],
        [2, 3, 4],
        [0, 1, 2],
    ]


def collect(source, entries, *, release, **options):
    found = []
    with pipeline.minibatches(source, entries, **options) as reader:
        for minibatch in reader:
            found.append(HostMinibatch(*map(copy.copy, minibatch)))
            if release:
                reader.release(minibatch)
    return found


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("io_threads, prefetch", [(1, 0), (1, 2), (4, 1), (3, 5)])
def test_minibatches_are_right_whatever_the_threads(
    source, events, io_threads, prefetch, release
):
    image, label = larcv_fixtures.dense_truth(events)
    entries = [[6, 2, 2], [0, -1, 4], [-1, -1, -1], [1, 3, 5], [6, 6, 0]] * 4
    found = collect(
        source, entries, release=release, io_threads=io_threads, prefetch=prefetch
    )
    assert len(found) == len(entries)
    for minibatch, expected in zip(found, entries, strict=True):
        assert minibatch.entries.tolist() == expected
        real = np.array(expected) >= 0
        np.testing.assert_array_equal(minibatch.mask, real)
        assert minibatch.mask.dtype == np.float32
        for place, entry in enumerate(expected):
            run = [7, 1, 100 + entry] if entry >= 0 else [-1, -1, -1]
            assert minibatch.event_ids[place].tolist() == run
            empty = np.zeros_like(image[0])
            np.testing.assert_array_equal(
                minibatch.image[place], image[entry] if entry >= 0 else empty
            )
            np.testing.assert_array_equal(
                minibatch.label[place], label[entry] if entry >= 0 else empty
            )
        assert minibatch.image.dtype == np.float32
        assert minibatch.label.dtype == np.uint8
        assert minibatch.image.flags.c_contiguous
        assert minibatch.event_ids.dtype == minibatch.entries.dtype == np.int64


def test_released_arrays_are_used_again(source, monkeypatch):
    made = []
    original = forms.DenseBuffer

    def count(*arguments):
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(forms, "DenseBuffer", count)
    with pipeline.minibatches(
        source, [[0, 1]] * 20, io_threads=2, prefetch=2
    ) as reader:
        for minibatch in reader:
            reader.release(minibatch)
            reader.release(minibatch)
    assert 2 <= len(made) <= 4


def test_arrays_not_released_stay_as_they_are(source, events):
    image, _ = larcv_fixtures.dense_truth(events)
    entries = [[e % 7] for e in range(20)]
    with pipeline.minibatches(source, entries, io_threads=2, prefetch=2) as reader:
        kept = list(reader)
    assert len({m.image.ctypes.data for m in kept}) == 20
    for minibatch in kept:
        np.testing.assert_array_equal(minibatch.image[0], image[minibatch.entries[0]])


class FakeSource:
    """Counts what is read; an entry may fail or wait."""

    num_events, has_label, image_shape, max_pixels = 100, True, (4, 4), 0
    detector, bad_events = COSMIC_TAGGER, {}

    def __init__(self, bad=(), gate=None):
        self.started, self.bad, self.gate = [], bad, gate

    def event_id(self, entry):
        return np.array([0, 0, entry])

    def head_labels(self, entries):
        return None

    def read(self, entry, image, label):
        self.started.append(entry)
        if self.gate is not None:
            assert self.gate.wait(10)
        if entry in self.bad:
            raise LarcvFileError(f"entry {entry} is bad") from OSError("disk")
        image[:] = entry
        pixels = np.arange(image.size, dtype=np.int32)
        return pixels, pixels


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_reads_no_further_ahead_than_asked(prefetch):
    source = FakeSource()
    taken = []

    def entries():
        for number in range(50):
            taken.append(number)
            yield [number]

    with pipeline.minibatches(
        source, entries(), io_threads=4, prefetch=prefetch
    ) as reader:
        for number in range(10):
            assert next(reader).image.max() == number
            assert len(taken) <= number + 1 + prefetch
        deadline = time.monotonic() + 10
        while len(source.started) < 10 + prefetch and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(source.started) == 10 + prefetch


def test_error_of_a_thread_reaches_the_caller_once():
    source = FakeSource(bad=(5, 6))
    entries = [[n, n + 1] for n in range(0, 20, 2)]
    reader = pipeline.minibatches(source, entries, io_threads=3, prefetch=4)
    assert next(reader).entries.tolist() == [0, 1]
    assert next(reader).entries.tolist() == [2, 3]
    with pytest.raises(LarcvFileError, match="entry 5 is bad") as error:
        next(reader)
    assert isinstance(error.value.__cause__, OSError)
    assert not reading_threads()
    with pytest.raises(StopIteration):
        next(reader)


def test_error_of_the_entries_stops_the_threads():
    def entries():
        yield [0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        with pipeline.minibatches(FakeSource(), entries(), io_threads=2) as reader:
            list(reader)
    assert not reading_threads()


def test_close_in_the_middle_joins_all_threads():
    gate = threading.Event()
    source = FakeSource(gate=gate)
    started = threading.Event()

    def entries():
        for number in range(100):
            if number == 20:
                started.set()
            yield [number]

    reader = pipeline.minibatches(source, entries(), io_threads=3, prefetch=50)
    threading.Timer(0.1, gate.set).start()
    next(reader)
    assert started.is_set()
    assert len(reading_threads()) == 3
    gate.clear()
    threading.Timer(0.1, gate.set).start()
    reader.close()
    assert not reading_threads()
    assert len(source.started) < 100
    reader.close()
    with pytest.raises(StopIteration):
        next(reader)


def test_what_is_never_released_is_forgotten(source):
    with pipeline.minibatches(source, [[0, 1]] * 30, io_threads=2) as reader:
        for minibatch in reader:
            del minibatch
        assert len(reader._reading._lending._lent) <= 1


def test_waiting_time_is_counted():
    gate = threading.Event()
    source = FakeSource(gate=gate)
    with pipeline.minibatches(source, [[0], [1]], io_threads=1) as reader:
        threading.Timer(0.1, gate.set).start()
        next(reader)
        assert 0.05 < reader.wait_s < 5
        first = reader.wait_s
        next(reader)
        assert reader.total_wait_s == pytest.approx(first + reader.wait_s)


def replace_file(path, monkeypatch):
    shutil.copy(path, path + ".new")
    os.replace(path + ".new", path)
    return "replaced"


def truncate_file(path, monkeypatch):
    os.truncate(path, os.path.getsize(path) // 2)
    return "changed|truncated"


def fail_to_read(path, monkeypatch):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    return "Input/output error"


@pytest.mark.parametrize("form", [*Form, SiteForm(depth=2, deepest_size=3)])
@pytest.mark.parametrize("change", [replace_file, truncate_file, fail_to_read])
def test_file_changed_in_the_middle(path, monkeypatch, change, form):
    with sources.open_source(file=path) as source:
        entries = order.wrapped_entries(7, 2)
        with pipeline.minibatches(
            source, entries, io_threads=2, prefetch=1, form=form
        ) as reader:
            next(reader)
            words = change(path, monkeypatch)
            with pytest.raises(LarcvFileError, match=rf"good\.h5, entry .*({words})"):
                for _ in range(3):
                    next(reader)
    assert not reading_threads()


def test_memory_stays_flat(source):
    entries = order.wrapped_entries(7, 4)
    with pipeline.minibatches(source, entries, io_threads=2) as reader:

        def run(count):
            for _ in range(count):
                reader.release(next(reader))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        before = run(100)
        assert run(1000) - before < 4096  # KiB


def test_several_files_are_one_data_set(tmp_path):
    every = []
    for name, seed, count in (("b", 1, 2), ("a", 2, 1), ("c", 3, 3)):
        events = larcv_fixtures.make_events(count, seed=seed)
        larcv_fixtures.write_larcv(tmp_path / f"{name}.h5", events)
        every.append(events)
    image, _ = larcv_fixtures.dense_truth([*every[1], *every[0], *every[2]])
    listed = [tmp_path / "a.h5", str(tmp_path / "b.h5"), tmp_path / "c.h5"]
    for file in (str(tmp_path / "*.h5"), listed):
        with sources.open_source(file=file) as source:
            assert source.num_events == 6
            found = collect(source, [[0, 1, 2, 3, 4, 5]], release=False)[0]
            np.testing.assert_array_equal(found.image, image)
            assert found.event_ids[:, 2].tolist() == [100, 100, 101, 100, 101, 102]
            with pytest.raises(IndexError):
                source.event_id(6)


def test_files_that_do_not_match(tmp_path, path):
    shaped, bare = tmp_path / "shape.h5", tmp_path / "bare.h5"
    larcv_fixtures.write_larcv(shaped, larcv_fixtures.make_events(2, (8, 8)), (8, 8))
    larcv_fixtures.write_larcv(bare, larcv_fixtures.make_events(2), with_label=False)
    for file, words in (
        ([path, shaped], r"shape\.h5: found images of 8 x 8, expected 16 x 24"),
        ([path, bare], r"bare\.h5: found no labels, expected labels"),
        ([bare, path], r"good\.h5: found labels, expected none"),
        ([path, path], "twice"),
        (str(tmp_path / "*.hdf5"), "no file"),
        ([], "no file"),
        ([path, tmp_path / "absent.h5"], "absent"),
    ):
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(LarcvFileError, match=words):
            sources.open_source(file=file)
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_name_with_glob_characters(tmp_path):
    path = tmp_path / "run[1].h5"
    larcv_fixtures.write_larcv(path, larcv_fixtures.make_events(2))
    with sources.open_source(file=str(path)) as source:
        assert source.num_events == 2


def test_image_that_cannot_be_pooled(path):
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"data\.downsample = 5"):
        sources.open_source(file=path, downsample=5)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_no_jax_is_imported():
    code = (
        "import sys, ctjax.data.pipeline, ctjax.data.synthetic, ctjax.runs.iotest\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
