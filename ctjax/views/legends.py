"""Says how classes of pixels and kinds of error are called and drawn."""

import numpy as np

from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector

# Okabe and Ito's colours (jfly.uni-koeln.de/color), which people with every kind of
# colour vision can tell apart; grey for what is of no interest.
ERROR_COLOURS = ("#E9EAEC", "#9AA4AE", "#56B4E9", "#D55E00", "#000000")

IGNORED_COLOUR = "#E8D8B0"

ERROR_NAMES = (
    "background, right",
    "cosmic or neutrino, right",
    "cosmic and background confused",
    "neutrino missed",
    "neutrino made up",
)
"""Kinds of error of the three default classes."""

OTHER_ERROR_NAMES = (
    "background, right",
    "class, right",
    "taken for another class",
    "taken for background",
    "background taken for a class",
)
"""Kinds of error of other classes."""

IGNORED_KIND = len(ERROR_NAMES)


def error_table(detector: Detector) -> np.ndarray:
    """Sorts pairs of classes into right predictions and kinds of error.

    Returns:
      [K + 1, K] uint8, by true and predicted class: index of `error_legend`'s kinds. In
      the last row the pixel is ignored.
    """
    true, found = np.indices((detector.num_classes,) * 2)
    if _is_default(detector):
        cosmic, neutrino = 1, 2
        kinds = np.where(true == found, np.minimum(true, cosmic), 2)
        kinds[(true == neutrino) & (found != neutrino)] = 3
        kinds[(true != neutrino) & (found == neutrino)] = 4
    else:
        kinds = np.where(true == found, np.minimum(true, 1), 2)
        kinds[(true != BACKGROUND) & (found == BACKGROUND)] = 3
        kinds[(true == BACKGROUND) & (found != BACKGROUND)] = 4
    ignored = np.full((1, detector.num_classes), IGNORED_KIND)
    return np.concatenate([kinds, ignored]).astype(np.uint8)


def error_colours(detector: Detector) -> tuple[str, ...]:
    """Returns the colour of each kind of `error_table`."""
    return (*ERROR_COLOURS, IGNORED_COLOUR) if detector.has_ignored else ERROR_COLOURS


def error_legend(detector: Detector) -> list[tuple[str, str]]:
    """Returns name and colour of the kinds that may be."""
    names = ERROR_NAMES if _is_default(detector) else OTHER_ERROR_NAMES
    named = [*zip((*names, "ignored"), (*ERROR_COLOURS, IGNORED_COLOUR), strict=True)]
    there = np.unique(error_table(detector)).tolist()
    return [
        named[kind] for kind in there if kind < IGNORED_KIND or detector.has_ignored
    ]


def class_colours(detector: Detector) -> tuple[str, ...]:
    """Returns the colour of each value of `drawn`."""
    ignored = (IGNORED_COLOUR,) if detector.has_ignored else ()
    return (*detector.colours, *ignored)


def class_legend(detector: Detector) -> list[tuple[str, str]]:
    """Returns name and colour of the classes, and of ignored pixels."""
    ignored = ("ignored",) if detector.has_ignored else ()
    names = *detector.classes, *ignored
    return list(zip(names, class_colours(detector), strict=True))


def drawn(classes: np.ndarray, detector: Detector) -> np.ndarray:
    """Puts K, an index of `class_colours`, in the place of `IGNORED`; uint8."""
    number = np.uint8(detector.num_classes)
    return np.where(classes == IGNORED, number, classes).astype(np.uint8)


def _is_default(detector: Detector) -> bool:
    """Says whether the classes are background, cosmic and neutrino."""
    return detector.classes == COSMIC_TAGGER.classes
