"""Finds out whether weights are of the same network for another detector.

The number of classes is the size of the last layer alone, the number of planes that of
what joins the planes and parts them again.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from ctjax.base.detector import Detector

Path = tuple[str, ...]
"""Of a tensor in the variables, collection first."""

Shapes = Mapping[Path, tuple[int, ...]]

LAST_LAYERS = ("bottleneck", "out")
"""Modules of the networks themselves that make the scores of the classes."""

JOINING = ("bottleneck", "merger")
"""Modules of the deepest level that join the planes, by the inputs of their kernel."""


class Difference(NamedTuple):
    """Says in what weights differ from what a network wants.

    Attributes:
      line: it in words.
      is_of_last_layer: whether all the other tensors fit.
    """

    line: str
    is_of_last_layer: bool


def find(
    found: Shapes, expected: Shapes, ours: Detector, theirs: Detector | None = None
) -> Difference | None:
    """Compares the shapes of weights with those of a network.

    Args:
      found: of the weights.
      expected: of the network.
      ours: detector of the network.
      theirs: of the weights, where it is known.

    Returns:
      How another number of planes or classes explains all that differs; None where
      nothing differs, or something else.
    """
    if found.keys() != expected.keys():
        return None
    different = [path for path in expected if found[path] != expected[path]]
    last = [path for path in different if path[1] in LAST_LAYERS]
    others = [path for path in different if path[1] not in LAST_LAYERS]
    if others:
        planes = _find_planes(found, expected, others, ours.num_planes)
        if planes is None:
            return None
        line = (
            f"weights of {planes} planes, expected {ours.num_planes}, which are those "
            "of the events or of data.planes"
        )
        return Difference(line, is_of_last_layer=False)
    numbers = {found[path][-1] for path in last}
    is_alike = all(found[path][:-1] == expected[path][:-1] for path in last)
    if len(numbers) != 1 or not is_alike:
        return None
    number = numbers.pop()
    names = theirs.classes if theirs and theirs.num_classes == number else ()
    line = (
        f"weights of {number} classes{_in_brackets(names)}, expected the "
        f"{ours.num_classes} of data.classes{_in_brackets(ours.classes)}"
    )
    return Difference(line, is_of_last_layer=True)


def _in_brackets(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _find_planes(
    found: Shapes, expected: Shapes, different: list[Path], num_planes: int
) -> int | None:
    """Returns the number of planes that explains what differs."""
    ratios = set()
    for path in different:
        if len(found[path]) != len(expected[path]):
            return None
        sizes = list(zip(found[path], expected[path], strict=True))
        axes = [axis for axis, (size, other) in enumerate(sizes) if size != other]
        joins = any(name in path for name in JOINING)
        if len(axes) != 1 or (joins and axes[0] == len(sizes) - 1):
            return None
        ratios.add(Fraction(*sizes[axes[0]]) * num_planes)
    number = ratios.pop()
    return None if ratios or number.denominator != 1 else int(number)
