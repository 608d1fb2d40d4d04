"""Says how classes of pixels and kinds of error are called and drawn."""

import numpy as np

from ctjax.base.constants import BACKGROUND
from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector

# Colours that people with every kind of colour vision can tell apart, most of Okabe and
# Ito (jfly.uni-koeln.de/color); grey for what is of no interest, blue where cosmics are
# wrong.
ERROR_COLOURS = (
    *("#E9EAEC", "#9AA4AE", "#AA4499"),
    *("#56B4E9", "#332288", "#D55E00", "#000000"),
)

IGNORED_COLOUR = "#E8D8B0"

ERROR_NAMES = (
    "background, right",
    "cosmic, right",
    "neutrino, right",
    "cosmic missed",
    "false cosmic",
    "neutrino missed",
    "false neutrino",
)
"""Kinds of error of the three default classes; missed is what was taken for background,
or for cosmic, and false what is something else."""

OTHER_ERROR_NAMES = (
    "background, right",
    "class, right",
    "last class, right",
    "taken for background",
    "background taken for a class",
    "taken for another class",
)
"""Kinds of error of other classes; `error_legend` says which is the last class."""

IGNORED_KIND = len(ERROR_NAMES)


def error_table(detector: Detector) -> np.ndarray:
    """Sorts pairs of classes into right predictions and kinds of error.

    Returns:
      [K + 1, K] uint8, by true and predicted class: index of `ERROR_COLOURS`. In the
      last row the pixel is ignored.
    """
    number = detector.num_classes
    true, found = np.indices((number, number))
    last = number - 1
    kinds = np.full((number, number), 5)
    kinds[(true != BACKGROUND) & (found == BACKGROUND)] = 3
    kinds[(true == BACKGROUND) & (found != BACKGROUND)] = 4
    if _is_default(detector):
        kinds[(true == last) & (found != last)] = 5
        kinds[(true != last) & (found == last)] = 6
    kinds[(true == found) & (true != last)] = 1
    kinds[BACKGROUND, BACKGROUND] = 0
    kinds[last, last] = 2
    ignored = np.full((1, number), IGNORED_KIND)
    return np.concatenate([kinds, ignored]).astype(np.uint8)


def error_colours(detector: Detector) -> tuple[str, ...]:
    """Returns the colour of each kind of `error_table`."""
    return (*ERROR_COLOURS, IGNORED_COLOUR) if detector.has_ignored else ERROR_COLOURS


def error_legend(detector: Detector) -> list[tuple[str, str]]:
    """Returns name and colour of the kinds that may be."""
    names = ERROR_NAMES
    if not _is_default(detector):
        last = OTHER_ERROR_NAMES.index("last class, right")
        names = [*OTHER_ERROR_NAMES]
        names[last] = f"{detector.classes[-1]}, right"
    named = [*zip(names, ERROR_COLOURS, strict=False)]
    there = np.unique(error_table(detector)).tolist()
    shown = [named[kind] for kind in there if kind < IGNORED_KIND]
    ignored = [("ignored", IGNORED_COLOUR)] if detector.has_ignored else []
    return shown + ignored


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
