"""larcv3 itself opens every kind of file that ctjax writes, and reads the same.

Needs an interpreter with the PyPI package `larcv`, which compiles C++ and wants an
older numpy than these tests: `CTJAX_LARCV_PYTHON=venv/bin/python pytest ...`.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from ctjax.base.constants import IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.config.heads import ActiveHeads, Classification, Vertex
from ctjax.data.larcv import repack
from ctjax.data.larcv.file import LarcvFile
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.larcv.truth import read_neutrinos
from ctjax.data.larcv.writer import LarcvWriter
from ctjax.runs import inference, train
from ctjax.simulation.detectors import DETECTORS
from ctjax.simulation.parameters import GENERATOR_VERSION, SimulationParameters
from ctjax.simulation.production import write_events
from tests.support import ROOT, tiny
from tests.support import other_predictions as other
from tests.support.larcv_plain import read_plainly
from tests.support.larcv_writing import METAS, particles, planes, write

READING = ROOT / "tests/support/larcv_reading.py"
SHAPE = (320, 512)
IMAGES = (f"sparse2d/{IMAGE_PRODUCT}", f"sparse2d/{LABEL_PRODUCT}")
TRUTH = ("particle/sbndneutrino", "bbox2d/bbox_neutrino")


@pytest.fixture(scope="module")
def larcv_python():
    """An interpreter that has larcv."""
    python = os.environ.get("CTJAX_LARCV_PYTHON")
    if python is None and importlib.util.find_spec("larcv"):
        python = sys.executable
    if python is None:
        pytest.skip(
            "larcv is not installed, and CTJAX_LARCV_PYTHON names no interpreter that "
            "has it (pip install larcv compiles C++)"
        )
    return python


@pytest.fixture
def read(larcv_python, tmp_path):
    """A function that returns what larcv3 reads: one dictionary an event."""

    def read_with_larcv3(path, *products):
        output = tmp_path / "read.json"
        command = [larcv_python, str(READING), str(path), str(output), *products]
        # Its own packages: ctjax and the numpy of this interpreter stay out.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return json.loads(output.read_text())

    return read_with_larcv3


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Twelve events of seed 1, some of which have no neutrino."""
    path = tmp_path_factory.mktemp("simulated") / "events.h5"
    write_events(path, SimulationParameters(image_shape=SHAPE), seed=1, events=12)
    return path


def assert_same_images(events, path, products=IMAGES):
    """Ids, values and event numbers as ctjax reads them."""
    with LarcvFile(path) as file:
        assert len(events) == file.num_events > 0
        for number, event in enumerate(events):
            assert event["id"] == np.asarray(file.event_ids[number]).tolist()
            voxels = (file.read_image(number), file.read_label(number))
            for name, wanted in zip(products, voxels, strict=False):
                for plane, found in zip(wanted.planes, event[name], strict=True):
                    assert found["ids"] == wanted.ids[plane].tolist()
                    assert found["values"] == wanted.values[plane].tolist()
                    assert found["shape"] == list(file.plane_shapes[0][::-1])


def test_products_of_the_writer(read, tmp_path):
    events = [(planes(3, 0, 5, seed=e), planes(2, 4, 0, seed=e + 9)) for e in range(3)]
    path = write(tmp_path / "a.h5", events)
    found = read(path, "sparse2d/wire", "sparse2d/a_b", "particle/nu", "bbox2d/box")
    assert len(found) == 3
    for number, (event, made) in enumerate(zip(found, events, strict=True)):
        assert event["id"] == [7, 1, number]
        for name, wanted in zip(("sparse2d/wire", "sparse2d/a_b"), made, strict=True):
            for plane, (ids, values) in zip(event[name], wanted, strict=True):
                assert plane["ids"] == ids.tolist()
                assert plane["values"] == values.tolist()
                assert plane["shape"] == list(METAS[0].number_of_voxels)
        # Without particles larcv3 hands out the previous event's.
        rows = particles(number)
        assert number == 0 or [p["pdg"] for p in event["particle/nu"]] == (
            rows["pdg"].tolist()
        )
        assert [len(boxes) for boxes in event["bbox2d/box"]] == [1, 0, 2]
        assert event["bbox2d/box"][2][1]["centroid"] == [3.0, 4.0]


