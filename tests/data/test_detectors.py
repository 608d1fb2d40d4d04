"""Reads events of any number of planes, of any sizes, and of any labels."""

import dataclasses
import logging
import os
import tempfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctjax.base.detector import IGNORED
from ctjax.base.errors import ConfigError
from ctjax.config import detectors, resolve
from ctjax.config.choices import OnBadEvent
from ctjax.config.fields import Data, Optimizer
from ctjax.data import pipeline
from ctjax.data.larcv.errors import ChangedFileError, LarcvFileError
from ctjax.data.minibatch import Form, SiteForm
from ctjax.data.sources import open_source
from tests.support import detector_files

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def read_all(source):
    """Dense images and labels of all entries."""
    shape = source.num_events, source.detector.num_planes, *source.image_shape
    image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for entry in range(source.num_events):
        source.read(entry, image[entry], label[entry])
    return image, label


def pooled(image, downsample, reduce):
    """Pools the last two axes by 2^d."""
    factor = 2**downsample
    *lead, height, width = image.shape
    shape = *lead, height // factor, factor, width // factor, factor
    return reduce(image.reshape(shape), (-3, -1))


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(SIZES, min_size=1, max_size=6),
    seed=st.integers(0, 99),
    downsample=st.integers(0, 2),
    divisor=st.sampled_from((1, 2, 3, 8)),
    labels=st.lists(st.integers(0, 70000), min_size=2, max_size=6, unique=True),
    scale=st.sampled_from((1.0, 0.25, 3.0)),
    is_c=st.booleans(),
)
def test_reader_against_writer(shapes, seed, downsample, divisor, labels, scale, is_c):
    if 2**downsample > min(max(sizes) for sizes in zip(*shapes, strict=True)):
        return
    random = np.random.default_rng(seed)
    events = [detector_files.make_event(random, shapes, labels) for _ in range(3)]
    classes = random.integers(0, len(labels) + 1, len(labels))
    classes[classes == len(labels)] = IGNORED
    names = {IGNORED: "ignore"} | {n: str(n) for n in range(len(labels))}
    data = Data(
        classes=",".join(f"c{number}" for number in range(len(labels))),
        label_map=",".join(
            f"{stored}:{names[int(number)]}"
            for stored, number in zip(labels, classes, strict=True)
        ),
        charge_scale=scale,
    )
    with (
        tempfile.NamedTemporaryFile(suffix=".h5") as file,
        pytest.MonkeyPatch.context() as patch,
    ):
        if not is_c:
            patch.setattr("ctjax.data.native.routines", None)
        detector_files.write(file.name, events, shapes)
        with open_source(
            file=file.name, downsample=downsample, data=data, pad_to=(divisor, divisor)
        ) as source:
            image, label = read_all(source)
            metas = source.plane_metas(1)
            detector = source.detector
    height, width = source.image_shape
    assert height % divisor == width % divisor == 0
    assert detector.num_planes == len(shapes) and detector.num_classes == len(labels)
    factor = 2**downsample
    stored_shape = height * factor, width * factor
    lookup = dict(zip(labels, classes, strict=True))
    for entry, event in enumerate(events):
        charge = detector_files.dense(event, shapes, stored_shape, 1) * scale
        np.testing.assert_allclose(
            image[entry], pooled(charge, downsample, np.mean), rtol=1e-5
        )
        mapped = [(ids, q, [lookup[v] for v in stored]) for ids, q, stored in event]
        truth = detector_files.dense(mapped, shapes, stored_shape, 2)
        np.testing.assert_array_equal(label[entry], pooled(truth, downsample, np.max))
    own = [(-(-h // factor), -(-w // factor)) for h, w in shapes]
    assert [meta.number_of_voxels[::-1] for meta in metas] == own
    for meta, (h, w) in zip(metas, own, strict=True):
        pitch = meta.image_sizes[0] / w, meta.image_sizes[1] / h
        assert pitch == pytest.approx((0.5 * factor, 0.5 * factor))
    padded = any(shape != source.image_shape for shape in own)
    assert detector.plane_shapes == (tuple(own) if padded else None)


@pytest.fixture(scope="module")
def shapes():
    return [(6, 8), (6, 8), (6, 11), (4, 8)]


@pytest.fixture(scope="module")
def events(shapes):
    random = np.random.default_rng(0)
    return [detector_files.make_event(random, shapes) for _ in range(4)]


@pytest.fixture
def path(tmp_path, events, shapes):
    return detector_files.write(tmp_path / "four.h5", events, shapes)


def test_planes_are_chosen_and_ordered(path, events, shapes):
    with open_source(file=path, data=Data(planes="3,1")) as source:
        image, _ = read_all(source)
    assert source.detector.plane_shapes == ((4, 8), (6, 8))
    for entry, event in enumerate(events):
        chosen = [event[3], event[1]]
        truth = detector_files.dense(chosen, [shapes[3], shapes[1]], (6, 8), 1)
        np.testing.assert_array_equal(image[entry], truth.astype(np.float32))


def test_planes_that_no_field_names_are_said(tmp_path, events, shapes):
    for ids, expected in (([0, 2, 5, 6], "0, or others"), ([4, 5, 6, 7], "others")):
        path = detector_files.write(tmp_path / "f.h5", events, shapes, ids)
        words = rf"projection_id = \d, expected {expected} by data\.planes"
        with pytest.raises(LarcvFileError, match=words):
            open_source(file=path)


def test_planes_as_entries_of_their_own(tmp_path, shapes):
    sizes = [shapes[0], shapes[2]] * 2
    random = np.random.default_rng(1)
    events = [detector_files.make_event(random, sizes) for _ in range(2)]
    # Four planes, or two of which each event has two images.
    for number, ids in enumerate(([0, 1, 2, 3], [0, 1, 0, 1])):
        file = tmp_path / f"{number}.h5"
        detector_files.write(file, events, sizes, ids)
        planes = ",".join(map(str, ids[:2])) + "/" + ",".join(map(str, ids[2:]))
        with open_source(file=file, data=Data(planes=planes)) as source:
            image, _ = read_all(source)
            ids_of_events = [source.event_id(entry).tolist() for entry in range(4)]
        assert ids_of_events == [[7, 1, 100], [7, 1, 100], [7, 1, 101], [7, 1, 101]]
        assert source.detector.num_planes == 2
        for entry in range(4):
            event = events[entry // 2][2 * (entry % 2) :][:2]
            truth = detector_files.dense(event, sizes[:2], (6, 11), 1)
            np.testing.assert_array_equal(image[entry], truth.astype(np.float32))


def test_entries_of_other_sizes_are_refused(path):
    with pytest.raises(LarcvFileError, match=r"6 x 11.*expected planes of the same"):
        open_source(file=path, data=Data(planes="0,1/2,3"))


@pytest.mark.parametrize("planes", ["0,5", "5", "0/5"])
@pytest.mark.parametrize("on_bad_event", ["stop", "skip"])
def test_a_plane_that_no_event_has_is_refused(path, planes, on_bad_event):
    data = Data(planes=planes, on_bad_event=on_bad_event)
    with pytest.raises(LarcvFileError) as caught:
        open_source(file=path, data=data)
    found = "found no image of plane 5 in any event, but images of planes 0, 1, 2, 3"
    assert str(caught.value).startswith(str(path)) and found in str(caught.value)
    assert str(caught.value).endswith(
        "expected each plane that is read (data.planes, or those of the charges)"
    )
    words = "found no 2 images of plane 3 in any event, but images of planes 0, 1"
    with pytest.raises(LarcvFileError, match=words):
        open_source(file=path, data=Data(planes="3,3"))


def test_a_plane_that_some_events_lack_is_empty_there(tmp_path, events, shapes):
    events = [event[: 3 + number % 2] for number, event in enumerate(events)]
    path = detector_files.write(tmp_path / "f.h5", events, shapes)
    with open_source(file=path, data=Data(planes="0,3")) as source:
        image, label = read_all(source)
    for entry in range(len(events)):
        assert image[entry, 0].any() and image[entry, 1].any() == entry % 2
        assert label[entry, 1].any() == entry % 2


def test_labels_without_a_plane_are_refused(path):
    with h5py.File(path, "a") as file:
        for table, name in (("image_meta", "projection_id"), ("voxel_extents", "ID")):
            rows = file[f"Data/sparse2d_sbnd_cosmicseg_group/{table}"]
            values = rows[:]
            values[name][values[name] == 2] = 9
            rows[:] = values
    with pytest.raises(LarcvFileError, match=r"seg.*found no image of plane 2 in any"):
        open_source(file=path)
    with open_source(file=path, data=Data(planes="0,1,3")) as source:
        assert read_all(source)[1].any((0, 2, 3)).all()


def test_products_by_name(tmp_path, events, shapes):
    path = detector_files.write(
        tmp_path / "f.h5", events, shapes, image="wire", label="seg"
    )
    with h5py.File(path, "a") as file:
        file.create_group("Data/particle_mc_truth_group")
    there = r"mc_truth \(particle\), seg \(sparse2d\), wire \(sparse2d\)"
    with pytest.raises(LarcvFileError, match=rf"data\.image_product .* {there}"):
        open_source(file=path)
    # A name that was typed is never passed over.
    with pytest.raises(LarcvFileError, match=rf"data\.label_product .* {there}"):
        open_source(file=path, data=Data(image_product="wire", label_product="sge"))
    data = Data(image_product="wire", label_product="seg")
    with open_source(file=path, data=data) as source:
        assert source.has_label and read_all(source)[1].any()


def test_bad_events_are_skipped(tmp_path, events, shapes, caplog):
    # Event 1 has its images twice, event 2 a label that is no class.
    ids, charges, _ = events[2][0]
    wrong = [(ids, charges, np.full(len(ids), 7)), *events[2][1:]]
    stored = [events[0], events[1] * 2, wrong, events[3]]
    path = detector_files.write(tmp_path / "f.h5", stored, shapes)
    with pytest.raises(LarcvFileError, match=r"entry 1.*projection_id = 0 twice"):
        open_source(file=path)
    caplog.set_level(logging.WARNING, "ctjax")
    data = Data(on_bad_event=OnBadEvent.SKIP)
    good = detector_files.write(tmp_path / "good.h5", events, shapes)
    for form in (Form.DENSE, Form.PIXELS, SiteForm(1, 3)):
        caplog.clear()
        with (
            open_source(file=path, data=data) as source,
            open_source(file=good) as other,
        ):
            masks, same = [], []
            for entry in (0, 1, 2, 3):
                with (
                    pipeline.minibatches(source, [[entry]], form=form) as found,
                    pipeline.minibatches(other, [[entry]], form=form) as truth,
                ):
                    one, two = next(found), next(truth)
                masks += one.mask.tolist()
                if one.mask[0] and form is not Form.PIXELS:
                    field = one.image if form is Form.DENSE else one.sites.empty
                    of_other = two.image if form is Form.DENSE else two.sites.empty
                    same.append(np.array_equal(field, of_other))
            assert masks == [1, 0, 0, 1] and all(same)
            assert sorted(source.bad_events) == [1, 2]
            assert "value 7" in source.bad_events[2]
        assert caplog.text.count("Skipped: ") >= 2


def test_a_file_of_bad_events_is_refused(tmp_path, events, shapes):
    path = detector_files.write(tmp_path / "f.h5", [e * 2 for e in events], shapes)
    with pytest.raises(LarcvFileError, match="no event of the file is better"):
        open_source(file=path, data=Data(on_bad_event=OnBadEvent.SKIP))


def test_data_of_bad_events_is_refused_when_the_last_is_read(tmp_path, events, shapes):
    # Nothing in the tables says so: all events of both files have a label that is none.
    files = []
    for name in ("f.h5", "g.h5"):
        wrong = [
            [(ids, charges, np.full(len(ids), 7)) for ids, charges, _ in event]
            for event in events[:2]
        ]
        files.append(detector_files.write(tmp_path / name, wrong, shapes))
    with open_source(file=files, data=Data(on_bad_event=OnBadEvent.SKIP)) as source:
        for entry in (0, 3, 0, 1):
            source.read_pooled(entry)
        with pytest.raises(LarcvFileError, match=r"value 7.*; and no event is better"):
            source.read_pooled(2)


def test_labels_that_are_no_numbers_of_classes(tmp_path, shapes):
    ids = np.arange(3)
    event = [(ids, np.ones(3, np.float32), np.array([-1, 0, 3]))]
    path = detector_files.write(tmp_path / "f.h5", [event], shapes[:1])
    for text, expected in (
        ("-1:ignore,0:0,3:2", [IGNORED, 0, 2]),
        ("0:0,other:1", [1, 0, 1]),
    ):
        with open_source(file=path, data=Data(label_map=text)) as source:
            _, label = source.read_pooled(0)
        assert label.values.tolist() == expected
    # A fraction is no label, whatever the others are.
    event = [(ids, np.ones(3, np.float32), np.array([0, 1.5, 2]))]
    path = detector_files.write(tmp_path / "g.h5", [event], shapes[:1])
    with (
        open_source(file=path, data=Data(label_map="0:0,other:1")) as source,
        pytest.raises(LarcvFileError, match=r"value 1\.5"),
    ):
        source.read_pooled(0)


def test_a_changed_file_is_no_bad_event(path, events, shapes):
    with open_source(file=path, data=Data(on_bad_event=OnBadEvent.SKIP)) as source:
        os.replace(detector_files.write(f"{path}.new", events[:2], shapes), path)
        with pytest.raises(ChangedFileError):
            source.read_pooled(0)


def test_an_event_with_other_sizes_is_bad(path, events, shapes):
    with h5py.File(path, "a") as file:
        table = file["Data/sparse2d_sbndwire_group/image_meta"]
        rows = table[:]
        rows["number_of_voxels"][5] = 7, 7
        table[:] = rows
    with pytest.raises(LarcvFileError, match=r"entry 1.*\[7, 7\].*\[8, 6\]"):
        open_source(file=path)
    with open_source(file=path, data=Data(on_bad_event=OnBadEvent.SKIP)) as source:
        assert list(source.bad_events) == [1]


def test_files_of_other_planes_do_not_match(tmp_path, path, shapes):
    random = np.random.default_rng(2)
    for other, words in (
        ([*shapes, (2, 2)], "5 planes"),
        ([(6, 9), *shapes[1:]], "6 x 9"),
    ):
        file = tmp_path / "other.h5"
        event = detector_files.make_event(random, other)
        detector_files.write(file, [event], other)
        with pytest.raises(LarcvFileError, match=words):
            open_source(file=[path, file])


def test_sites_of_padded_planes(path, events, shapes):
    data = Data(classes="empty,track,shower")
    with open_source(file=path, data=data, pad_to=(16, 16)) as source:
        listed = source.read_sites(0, 2)
    sizes = np.array([height * width for height, width in shapes])
    assert (listed.empty.sum(1) + [len(plane[0]) for plane in events[0]]).tolist() == (
        sizes.tolist()
    )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("planes", "0,x", "projection ids"),
        ("planes", "0,1/2", "as many planes"),
        ("planes", "0,99", "projection ids of 0 to 63"),
        ("planes", "", "expected a name|projection ids"),
        ("classes", "one", "2 to 16"),
        ("classes", "a,b,A", "different names"),
        ("classes", "a,b c", "got 'b c'"),
        ("classes", "a,b:red", "got 'b:red'"),
        ("classes", "a,ignore", "got 'ignore'"),
        ("label_map", "3", "got '3'"),
        ("label_map", "3:muon", "got '3:muon'"),
        ("label_map", "3:1,3:2", "each label once"),
        ("label_map", "1.5:1", "got '1.5:1'"),
        ("charge_scale", 0.0, "above 0"),
        ("charge_scale", -2.0, "above 0"),
        ("label_product", "sbndwire", "another product"),
        ("on_bad_event", "ignore", "stop, skip"),
    ],
)
def test_wrong_fields_are_refused(field, value, words):
    with pytest.raises(ConfigError, match=words):
        resolve.resolve({"data": {field: value}})


def test_weights_of_classes():
    assert detectors.read_class_weights(Optimizer(), 3) == (1.0, 1.5, 10.0)
    assert detectors.read_class_weights(Optimizer(), 2) == (1.0, 1.5)
    assert detectors.read_class_weights(Optimizer(), 5) == (1.0, 1.5, 10.0, 10.0, 10.0)
    rule = Optimizer(class_weights="1, 0,2.5")
    assert detectors.read_class_weights(rule, 3) == (1.0, 0.0, 2.5)
    for text in ("1,2", "1,x,2", "1,-2,3", "0,0,0", "1,nan,2"):
        rule = dataclasses.replace(rule, class_weights=text)
        with pytest.raises(ConfigError, match=r"class_weights=.*3 numbers"):
            detectors.read_class_weights(rule, 3)
