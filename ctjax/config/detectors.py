"""Reads from a configuration what the images of its detector are."""

import re
from collections.abc import Sequence

from ctjax.base.detector import COSMIC_TAGGER, IGNORED, Detector, ImageShape
from ctjax.base.errors import ConfigError
from ctjax.config.fields import Data, Optimizer

MAX_PLANES = 64
"""Most planes of an event: a larger projection id is taken for damage."""

MAX_CLASSES = 16

DETECTOR_FIELDS = (
    *("image_product", "label_product", "planes"),
    *("classes", "label_map", "charge_scale"),
)
"""Fields of the data section that say what a file's events are."""

IGNORE = "ignore"
OTHER = "other"
"""In a label map: every label that is not named."""

COLOURS = (
    *COSMIC_TAGGER.colours,
    *("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B"),
    *("#F0E442", "#332288", "#882255", "#44AA99", "#999933", "#AA4499", "#117733"),
    "#661100",
)
"""Of classes that have none of their own, told apart by colour-blind readers as far as
there are few."""

LIGHT_WEIGHTS = (1.0, 1.5, 10.0)
"""CosmicTagger's weights of the loss light; further classes have the last one."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
_NUMBER = re.compile(r"\d{1,9}")
_LABEL = re.compile(r"-?\d{1,9}")


def read_detector(
    data: Data, plane_shapes: Sequence[ImageShape] | None = None
) -> Detector:
    """Says what the images of a configuration are.

    Args:
      data: the data section; where `planes` is not set there are three.
      plane_shapes: rows and columns of each plane's own pixels, where some do not fill
        the image.

    Raises:
      ConfigError: a field is not as its help says.
    """
    groups = read_planes(data)
    classes, colours = _read_classes(data.classes)
    return Detector(
        len(groups[0]) if groups else COSMIC_TAGGER.num_planes,
        classes,
        colours,
        tuple(plane_shapes) if plane_shapes else None,
        IGNORED in (read_label_map(data) or {}).values(),
    )


def check(data: Data, rule: Optimizer) -> None:
    """Checks the fields that say what events are.

    Raises:
      ConfigError: one is not as its help says.
    """
    detector = read_detector(data)
    read_class_weights(rule, detector.num_classes)
    if not 0 < data.charge_scale < float("inf"):
        raise ConfigError(
            f"data.charge_scale={data.charge_scale}: expected a number above 0"
        )
    if data.image_product == data.label_product:
        raise ConfigError(
            f"data.label_product={data.label_product}: expected another product than "
            "data.image_product"
        )


def read_planes(data: Data) -> list[tuple[int, ...]] | None:
    """Returns the projection ids of each entry that an event has; None where unset.

    Raises:
      ConfigError: they are no such lists, or not of one length.
    """
    if data.planes is None:
        return None
    groups = [_read_group(data.planes, group) for group in data.planes.split("/")]
    if len({len(group) for group in groups}) > 1:
        raise ConfigError(
            f"data.planes={data.planes}: expected as many planes in each entry"
        )
    return groups


def _read_group(planes: str, group: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in group.split(",")]
    are_planes = all(_NUMBER.fullmatch(number) for number in numbers)
    ids = tuple(map(int, numbers)) if are_planes else ()
    if not ids or max(ids) >= MAX_PLANES:
        raise ConfigError(
            f"data.planes={planes}: expected projection ids of 0 to "
            f"{MAX_PLANES - 1}, as 0,1,2, got {group!r}"
        )
    return ids


def name_planes(groups: Sequence[Sequence[int]]) -> str:
    """Returns the value of `data.planes` that stands for them."""
    return "/".join(",".join(map(str, group)) for group in groups)


def _read_classes(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns names and colours."""
    names, colours = [], []
    for number, item in enumerate(text.split(",")):
        name, sign, colour = item.strip().partition(":")
        if not sign:
            colour = COLOURS[number % len(COLOURS)]
        is_name = _NAME.fullmatch(name) and name != IGNORE
        if not is_name or not _COLOUR.fullmatch(colour):
            raise ConfigError(
                f"data.classes={text}: expected names as background,muon or "
                f"background,muon:#0072B2, got {item.strip()!r}"
            )
        names.append(name)
        colours.append(colour)
    if not 2 <= len(names) <= MAX_CLASSES or len({n.lower() for n in names}) < len(
        names
    ):
        raise ConfigError(
            f"data.classes={text}: expected 2 to {MAX_CLASSES} different names"
        )
    return tuple(names), tuple(colours)


def read_label_map(data: Data) -> dict[int | None, int] | None:
    """Returns the class, or `IGNORED`, of each stored label; None where unset.

    What is at None is the class of the labels that are not named.

    Raises:
      ConfigError: it is no such map.
    """
    if data.label_map is None:
        return None
    classes, _ = _read_classes(data.classes)
    numbers = {name: number for number, name in enumerate(classes)}
    numbers |= {str(number): number for number in range(len(classes))}
    numbers[IGNORE] = IGNORED
    found: dict[int | None, int] = {}
    for item in data.label_map.split(","):
        stored, _, name = (part.strip() for part in item.partition(":"))
        is_label = bool(_LABEL.fullmatch(stored))
        is_known = name in numbers and (is_label or stored == OTHER)
        label = int(stored) if is_label else None
        if not is_known or label in found:
            raise ConfigError(
                f"data.label_map={data.label_map}: expected each label once, as "
                f"3:{classes[-1]} or 65535:{IGNORE}, with classes of data.classes="
                f"{data.classes}, got {item.strip()!r}"
            )
        found[label] = numbers[name]
    return found


def read_class_weights(rule: Optimizer, num_classes: int) -> tuple[float, ...]:
    """Returns the weight of each class in the loss light.

    Raises:
      ConfigError: there is not one number for each.
    """
    text = rule.class_weights
    if text is None:
        more = num_classes - len(LIGHT_WEIGHTS)
        return (*LIGHT_WEIGHTS, *LIGHT_WEIGHTS[-1:] * more)[:num_classes]
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    are_weights = all(0 <= weight < float("inf") for weight in weights)
    if len(weights) != num_classes or not are_weights or not any(weights):
        raise ConfigError(
            f"mode.optimizer.class_weights={text}: expected {num_classes} numbers of "
            "at least 0, one for each class of data.classes, not all of them 0"
        )
    return weights