def test_simulated_events_with_and_without_neutrino(read, simulated):
    events = read(simulated, *IMAGES, *TRUTH)
    assert_same_images(events, simulated)
    assert [event["id"] for event in events] == [
        [1, GENERATOR_VERSION, number] for number in range(12)
    ]
    with h5py.File(simulated) as file:
        rows = file["Data/particle_sbndneutrino_group/particles"][:]
        extents = file["Data/particle_sbndneutrino_group/extents"][:]
        boxes = file["Data/bbox2d_bbox_neutrino_group/bboxes"][:]
    without = 0
    for event, (first, number) in zip(events, extents.tolist(), strict=True):
        wanted = rows[first : first + number]
        found = event["particle/sbndneutrino"]
        assert [p["pdg"] for p in found] == wanted["pdg"].tolist()
        assert [p["energy"] for p in found] == wanted["energy_init"].tolist()
        assert found[0]["current_type"] == wanted["current_type"][0]
        assert found[0]["vertex"] == [wanted["vtx"][axis][0] for axis in "xyzt"]
        per_plane = [len(found) for found in event["bbox2d/bbox_neutrino"]]
        if found[0]["pdg"] == 0:
            without += 1
            assert per_plane == [0, 0, 0]
        else:
            assert per_plane == [1, 1, 1]
            for plane in event["bbox2d/bbox_neutrino"]:
                assert plane[0]["centroid"] == boxes["centroid"][0].tolist()
                assert plane[0]["half_length"] == boxes["half_length"][0].tolist()
                boxes = boxes[1:]
    assert 0 < without < 12 and boxes.size == 0


@pytest.mark.parametrize("name, columns", [("microboone", 144), ("two_tpcs", 128)])
def test_simulated_planes_of_other_number_and_size(read, tmp_path, name, columns):
    path = tmp_path / "events.h5"
    parameters = dataclasses.replace(DETECTORS[name], image_shape=(64, columns))
    write_events(path, parameters, seed=1, events=8)
    events = read(path, *IMAGES, *TRUTH)
    with h5py.File(path) as file:
        boxes = file["Data/bbox2d_bbox_neutrino_group/bbox_extents"]["N"]
    for product in IMAGES:
        wanted, sizes = read_plainly(path, product.partition("/")[2])
        found = [plane for event in events for plane in event[product]]
        assert [plane["shape"] for plane in found] == sizes
        for plane, (ids, values) in zip(
            found, [plane for event in wanted for plane in event], strict=True
        ):
            assert plane["ids"] == ids.tolist() and plane["values"] == values.tolist()
    seen = [len(plane) for event in events for plane in event[TRUTH[1]]]
    assert seen == boxes.tolist() and 1 in seen
    neutrinos = [event[TRUTH[0]][0]["pdg"] for event in events]
    assert neutrinos == read_neutrinos([str(path)])["pdg"].tolist()
    repack.repack(str(path), str(tmp_path / "repacked.h5"))
    assert read(tmp_path / "repacked.h5", *IMAGES, *TRUTH) == events


def test_classes_up_to_65535(read, tmp_path):
    path, classes = tmp_path / "a.h5", [0, 1, 4, 255, 256, 32768, 65534, 65535]
    metas = [PlaneMeta((4, 3), (4.0, 3.0)), PlaneMeta((5, 7), (5.0, 7.0))]
    ids = np.arange(8, dtype=np.uint64)
    planes = [(ids, np.array(classes, np.uint16)), (ids + 27, np.array(classes, "f4"))]
    with LarcvWriter(path, metas, ("labels",)) as out:
        out.append((1, 2, 3), {"labels": planes})
    (event,) = read(path, "sparse2d/labels")
    for plane, (stored, _) in zip(event["sparse2d/labels"], planes, strict=True):
        assert plane["values"] == classes and plane["ids"] == stored.tolist()


