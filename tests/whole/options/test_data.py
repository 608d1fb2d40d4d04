"""Each field of the section `data`, changed, changes what it should in a run."""

import concurrent.futures
import pathlib

import numpy as np
import pytest

from ctjax.base.errors import ConfigError
from ctjax.config import resolve
from ctjax.data import sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.runs import iotest
from tests.support import larcv_fixtures, small_runs
from tests.support.small_runs import SHAPE, entries_of, logits_of, loss_by_hand

pytestmark = pytest.mark.xdist_group("options_of_data")


def values(run, product):
    """Stored values of all events and planes, in their order."""
    planes = [plane for event in run.predictions(product) for plane in event]
    return np.concatenate([plane["value"] for plane in planes])


def other_file(runs):
    events = larcv_fixtures.make_events(8, SHAPE, seed=1)
    return runs.write("others.h5", events), events


def test_file(runs):
    path, events = other_file(runs)
    expected = np.concatenate([plane[1] for planes in events for plane in planes])
    found = values(runs.infer(data__file=path), "sbndwire")
    np.testing.assert_array_equal(found, expected)
    assert runs.train(data__file=path).losses != runs.train().losses


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_data_directory(runs, tmp_path, mode):
    path = pathlib.Path(runs.file)
    fields = {"data__data_directory": str(path.parent), "data__file": path.name}
    make = {"train": runs.train, "inference": runs.infer, "iotest": runs.read}[mode]
    assert make(**fields).messages
    with pytest.raises(LarcvFileError, match=str(tmp_path)):
        make(data__data_directory=str(tmp_path), data__file=path.name)


def test_data_directory__of_the_validation(runs):
    path = pathlib.Path(runs.file)
    run = runs.train(
        data__data_directory=str(path.parent),
        data__file=path.name,
        data__aux_file=path.name,
        run__aux_iterations=1,
    )
    assert len(run.table("val_metrics")) == 2


def test_aux_file(runs):
    """The validation's loss is that of the validation's events."""
    path, events = other_file(runs)
    run = runs.train(data__aux_file=path, run__aux_iterations=2)
    image, label = larcv_fixtures.dense_truth(events, SHAPE)
    at = entries_of(0)
    logits = logits_of(run.config, run.variables, image[at])
    expected = loss_by_hand(logits, label[at], image[at])
    assert run.column("val_metrics", "loss") == pytest.approx([expected], rel=1e-5)
    assert not (runs.train().table("val_metrics"))
    shared = f"{runs.file} is in data.file and data.aux_file: validation has events"
    assert not any(message.startswith(shared) for message in run.messages)
    same = runs.train(data__aux_file=runs.file)
    assert sum(message.startswith(shared) for message in same.messages) == 1


def test_test_file(tmp_path):
    """It is the quickstart's; nobody else passes over it in silence."""
    path = str(tmp_path / "real.h5")
    files = {"file": "a.h5", "aux_file": "b.h5", "test_file": path}
    config = resolve.resolve({"data": files, "mode": {"name": "quickstart"}})
    assert config.data.test_file == path
    for mode in ("train", "inference", "iotest"):
        with pytest.raises(ConfigError, match=r"data\.test_file=.*quickstart"):
            resolve.resolve({"data": files, "mode": {"name": mode}})


