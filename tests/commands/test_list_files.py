"""`ctjax show --list`: its words, and that what it says to type is right."""

import io
import json
import runpy
import shlex

import h5py
import numpy as np
import pytest

from ctjax.commands import command_line, list_files, show, suggested_fields
from ctjax.config import detectors
from ctjax.config.fields import Data
from ctjax.data import sources
from ctjax.data.larcv import listing
from tests.support import ROOT, detector_files, larcv_fixtures
from tests.support.larcv_fixtures import (
    IMAGE_GROUP,
    LABEL_GROUP,
    changing,
    group_of,
    needs_shared,
    shared,
)


@pytest.fixture
def path(tmp_path):
    events = larcv_fixtures.make_events(4)
    return str(larcv_fixtures.write_larcv(tmp_path / "four.h5", events))


def suggest(path):
    return suggested_fields.suggest(listing.read(str(path)))


def describe(path, width=80):
    return "\n".join(list_files.describe(listing.read(str(path)), width))


def set_labels(path, *labels):
    """Gives the voxels these labels in turn."""
    with changing(path, f"{LABEL_GROUP}/voxels") as rows:
        rows["value"] = np.resize(labels, len(rows))


def test_the_whole_of_what_is_printed(path, capsys):
    assert show.main(["--list", path]) == 0
    out = capsys.readouterr().out
    paragraphs = out.removesuffix("\n").split("\n\n")
    assert paragraphs[0].splitlines()[0].startswith(f"{path}: ")
    assert paragraphs[0].endswith("4 events\n  run 7, subrun 1, event 100 to 103")
    image, label, classes, end = paragraphs[1:]
    with h5py.File(path) as file:
        rows = [file[f"{group}/voxels"][:] for group in (IMAGE_GROUP, LABEL_GROUP)]
    total = len(rows[0])
    lines = image.splitlines()
    assert lines[0] == f"sbndwire (sparse2d): charges, {total} voxels"
    assert lines[1].split() == (
        "plane wires x ticks voxels most/event empty lowest mean highest".split()
    )
    plane_2 = lines[4].split()
    assert plane_2[:4] == ["2", "24", "x", "16"] and plane_2[6] == "1"
    assert f"{rows[0]['value'].max():.4g}" in image
    assert label.startswith("sbnd_cosmicseg (sparse2d): labels")
    neutrino = classes.splitlines()[3].split()
    number = (rows[1]["value"] == 2).sum()
    assert neutrino[:3] == ["2", "neutrino", str(number)]
    assert neutrino[3] == f"{100 * number / total:.1f}"
    assert sum(map(int, neutrino[5:])) == number
    assert end == f"To train on it\n  ctjax train data.file={path}"


def test_it_fits_into_the_terminal(path):
    with h5py.File(path, "r+") as file:
        file[group_of("another_product_with_a_long_name")] = file[IMAGE_GROUP]
        del file[f"{LABEL_GROUP}/image_meta"]
    set_labels(path, 0, 7, 65535, -1)
    for width in (80, 120):
        typed, rest = [], []
        for line in describe(path, width).splitlines():
            (typed if path in line else rest).append(line)
        assert len(typed) <= 2
        assert width - 35 < max(map(len, rest)) <= width


def test_names_of_a_damaged_file_are_escaped(path):
    with h5py.File(path, "r+") as file:
        file["Data"]["a\n\x1b[2Jb"] = 1
    assert r"  a\n\x1b[2Jb: no product of larcv3" in describe(path).splitlines()


def test_fields_of_names(path):
    with h5py.File(path, "r+") as file:
        for old, new in ((IMAGE_GROUP, "wire"), (LABEL_GROUP, "seg")):
            file[group_of(new)] = file[old]
            del file[old]
        file[group_of("scores")] = file[group_of("wire")]
    found = suggest(path)
    assert found.fields == {"data.image_product": "scores", "data.label_product": "seg"}
    assert found.notes == ["data.image_product could be another: wire"]


@pytest.mark.parametrize(
    "labels, classes, label_map",
    [
        ((0, 2), None, None),
        ((1, 4), "background,class1,class2,class3,class4", None),
        (
            (0, 1, 65535, 255),
            None,
            "0:background,1:cosmic,2:neutrino,255:ignore,65535:ignore",
        ),
        ((0, -1), None, "0:background,1:cosmic,2:neutrino,other:ignore"),
        (
            (0, 11, 211, 65535),
            "background,class11,class211",
            "0:background,11:class11,211:class211,65535:ignore",
        ),
    ],
)
def test_fields_of_labels(path, labels, classes, label_map):
    set_labels(path, *labels)
    fields = {"data.classes": classes, "data.label_map": label_map}
    fields = {name: value for name, value in fields.items() if value is not None}
    assert suggest(path).fields == fields
    config, _ = command_line.parse_config([f"{n}={v}" for n, v in fields.items()])
    found = detectors.read_label_map(config.data) or dict.fromkeys(labels)
    assert set(labels) - {-1} <= found.keys()


