"""Files opened as a sequence of events."""

import gc
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import ctjax
from ctjax.base.errors import UserError
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.larcv.records import EXTENTS, PARTICLE
from ctjax.data.larcv.truth import PARTICLE_GROUP
from tests.support import ROOT, larcv_fixtures
from tests.support.larcv_fixtures import SHAPE, dense_truth, make_events


@pytest.fixture(scope="module")
def listed():
    return make_events(5)


@pytest.fixture(scope="module")
def file(listed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    return larcv_fixtures.write_larcv(folder / "events.h5", listed)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("downsample", [0, 1])
def test_images_are_those_of_the_file(file, listed, downsample):
    image, label = dense_truth(listed, downsample=downsample)
    with ctjax.open(file, downsample=downsample) as events:
        assert len(events) == 5
        assert events.image_shape == image.shape[-2:]
        for place, event in enumerate(events):
            assert event.charge.dtype == np.float32
            assert event.label.dtype == np.uint8
            np.testing.assert_array_equal(event.charge, image[place])
            np.testing.assert_array_equal(event.label, label[place])
            assert event.id == (7, 1, 100 + place)
            assert event.entry == place
            assert event.downsample == downsample
            assert event.neutrino is None


def test_pixels_are_those_of_the_images(file):
    event = ctjax.open([file])[3]
    assert event.id.event == 103
    for plane, pixels in enumerate(event.sparse):
        at = plane, pixels.ticks, pixels.wires
        np.testing.assert_array_equal(event.charge[at], pixels.charge)
        np.testing.assert_array_equal(event.label[at], pixels.label)
        assert np.count_nonzero(event.charge[plane]) == len(pixels.charge) > 0


def test_events_are_a_sequence(file):
    events = ctjax.open(file)
    assert events[-1].entry == 4
    assert [event.entry for event in events[1:4:2]] == [1, 3]
    assert [event.entry for event in events[::-1][:2]] == [4, 3]
    assert events[1:][[0, -1]].entries.tolist() == [1, 4]
    assert events[np.array([2, 2])].entries.tolist() == [2, 2]
    assert events[[True, False, False, False, True]].entries.tolist() == [0, 4]
    assert len(events[5:]) == 0
    assert "5 events of 3 x 16 x 24" in repr(events)
    assert "(7, 1, 101)" in repr(events[1])
    for place in (5, -6, [5]):
        with pytest.raises(IndexError, match="expected one of 5 events"):
            events[place]
    with pytest.raises(IndexError, match="found 1 bools"):
        events[[True]]
    with pytest.raises(TypeError, match=r"events\['3'\]: expected an integer"):
        events["3"]
    with pytest.raises(TypeError, match=r"expected an integer"):
        events[1.0]


def test_files_are_closed_with_or_without_a_block(file):
    gc.collect()  # of other tests
    before = open_descriptors()
    with ctjax.open(file) as events:
        event = events[0]
        assert open_descriptors() > before
    assert open_descriptors() == before
    assert event.charge.shape == (3, *SHAPE)
    with pytest.raises(UserError, match="closed"):
        events[0]
    events.close()
    part = ctjax.open(file)[1:]
    gc.collect()
    assert part[0].entry == 1
    del part
    gc.collect()
    assert open_descriptors() == before


def test_several_files_are_one(listed, tmp_path):
    for number in (1, 2):
        path = tmp_path / f"part_{number}.h5"
        larcv_fixtures.write_larcv(path, listed[number : number + 1])
    image, _ = dense_truth(listed)
    events = ctjax.open(tmp_path / "part_*.h5")
    assert len(events) == 2
    np.testing.assert_array_equal(events[1].charge, image[2])


def test_without_labels_there_are_none(listed, tmp_path):
    path = larcv_fixtures.write_larcv(tmp_path / "a.h5", listed, with_label=False)
    events = ctjax.open(path)
    assert not events.has_label
    assert events[0].label is None
    assert events[0].sparse[0].label is None


def test_neutrinos_are_those_of_the_file(listed, tmp_path):
    path = larcv_fixtures.write_larcv(tmp_path / "a.h5", listed[:2])
    with h5py.File(path, "r+") as opened:
        group = opened.create_group(f"Data/{PARTICLE_GROUP}")
        extents, particles = np.zeros(2, EXTENTS), np.zeros(1, PARTICLE)
        extents["N"] = [0, 1]
        particles["pdg"], particles["energy_init"] = -14, 1.25
        particles["current_type"] = 1
        group["extents"], group["particles"] = extents, particles
    first, second = ctjax.open(path)
    assert first.neutrino is None
    assert second.neutrino[:3] == (-14, 1.25, "neutral")
    assert "neutral current, 1.25 GeV" in second.neutrino.name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"file": "nothing.h5"}, "nothing.h5"),
        ({"file": "nothing_*.h5"}, "found no file"),
        ({"file": []}, "found no file"),
        ({"downsample": 5}, "downsample=5: "),
        ({"downsample": -1}, "downsample=-1: "),
        ({"downsample": 1.0}, "expected a whole number, got 1.0"),
        ({"downsample": True}, "expected a whole number, got True"),
        ({"charge_limit": 1.0}, "expected"),
    ],
)
def test_errors_are_one_line(file, arguments, words):
    with pytest.raises(UserError) as caught:
        ctjax.open(**{"file": file, **arguments})[0]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_events_is_named(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("nothing")
    with pytest.raises(LarcvFileError, match=r"text\.h5"):
        ctjax.open(path)


def test_importing_touches_neither_jax_nor_files():
    """And the names are listed, found, and no others."""
    code = (
        "import sys, ctjax; heavy = {'jax', 'h5py', 'numpy', 'matplotlib'}; "
        "names = {'open', 'load', 'draw', 'metrics', 'save_predictions', 'train'}; "
        "assert names <= set(dir(ctjax)); "
        "assert not heavy & set(sys.modules); "
        "ctjax.open; assert 'jax' not in sys.modules; "
        "assert all(callable(getattr(ctjax, name)) for name in names); "
        "assert not hasattr(ctjax, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