def test_downsample(runs):
    """Pooled as it is read, or stored pooled: the same run."""
    image, label = larcv_fixtures.dense_truth(runs.events, SHAPE, 1)
    pooled = []
    for planes in zip(image, label, strict=True):
        event = []
        for charge, classes in zip(*planes, strict=True):
            ids = np.flatnonzero(charge.T)
            event.append((ids, charge.T.ravel()[ids], classes.T.ravel()[ids]))
        pooled.append(event)
    stored = runs.write("pooled.h5", pooled, (SHAPE[0] // 2, SHAPE[1] // 2))
    for make in (runs.train, runs.infer):
        here, there = make(data__downsample=1), make(data__file=stored)
        name = "train_metrics" if make == runs.train else "inference_metrics"
        assert here.table(name) == there.table(name)
    np.testing.assert_array_equal(
        values(here, "cosmic_prediction"), values(there, "cosmic_prediction")
    )
    words = "Reading 8 events of 8 x 12 pixels: 1 process of "
    assert any(m.startswith(words) for m in runs.read(data__downsample=1).messages)


def test_synthetic(runs):
    fields = {
        "data__file": "/none.h5", "data__downsample": 5, "data__synthetic": True,
    }  # fmt: skip
    for make in (runs.train, runs.read):
        assert make(**fields).messages
        with pytest.raises(LarcvFileError, match=r"/none\.h5"):
            make(**{**fields, "data__synthetic": False})
    # Made events have no validation file.
    run = runs.train(**fields, data__aux_file="/none.h5", run__aux_iterations=1)
    assert not run.table("val_metrics")


def logarithms(runs):
    """A file that holds log(1 + charge) of the same events."""
    events = [
        [(ids, np.log(1 + charge), classes) for ids, charge, classes in planes]
        for planes in runs.events
    ]
    return runs.write("logarithms.h5", events)


def test_img_transform(runs):
    fields = {"run__aux_iterations": 1}
    here = runs.train(data__img_transform=True, data__aux_file=runs.file, **fields)
    path = logarithms(runs)
    there = runs.train(data__file=path, data__aux_file=path, **fields)
    for name in ("train_metrics", "val_metrics"):
        found, expected = here.column(name, "loss"), there.column(name, "loss")
        assert len(found) == 2 and found == pytest.approx(expected, rel=1e-5)
    assert here.losses != pytest.approx(runs.train().losses, rel=0.01)


def test_img_transform__of_inference(runs):
    here = runs.infer(data__img_transform=True)
    there = runs.infer(data__file=logarithms(runs))
    for product in ("cosmic_prediction", "neutrino_prediction"):
        found, expected = values(here, product), values(there, product)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert np.abs(found - values(runs.infer(), product)).max() > 0.01
    # The file of predictions holds the charges as they were read.
    np.testing.assert_array_equal(
        values(here, "sbndwire"), values(runs.infer(), "sbndwire")
    )


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_charge_limit(runs, tmp_path, mode):
    """The largest charge is 55; validation files are held to the same limit."""
    make = {"train": runs.train, "inference": runs.infer, "iotest": runs.read}[mode]
    assert make(data__charge_limit=56.0).messages
    fields = {"data__charge_limit": 50.0}
    if mode == "inference":
        fields["mode__weights_location"] = str(runs.train().folder)
    if mode == "train":
        # Only the validation's file has a charge that is too large.
        quiet = [[(i, v / 10, c) for i, v, c in event] for event in runs.events]
        fields |= {"data__aux_file": runs.file, "run__aux_iterations": 1}
        fields["data__file"] = runs.write("quiet.h5", quiet)
    fields |= {"run__iterations": 4}
    words = r"events\.h5, entry \d, .*charges up to 50 \(data\.charge_limit\)"
    with pytest.raises(LarcvFileError, match=words):
        small_runs.run_and_listen(runs.config(mode, tmp_path, **fields))


@pytest.mark.parametrize("seed", [0, 3])
def test_seed(runs, truth, seed):
    image, label = truth
    run = runs.train(
        data__seed=seed, data__aux_file=runs.file, run__aux_iterations=1,
    )  # fmt: skip
    expected = []
    for step in range(2):
        at = entries_of(step, seed=seed)
        logits = logits_of(run.config, run.variables, image[at])
        expected.append(loss_by_hand(logits, label[at], image[at]))
    assert run.losses == pytest.approx(expected, rel=1e-5)
    assert run.column("val_metrics", "loss") == pytest.approx(expected, rel=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3 * expected[0]


def test_seed__of_made_events(runs, tmp_path):
    config = runs.config(
        "inference",
        tmp_path,
        data__synthetic=True,
        data__downsample=5,
        data__seed=3,
        run__iterations=1,
        mode__write_predictions=True,
    )
    run = small_runs.run_and_listen(config)
    with sources.open_source(synthetic=True, seed=3, downsample=5) as source:
        planes = [plane for entry in range(4) for plane in source.read_sparse(entry)]
    expected = np.concatenate([plane.values for plane in planes])
    np.testing.assert_array_equal(values(run, "sbndwire"), expected)


@pytest.fixture
def pools(monkeypatch):
    """Threads of every pool of readers that is made, and events given to it so far."""
    made = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, max_workers=None, thread_name_prefix="", **options):
            super().__init__(max_workers, thread_name_prefix, **options)
            self.threads, self.submitted = max_workers, 0
            if thread_name_prefix == "ctjax-io":
                made.append(self)

        def submit(self, *arguments, **options):
            self.submitted += 1
            return super().submit(*arguments, **options)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    return made


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_io_threads(runs, tmp_path, pools, mode):
    fields = {"data__io_threads": 3}
    if mode == "inference":
        fields["mode__weights_location"] = str(runs.train().folder)
        pools.clear()
    if mode == "train":
        fields |= {"data__aux_file": runs.file, "run__aux_iterations": 1}
    small_runs.run_and_listen(runs.config(mode, tmp_path, **fields))
    assert [pool.threads for pool in pools] == [3] * (2 if mode == "train" else 1)
    words = "Reading 8 events of 16 x 24 pixels: 1 process of 5 threads"
    assert words in runs.read(data__io_threads=5).messages


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_prefetch(runs, tmp_path, pools, mode, monkeypatch):
    """Events asked for when the first minibatch is given back to the reader."""
    fields = {"run__iterations": 2, "data__io_threads": 1}
    if mode == "inference":
        fields["mode__weights_location"] = str(runs.train().folder)
    events = [event for event in runs.events for _ in range(8)]
    fields["data__file"] = runs.write("many.h5", events)
    if mode == "inference":
        fields["run__iterations"] = 99
    fields["run__iterations"] = max(16, fields["run__iterations"])
    asked = {}
    for prefetch in (1, 4):
        pools.clear()
        first = []
        original = iotest.pipeline.MinibatchReader.release

        def release(reader, minibatch, first=first, original=original):
            first.append(pools[-1].submitted)
            original(reader, minibatch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(iotest.pipeline.MinibatchReader, "release", release)
            folder = tmp_path / str(prefetch)
            config = runs.config(mode, folder, data__prefetch=prefetch, **fields)
            small_runs.run_and_listen(config)
        asked[prefetch] = first[0]
    # Three more minibatches of four events.
    assert asked[4] - asked[1] == 3 * 4


@pytest.mark.parametrize("mode", ["train", "inference", "iotest"])
def test_densify(runs, tmp_path, monkeypatch, mode):
    """The same numbers, by the other form of an event."""
    reads = []
    for name in ("read", "read_sparse"):
        original = getattr(sources.EventSource, name)

        def read(self, *arguments, name=name, original=original):
            reads.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(sources.EventSource, name, read)
    fields = {}
    if mode == "inference":
        fields["mode__weights_location"] = str(runs.train().folder)
    tables = {}
    for where, name in (("host", "read"), ("device", "read_sparse")):
        reads.clear()
        config = runs.config(mode, tmp_path / where, data__densify=where, **fields)
        run = small_runs.run_and_listen(config)
        assert set(reads) == {name}
        if mode != "iotest":
            tables[where] = run.table(f"{mode}_metrics")
    assert mode == "iotest" or tables["host"] == tables["device"]