def test_too_many_labels_are_left_to_the_user(path):
    set_labels(path, *range(20))
    found = suggest(path)
    assert not found.fields and "more than 16 labels" in found.notes[0]


def test_fields_of_planes(path):
    for group in (IMAGE_GROUP, LABEL_GROUP):
        with changing(path, f"{group}/image_meta") as rows:
            rows["projection_id"] = np.arange(12) % 6  # of 2 events with 6 planes
        with h5py.File(path, "r+") as file:
            extents = np.array([(0, 6), (6, 6)], larcv_fixtures.EXTENTS)
            larcv_fixtures.replace_table(file, f"{group}/extents", extents)
    with h5py.File(path, "r+") as file:
        file["Events/event_id"].resize((2,))
    found = suggest(path)
    assert not found.fields and "data.planes=0,1,2/3,4,5 makes 2" in found.notes[0]
    with changing(path, f"{LABEL_GROUP}/image_meta") as rows:
        rows["number_of_voxels"][rows["projection_id"] > 3] = 48, 32
    assert suggest(path).fields == {"data.planes": "0,1,2,3"}


@pytest.mark.parametrize(
    "factor, scale", [(1, None), (40_000, "1e-5"), (200, "1e-3"), (3e8, "1e-9")]
)
def test_fields_of_charges(path, factor, scale):
    with changing(path, f"{IMAGE_GROUP}/voxels") as rows:
        rows["value"] *= factor
    assert suggest(path).fields.get("data.charge_scale") == scale
    assert not any("charge_limit" in note for note in suggest(path).notes)


def test_charges_of_both_signs_and_a_large_one(path):
    with changing(path, f"{IMAGE_GROUP}/voxels") as rows:
        rows["value"][:2] = -3, 2e6
    first, second = suggest(path).notes
    assert "data.charge_limit" in first and "data.img_transform=True" in second


def test_events_that_are_wrong(path):
    with changing(path, f"{LABEL_GROUP}/image_meta") as rows:
        rows["valid"][0] = 0
    assert suggest(path).fields == {"data.on_bad_event": "skip"}
    with changing(path, f"{LABEL_GROUP}/image_meta") as rows:
        rows["valid"] = 0
    found = suggest(path)
    assert "each of its events" in found.obstacle
    assert "To train" not in describe(path)


def test_no_labels(path):
    with h5py.File(path, "r+") as file:
        del file[LABEL_GROUP]
    last = describe(path).splitlines()[-2]
    assert last == f"  ctjax infer data.file={path} mode.weights_location=RUN"


def test_what_cannot_be_read_is_not_to_be_trained_on(path):
    with h5py.File(path, "r+") as file:
        file["Events/event_id"].resize((3,))
    assert "found 4 rows, expected 3" in describe(path)
    assert describe(path).endswith("Not to be trained on\n  see what is wrong above")


CASES = {
    "ref": {},
    "names": {"data.image_product": "wire", "data.label_product": "seg"},
    "ub": {},
    "p4": {},
    "noproj": {},
    "bipolar": {},
    "neg_one": {},
    "electrons": {"data.charge_scale": "1e-5"},
    "lab4": {"data.classes": "background,class1,class2,class3,class4"},
    "lab65535": {
        "data.label_map": "0:background,1:cosmic,2:neutrino,65535:ignore",
    },
    "xl_old": {"data.label_product": "oldseg"},
    "six": {"data.planes": "0,1,2/0,1,2"},
}


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_files_of_other_detectors(case):
    path = shared("cases", f"{case}.h5")
    assert suggest(path).fields == CASES[case]
    (typed,) = (line for line in describe(path).splitlines() if "ctjax train" in line)
    config, notes = command_line.parse_config(shlex.split(typed)[2:])
    assert not notes
    detectors.read_detector(config.data)


@needs_shared
def test_a_file_that_cannot_be_trained_on():
    text = describe(shared("cases", "vds.h5"))
    assert "rows outside this file" in text and "Not to be trained on" in text


SHAPES = [(6, 8), (6, 8), (4, 8)]


