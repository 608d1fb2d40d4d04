"""The event display: what is drawn where, as a command, and in TensorBoard."""

import csv
import subprocess
import sys

import h5py
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from ctjax.base.constants import COSMIC, NEUTRINO
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.commands import simulate
from ctjax.data.larcv.truth import neutrino_name, read_neutrinos
from ctjax.data.minibatch import Form
from ctjax.runs import inference, train
from ctjax.views import evaluated_event, legends, picture
from ctjax.views import event as views_event
from ctjax.views.event import PlanePixels
from tests.support import ROOT, larcv_fixtures, tiny

matplotlib_image = pytest.importorskip(
    "matplotlib.image", reason="extra [display] is not installed"
)

SHAPE = (40, 64)

pytestmark = pytest.mark.xdist_group("runs_of_picture")  # they share a training


def pixels_of(*rows):
    """Pixels (row, column, charge, truth, prediction)."""
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    types = (np.int32, np.int32, np.float32, np.uint8, np.uint8)
    return PlanePixels(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ctjax", "show", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def events():
    return larcv_fixtures.make_events(3, SHAPE, most=300)


@pytest.fixture(scope="module")
def larcv_file(events, tmp_path_factory):
    return larcv_fixtures.write_larcv(
        tmp_path_factory.mktemp("data") / "three.h5", events, SHAPE
    )


@pytest.fixture(scope="module")
def inferred(larcv_file, tmp_path_factory):
    """An inference of events 1 and 2, pooled once, untrained."""
    folder = tmp_path_factory.mktemp("inferred")
    fields = {
        "data__synthetic": False,
        "data__downsample": 1,
        "data__file": str(larcv_file),
        "mode__mask_empty_pixels": True,
    }
    train.run(tiny.make(folder, run__iterations=1, **fields))
    config = tiny.make(
        folder,
        run__iterations=None,
        mode__name="inference",
        mode__start_index=1,
        mode__write_predictions=True,
        **fields,
    )
    inference.run(config)
    return folder


def test_a_view_without_predictions_is_what_is_stored(larcv_file, events):
    view = views_event.read_view(str(larcv_file), "", 2)
    assert view.has_truth and not view.has_prediction and view.pixel_size == 1
    assert view.image_shape == SHAPE and "entry 2" in view.title
    for pixels, (ids, values, classes) in zip(view.planes, events[2], strict=True):
        np.testing.assert_array_equal(pixels.columns * SHAPE[0] + pixels.rows, ids)
        np.testing.assert_array_equal(pixels.charge, values)
        np.testing.assert_array_equal(pixels.truth, classes)


@pytest.mark.slow
def test_a_view_with_predictions_is_theirs_pixel_by_pixel(larcv_file, events, inferred):
    path = inferred / "predictions.h5"
    view = views_event.read_view(str(larcv_file), str(path), 2)
    assert view.pixel_size == 2 and view.image_shape == (20, 32)
    image, label = larcv_fixtures.dense_truth(events[2:], SHAPE, 1)
    with open(inferred / "inference_metrics.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["entry"] == "2")
    some = 0
    for plane, pixels in enumerate(view.planes):
        at = pixels.rows, pixels.columns
        np.testing.assert_array_equal(pixels.charge, image[0, plane][at])
        np.testing.assert_array_equal(pixels.truth, label[0, plane][at])
        assert len(pixels.rows) == np.count_nonzero(image[0, plane])
        # Everything charged was predicted, and nothing else (mask_empty_pixels).
        right = np.count_nonzero(pixels.prediction == pixels.truth)
        empty = image[0, plane].size - len(pixels.rows)
        accuracy = float(row[f"plane{plane}/Total_Accuracy"])
        assert (right + empty) / image[0, plane].size == pytest.approx(accuracy)
        some += np.count_nonzero(pixels.prediction)
    assert some > 0
    assert view.metrics["Average/mIoU"] == float(row["Average/mIoU"])
    assert set(view.metrics) == set(COSMIC_TAGGER.metric_names)


def test_entry_that_was_not_predicted(larcv_file, inferred):
    result = run(
        *("--file", larcv_file, "--predictions", inferred / "predictions.h5"),
        *("--entry", 0, "--output", inferred / "no.png"),
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "--predictions: entry 0 is not in" in result.stderr
    assert not (inferred / "no.png").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--entry", "3"], "--entry: expected 0 to 2"),
        (["--entry", "x"], "--entry: invalid int"),
        (["--predictions", __file__], "expected a predictions.h5"),
        (["--output", "x.bmpx"], "bmpx"),
    ],
)
def test_a_mistake_ends_in_one_line(larcv_file, tmp_path, arguments, words):
    result = run("--file", larcv_file, "--output", tmp_path / "x.png", *arguments)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert words in result.stderr


def test_the_command_draws_truth_prediction_and_errors(larcv_file, inferred):
    output = inferred / "event.png"
    result = run(
        *("--file", larcv_file, "--predictions", inferred / "predictions.h5"),
        *("--entry", 1, "--output", output),
    )
    assert result.returncode == 0, result.stderr
    view = views_event.read_view(str(larcv_file), str(inferred / "predictions.h5"), 1)
    picture.draw(view).savefig(inferred / "expected.png")
    shown, expected = (
        matplotlib_image.imread(inferred / name)
        for name in ("event.png", "expected.png")
    )
    np.testing.assert_array_equal(shown, expected)


def test_panels_and_their_words(larcv_file, inferred):
    view = views_event.read_view(str(larcv_file), str(inferred / "predictions.h5"), 2)
    figure = picture.draw(view)
    titles = [panel.get_title("left") for panel in figure.axes]
    for layer in ("charge", "truth", "prediction", "errors"):
        assert [f"plane {plane}: {layer}" in titles for plane in range(3)] == [True] * 3
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*COSMIC_TAGGER.classes, *legends.ERROR_NAMES]
    assert f"mIoU {view.metrics['Average/mIoU']:.3f}" in figure.get_suptitle()
    panels = dict(zip(titles, figure.axes, strict=True))
    for plane, pixels in enumerate(view.planes):
        array = panels[f"plane {plane}: prediction"].images[0].get_array()
        found = np.ma.filled(array.astype(float), np.nan)[pixels.rows, pixels.columns]
        np.testing.assert_array_equal(found, pixels.prediction)
    # Wires and ticks of the file, not pixels of the pooled image.
    assert figure.axes[0].get_xlim() == (0, SHAPE[1])
    assert figure.axes[0].get_ylim() == (0, SHAPE[0])
    assert {panel.get_xlabel() for panel in figure.axes} >= {"wire"}
    assert {panel.get_ylabel() for panel in figure.axes} >= {"tick"}
    figure = picture.draw(views_event.read_view(str(larcv_file), "", 2))
    titles = [panel.get_title("left") for panel in figure.axes]
    assert "plane 0: truth" in titles and "plane 0: prediction" not in titles