def test_a_repacked_file(read, simulated, tmp_path):
    path = tmp_path / "repacked.h5"
    repack.repack(str(simulated), str(path))
    events = read(path, *IMAGES, *TRUTH)
    assert_same_images(events, path)
    assert events == read(simulated, *IMAGES, *TRUTH)


def test_predictions(read, simulated, tmp_path):
    options = {
        "data__synthetic": False,
        "data__file": str(simulated),
        "data__downsample": 3,
        "run__iterations": 1,
        "mode__write_predictions": True,
    }
    train.run(tiny.make(tmp_path, **options))
    options |= {"mode__name": "inference", "run__iterations": None}
    inference.run(tiny.make(tmp_path, **options))
    path = tmp_path / "predictions.h5"
    scores = [
        f"sparse2d/{name}"
        for name in (
            "cosmic_prediction",
            "neutrino_prediction",
            "cosmicseg_prediction",
        )
    ]
    events = read(path, *IMAGES, *scores)
    assert_same_images(events, path)
    for number, event in enumerate(events):
        assert event["id"] == [1, GENERATOR_VERSION, number]
        for plane, image in enumerate(event[IMAGES[0]]):
            found = [event[name][plane] for name in scores]
            for product in found:
                assert product["ids"] == image["ids"]
            assert all(0 <= value <= 1 for value in found[0]["values"])
            assert set(found[2]["values"]) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize("planes", [1, 2, 4, 6])
def test_predictions_of_planes_of_other_number_and_size(read, tmp_path, planes):
    """The second event is skipped, so that it is empty."""
    shapes = tuple((8 - plane, 9 + plane) for plane in range(planes))
    source = other.source_of(shapes, bad_events=[1])
    results = other.made_results(np.random.default_rng(planes), 3, planes)
    path = tmp_path / "predictions.h5"
    names = other.write(path, results, [1, 0, 1], source)
    events = read(path, *(f"sparse2d/{name}" for name in names))
    assert [event["id"] for event in events] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for name in names:
        wanted, sizes = read_plainly(path, name)
        assert sizes == [[width, height] for height, width in shapes] * 3
        for number, (event, expected) in enumerate(zip(events, wanted, strict=True)):
            found = event[f"sparse2d/{name}"]
            assert [plane["shape"] for plane in found] == sizes[:planes]
            for plane, (ids, values) in zip(found, expected, strict=True):
                assert (len(ids) == 0) == (number == 1)
                assert plane["ids"] == ids.tolist()
                assert plane["values"] == values.tolist()


def test_predictions_of_classes_and_vertices(read, tmp_path):
    """The second event is skipped: a particle that says nothing, and no box."""
    planes, size = 4, 0.5
    source = other.source_of(((8, 9), (6, 12), (8, 16), (4, 9)), bad_events=[1])
    random = np.random.default_rng(0)
    results = other.made_results(random, 3, planes)
    results["event_score"] = np.float32([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    results["vertex"] = random.random((3, planes, 3)).astype(np.float32)
    path = tmp_path / "predictions.h5"
    other.write(
        path, results, [1, 0, 1], source, heads=ActiveHeads(Classification(), Vertex())
    )
    particle, box = (
        "particle/sbndneutrino_prediction",
        "bbox2d/bbox_neutrino_prediction",
    )
    events = read(path, particle, box, "sparse2d/wire")
    found = [(e[particle][0]["pdg"], e[particle][0]["current_type"]) for e in events]
    assert [len(event[particle]) for event in events] == [1, 1, 1]
    assert found == [(14, 0), (0, -1), (0, 1)]
    assert events[1][box] == [[]] * planes
    for number in (0, 2):
        for plane, (made,) in enumerate(events[number][box]):
            row, column, _ = results["vertex"][number, plane].tolist()
            assert made["centroid"] == [column, row]
            assert made["half_length"] == [1.5 * size, 1.5 * size]