@pytest.mark.parametrize(
    "ids, planes",
    [
        ([0, 1, 2], None),
        ([0, 2, 5], "0,2,5"),
        ([1, 2, 3], "1,2,3"),
        ([0, 0, 0], "0/0/0"),
        ([0, 1, 2, 0, 1, 2], "0,1,2/0,1,2"),
    ],
)
def test_what_is_said_to_type_of_planes_reads_them(tmp_path, ids, planes):
    shapes = SHAPES[:1] * 3 if ids == [0, 0, 0] else SHAPES * (len(ids) // 3)
    random = np.random.default_rng(0)
    events = [detector_files.make_event(random, shapes) for _ in range(3)]
    path = detector_files.write(tmp_path / "f.h5", events, shapes, ids)
    found = suggest(path)
    assert found.fields.get("data.planes") == planes and not found.obstacle
    with sources.open_source(file=path, data=Data(planes=planes)) as source:
        assert source.detector.num_planes == len(set(ids))
        charges = sum(
            float(source.read_pooled(entry)[0].values.sum(dtype=float))
            for entry in range(source.num_events)
        )
    stored = sum(plane[1].sum(dtype=float) for event in events for plane in event)
    assert charges == pytest.approx(stored)


def test_bad_planes_of_few_events(tmp_path):
    random = np.random.default_rng(0)
    events = [detector_files.make_event(random, SHAPES) for _ in range(5)]
    path = detector_files.write(tmp_path / "f.h5", [*events, events[0] * 2], SHAPES)
    assert suggest(path).fields == {"data.on_bad_event": "skip"}
    # The size of the first event is not that of most.
    for group in (IMAGE_GROUP, LABEL_GROUP):
        with changing(path, f"{group}/image_meta") as rows:
            rows["number_of_voxels"][0] = 48, 32
    assert "1 were" not in describe(path) and "2 were found bad" in describe(path)
    for group in (IMAGE_GROUP, LABEL_GROUP):
        with changing(path, f"{group}/image_meta") as rows:
            rows["projection_id"][0] = 9
    assert suggest(path).fields["data.planes"] == "0,1,2"
    assert suggest(path).notes[0] == "few events have planes 9"


def test_labels_of_other_sizes_are_in_the_way(path):
    with changing(path, f"{LABEL_GROUP}/image_meta") as rows:
        rows["number_of_voxels"] = 48, 32
    assert suggest(path).obstacle == "no plane has labels of its size"


def test_the_files_of_the_page_on_other_detectors(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["other_detectors.py", "--folder", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples/other_detectors.py"), run_name="__main__")
    names = [f"class{number}" for number in range(1, 5)]
    pairs = [f"{number}:class{number}" for number in range(1, 5)]
    label_map = ",".join(["0:background", *pairs, "65535:ignore"])
    assert {path.stem: suggest(path).fields for path in tmp_path.iterdir()} == {
        "names": {"data.image_product": "wire", "data.label_product": "seg"},
        "four_planes": {},
        "five_classes": {
            "data.classes": ",".join(["background", *names]),
            "data.label_map": label_map,
        },
        "electrons": {"data.charge_scale": "1e-3"},
        "bipolar": {},
        "bad_events": {"data.on_bad_event": "skip"},
    }


def test_files_that_are_none_end_in_one_line(path, tmp_path, capsys):
    other = tmp_path / "other.h5"
    other.write_text(json.dumps("no HDF5"))
    absent = str(tmp_path / "absent.h5")
    assert show.main(["--list", str(other), path, absent]) == 1
    out, error = capsys.readouterr()
    assert out.startswith(f"{path}: ")
    assert error.count("\n") == 1 and error.startswith(f"ctjax: error: {other}: found")
    assert f"; {absent}: found" in error


@pytest.mark.parametrize(
    "words, message",
    [
        (["--list", "a.h5", "--output", "a.png"], "--output: expected none"),
        (["--list", "a.h5", "--entry", "0"], "--entry: expected none"),
        (["--output", "a.png"], "expected --file, or --list FILE"),
        ([], "expected --file and --output, or --list FILE"),
    ],
)
def test_a_picture_or_a_list(words, message):
    with pytest.raises(SystemExit, match=message):
        show.main(words)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_titles_are_bold_and_errors_red(path, monkeypatch):
    with changing(path, f"{LABEL_GROUP}/image_meta") as rows:
        rows["valid"][0] = 0
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    show.main(["--list", path])
    text = terminal.getvalue()
    assert "\x1b[1mTo train on it\x1b[0m" in text
    assert "\x1b[31m  ! entry 0: valid = 0 in image_meta\x1b[0m" in text