def test_rasterise_takes_the_largest_of_a_cell():
    pixels = pixels_of((0, 0, 5, 0, 0), (1, 1, 9, 0, 0), (7, 7, 3, 0, 0))
    exact = picture.rasterise(pixels, pixels.charge, (0, 8, 0, 8))
    assert exact[0, 0] == 5 and exact[1, 1] == 9 and exact[7, 7] == 3
    assert np.count_nonzero(~np.isnan(exact)) == 3
    coarse = picture.rasterise(pixels, pixels.charge, (0, 8, 0, 8), (4, 4))
    assert coarse[0, 0] == 9 and coarse[3, 3] == 3
    part = picture.rasterise(pixels, pixels.charge, (1, 3, 1, 3))
    assert part[0, 0] == 9 and np.count_nonzero(~np.isnan(part)) == 1


def test_box_is_around_the_true_else_the_predicted_neutrino():
    cosmic = [(900, c, 50, COSMIC, COSMIC) for c in range(0, 2000, 3)]
    true = [(300 + i, 1000 + i, 20, NEUTRINO, 0) for i in range(80)]
    far = [(20, 20, 5, NEUTRINO, 0)]

    def box(pixels):
        return picture.box_of_class(pixels, (1280, 2048), NEUTRINO)

    rows = box(pixels_of(*cosmic, *true, *far))
    first_row, last_row, first_column, last_column = rows
    assert 100 < first_row < 300 and 380 < last_row < 500
    assert 900 < first_column < 1000 and 1080 < last_column < 1200
    ratio = (last_row - first_row) / (last_column - first_column)
    assert ratio == pytest.approx(1280 / 2048, rel=0.02)
    predicted = [(300 + i, 1000 + i, 20, 0, NEUTRINO) for i in range(80)]
    assert box(pixels_of(*cosmic, *predicted)) is not None
    assert box(pixels_of(*cosmic)) is None
    edge = box(pixels_of((0, 2047, 9, NEUTRINO, 0)))
    assert edge[0] == 0 and edge[3] == 2048


def test_kinds_of_error():
    cases = [(0, 0, 0), (1, 1, 1), (2, 2, 2), (1, 0, 3), (0, 1, 4), (2, 0, 5)]
    cases += [(2, 1, 5), (0, 2, 6), (1, 2, 6)]
    pixels = pixels_of(*[(0, i, 1, t, p) for i, (t, p, _) in enumerate(cases)])
    assert legends.error_table(COSMIC_TAGGER)[
        pixels.truth, pixels.prediction
    ].tolist() == [kind for *_, kind in cases]


