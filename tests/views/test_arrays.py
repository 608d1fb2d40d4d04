"""The arrays behind the pictures, against arrays written out by hand."""

import numpy as np
import pytest

from ctjax.base.constants import BACKGROUND, COSMIC, NEUTRINO
from ctjax.views import legends, picture
from ctjax.views.event import EventView, PlanePixels

colors = pytest.importorskip(
    "matplotlib.colors", reason="extra [display] is not installed"
)

NONE = np.nan
SHAPE = (3, 4)


def plane(*rows):
    """Pixels (row, column, charge, truth, prediction)."""
    types = (np.int32, np.int32, np.float32, np.uint8, np.uint8)
    columns = [np.array(values) for values in zip(*rows, strict=True)]
    return PlanePixels(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


VIEW = EventView(
    planes=(
        plane(
            (0, 0, 8.0, NEUTRINO, COSMIC),
            (0, 3, 9.0, COSMIC, NEUTRINO),
            (1, 1, 10.0, COSMIC, COSMIC),
            (2, 2, 11.0, BACKGROUND, COSMIC),
        ),
        plane((2, 0, 12.0, NEUTRINO, NEUTRINO)),
        plane((1, 3, 13.0, BACKGROUND, BACKGROUND)),
    ),
    image_shape=SHAPE,
    pixel_size=1,
    has_truth=True,
    has_prediction=True,
    title="by hand",
    metrics={},
)

PLANE_0 = {
    "charge": [
        [8, NONE, NONE, 9],
        [NONE, 10, NONE, NONE],
        [NONE, NONE, 11, NONE],
    ],
    "truth": [
        [NEUTRINO, NONE, NONE, COSMIC],
        [NONE, COSMIC, NONE, NONE],
        [NONE, NONE, BACKGROUND, NONE],
    ],
    "prediction": [
        [COSMIC, NONE, NONE, NEUTRINO],
        [NONE, COSMIC, NONE, NONE],
        [NONE, NONE, COSMIC, NONE],
    ],
    # Neutrino missed, false neutrino, cosmic right, false cosmic.
    "errors": [
        [5, NONE, NONE, 6],
        [NONE, 1, NONE, NONE],
        [NONE, NONE, 4, NONE],
    ],
}
"""Rows from the first drift tick up, columns from the first wire."""

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#C9CCD1"


def panels(view):
    """The whole pictures by their titles."""
    drawn = picture.draw(view)
    return {panel.get_title("left"): panel for panel in drawn.axes if panel.images}


@pytest.fixture(scope="module")
def drawn():
    return panels(VIEW)


def array_of(panel):
    (image,) = panel.images
    return np.ma.filled(np.ma.masked_invalid(image.get_array()).astype(float), NONE)


@pytest.mark.parametrize("layer", PLANE_0)
def test_each_panel_draws_its_own_layer(drawn, layer):
    panel = drawn[f"plane 0: {layer}"]
    np.testing.assert_array_equal(array_of(panel), np.array(PLANE_0[layer], float))
    # The first tick is below and the first wire on the left.
    assert panel.images[0].origin == "lower"
    assert tuple(panel.images[0].get_extent()) == (0, 4, 0, 3)


def test_each_plane_has_its_own_row_of_panels(drawn):
    layers = ("charge", "truth", "prediction", "errors")
    titles = {f"plane {number}: {layer}" for number in range(3) for layer in layers}
    assert titles <= set(drawn)
    for number, at, found in ((1, (2, 0), (12, 2, 2, 2)), (2, (1, 3), (13, 0, 0, 0))):
        for layer, value in zip(layers, found, strict=True):
            expected = np.full(SHAPE, NONE)
            expected[at] = value
            array = array_of(drawn[f"plane {number}: {layer}"])
            np.testing.assert_array_equal(array, expected)


def colour_at(panel, row, column):
    (image,) = panel.images
    return colors.to_hex(image.cmap(image.norm(array_of(panel)[row, column]))).upper()


def test_classes_and_errors_have_their_colours(drawn):
    truth, prediction = drawn["plane 0: truth"], drawn["plane 0: prediction"]
    assert colour_at(truth, 0, 0) == colour_at(prediction, 0, 3) == VERMILION
    assert colour_at(truth, 1, 1) == colour_at(prediction, 1, 1) == BLUE
    assert colour_at(truth, 2, 2) == GREY
    errors = drawn["plane 0: errors"]
    for at, kind in (((1, 1), 1), ((2, 2), 4), ((0, 0), 5), ((0, 3), 6)):
        assert colour_at(errors, *at) == legends.ERROR_COLOURS[kind].upper()


def test_the_legend_names_the_colours_that_are_drawn():
    (legend,) = picture.draw(VIEW).legends
    named = {
        text.get_text(): colors.to_hex(patch.get_facecolor()).upper()
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert named["neutrino"] == VERMILION and named["cosmic"] == BLUE
    assert named["background"] == GREY
    assert named["neutrino missed"] == legends.ERROR_COLOURS[5].upper()


def test_the_box_shows_the_same_layers_of_its_part():
    """A neutrino of one pixel in a large image: the box around it, by layer."""
    view = VIEW._replace(
        planes=(
            plane((100, 150, 7.0, NEUTRINO, COSMIC), (0, 0, 9.0, COSMIC, NEUTRINO)),
            *VIEW.planes[1:],
        ),
        image_shape=(200, 300),
    )
    figure = picture.draw(view)
    # The eight panels of plane 0 come first: a row of whole ones, a row of boxes.
    boxes = figure.axes[4:8]
    first_row, _, first_column, _ = picture.box_of_class(
        view.planes[0], (200, 300), NEUTRINO
    )
    for panel, value in zip(boxes, (7, NEUTRINO, COSMIC, 5), strict=True):
        array = array_of(panel)
        assert array[100 - first_row, 150 - first_column] == value
        assert np.count_nonzero(~np.isnan(array)) == 1


def test_what_is_not_known_is_not_drawn():
    titles = panels(VIEW._replace(has_prediction=False))
    assert "plane 0: truth" in titles
    assert not {"plane 0: prediction", "plane 0: errors"} & set(titles)
    titles = panels(VIEW._replace(has_truth=False))
    assert "plane 0: prediction" in titles
    assert not {"plane 0: truth", "plane 0: errors"} & set(titles)