def test_neutrinos_of_a_file(tmp_path, larcv_file):
    path = tmp_path / "simulated.h5"
    simulate.main(
        ["--events", "6", "--output", str(path), "--seed", "3", "--shape", "64,64"]
    )
    neutrinos = read_neutrinos([str(path), str(larcv_file)])
    with h5py.File(path) as file:
        particles = file["Data/particle_sbndneutrino_group/particles"][:]
        extents = file["Data/particle_sbndneutrino_group/extents"][:]
    first = particles[extents["first"]]
    assert len(neutrinos) == 9
    known = np.abs(first["pdg"]) > 0
    assert 0 < known.sum()
    np.testing.assert_array_equal(
        neutrinos["energy_gev"][:6][known], first["energy_init"][known]
    )
    assert np.isnan(neutrinos["energy_gev"][:6][~known]).all()
    assert np.isnan(neutrinos["energy_gev"][6:]).all()
    assert neutrino_name(neutrinos[8]) == ""


@larcv_fixtures.needs_shared
def test_neutrinos_of_the_light_file():
    path = larcv_fixtures.shared("data/cosmic_tagging_light.h5")
    neutrinos = read_neutrinos([path])
    assert [round(float(e), 2) for e in neutrinos["energy_gev"]] == [
        *(1.39, 1.0, 1.89, 1.5, 0.49)
    ]
    assert neutrino_name(neutrinos[0]) == "νμ charged current, 1.39 GeV"


def images_of(folder):
    """(tag, step) of every image in TensorBoard's files of a folder."""
    found = []
    for path in folder.glob("events.out.tfevents*"):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [
                (value.tag, event.step)
                for value in event.summary.value
                if value.image.encoded_image_string.startswith(b"\x89PNG")
            ]
    return found


@pytest.mark.parametrize("densify", ["host", "device"])
def test_tensorboard_shows_an_event(tmp_path, larcv_file, densify):
    fields = {
        "data__synthetic": False,
        "data__downsample": 0,
        "data__file": str(larcv_file),
        "data__densify": densify,
        "run__iterations": 2,
        "mode__no_summary_images": False,
    }
    train.run(tiny.make(tmp_path / "with", **fields))
    assert images_of(tmp_path / "with/train") == [("event", 0)]
    fields["mode__no_summary_images"] = True
    train.run(tiny.make(tmp_path / "without", **fields))
    assert images_of(tmp_path / "without/train") == []


@pytest.mark.parametrize("form", Form)
def test_view_of_a_minibatch(larcv_file, events, form):
    from ctjax.data import pipeline, sources

    image, label = larcv_fixtures.dense_truth(events, SHAPE)
    prediction = np.zeros_like(label)
    prediction[0, 0, 3, 5] = NEUTRINO
    with sources.open_source(file=str(larcv_file)) as source:
        reader = pipeline.minibatches(
            source, iter([np.array([2])]), io_threads=1, prefetch=1, form=form
        )
        with reader:
            minibatch = next(reader)
            results = {
                "prediction": prediction[:1],
                "label": label[2:],
                "metrics": np.arange(20.0)[None],
            }
            view = evaluated_event.view_of_minibatch(
                minibatch, results, 0, SHAPE, 1, COSMIC_TAGGER
            )
    assert view.pixel_size == 2 and view.metrics["plane2/mIoU"] == 19
    for plane, pixels in enumerate(view.planes):
        dense = np.zeros(SHAPE, np.float32)
        dense[pixels.rows, pixels.columns] = pixels.charge
        np.testing.assert_array_equal(dense, image[2, plane])
        found = np.zeros(SHAPE, np.uint8)
        found[pixels.rows, pixels.columns] = pixels.prediction
        np.testing.assert_array_equal(found, prediction[0, plane])


def test_without_matplotlib_training_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    config = tiny.make(tmp_path, run__iterations=1, mode__no_summary_images=False)
    assert int(train.run(config).step) == 1
    hints = [m for m in caplog.messages if "ctjax[display]" in m]
    assert len(hints) == 1


def to_lab(colour, matrix):
    """CIELAB of a colour as seen by an eye that the matrix describes."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    seen = np.clip(matrix @ linear, 0, 1)
    to_xyz = np.array(
        [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ]
    )
    ratio = (to_xyz @ seen) / (to_xyz @ np.ones(3))
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colours", [COSMIC_TAGGER.colours, legends.ERROR_COLOURS])
def test_colours_differ_for_every_eye(eye, colours):
    # 20 units of CIELAB are some ten times what can just be told apart.
    labs = [to_lab(colour, EYES[eye]) for colour in colours]
    for first in range(len(labs)):
        for second in range(first):
            assert np.linalg.norm(labs[first] - labs[second]) > 20, (first, second)
