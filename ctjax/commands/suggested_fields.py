"""Says what to type to train on a file: the fields that are not as their defaults."""

import dataclasses
import math

from ctjax.base.constants import CHARGE_LIMIT, IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config.detectors import IGNORE, MAX_CLASSES, OTHER, name_planes
from ctjax.data.larcv.listed_images import Images
from ctjax.data.larcv.listing import Listing, Product

USUAL_CHARGE = 10.0
"""About the median charge of CosmicTagger's public events."""

MAX_MEDIAN = 1000.0
"""A larger median is of another unit, such as electrons."""

NO_CLASS = {255, 999, 32767, 65535, 2**31 - 1, 2**32 - 1}
"""Labels that stand for none: the largest numbers of their types."""

LABEL_WORDS = ("seg", "label", "class", "truth", "sem")
"""Parts of names that labels have."""


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Says how to train on a file.

    Attributes:
      fields: name to value, of those that are needed.
      image: the product of the charges; None where there is none.
      label: the product of the labels; None where there is none.
      notes: a line about each thing to decide.
      obstacle: why nothing can be read of the file, or "".
    """

    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    image: Product | None = None
    label: Product | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    obstacle: str = ""


def suggest(listing: Listing) -> Suggestion:
    """Says what a configuration has to say of a file."""
    readable = [p for p in listing.products if p.images is not None and p.images.planes]
    labels = [product for product in readable if is_label(product)]
    charges = [product for product in readable if product not in labels]
    image = _choose(charges, IMAGE_PRODUCT, ())
    label = _choose(labels, LABEL_PRODUCT, LABEL_WORDS)
    if image is None or image.images is None:
        return Suggestion(obstacle="no sparse2d product has charges that can be read")
    made = Suggestion(image=image, label=label)
    for name, default, chosen, others in (
        ("data.image_product", IMAGE_PRODUCT, image, charges),
        ("data.label_product", LABEL_PRODUCT, label, labels),
    ):
        if chosen is not None and chosen.name != default:
            made.fields[name] = chosen.name
            if len(others) > 1:
                names = ", ".join(p.name for p in others if p is not chosen)
                made.notes.append(f"{name} could be another: {names}")
    if label is None or label.images is None:
        made.notes.append("there are no labels: the file is for inference")
    elif label.images.labels is not None:
        _suggest_classes(made, label.images.labels)
    elif any(plane.values for plane in label.images.planes):
        made.notes.append(f"{label.name}: values that are no few whole numbers")
    obstacle = _suggest_planes(made, image.images, label.images if label else None)
    _suggest_charges(made, image.images)
    bad = _suggest_events(made, listing)
    if listing.problems or image.problems or (label and label.problems):
        obstacle = "see what is wrong above"
    elif len(bad) == listing.num_events:
        obstacle = "something is wrong with each of its events"
    return dataclasses.replace(made, obstacle=obstacle)


def is_label(product: Product) -> bool:
    """Says whether a product has labels, and not charges."""
    if product.name in (IMAGE_PRODUCT, LABEL_PRODUCT):
        return product.name == LABEL_PRODUCT
    return product.images is not None and product.images.labels is not None


def _choose(
    products: list[Product], default: str, words: tuple[str, ...]
) -> Product | None:
    """Chooses a product: the default, or by its name, or the one with most voxels."""

    def rank(product: Product) -> tuple[bool, bool, int]:
        voxels = product.images.num_voxels if product.images else 0
        has_word = any(word in product.name.lower() for word in words)
        return product.name == default, has_word, voxels

    return max(products, key=rank, default=None)


def _suggest_planes(made: Suggestion, image: Images, label: Images | None) -> str:
    """Suggests the planes that both products have, and returns what is in the way."""
    sizes = {plane.projection: plane.size for plane in image.planes}
    # As find_planes has it: what few events have is not read without being named.
    most = max(plane.num_images for plane in image.planes)
    rare = [p.projection for p in image.planes if 2 * p.num_images < most]
    planes = [plane for plane in sizes if plane not in rare]
    if rare:
        made.notes.append(f"few events have planes {', '.join(map(str, rare))}")
    if label is not None:
        others = {plane.projection: plane.size for plane in label.planes}
        common = [p for p in planes if p in others and sizes[p] == others[p]]
        if not common:
            return "no plane has labels of its size"
        if label.repeats != image.repeats:
            return f"{image.repeats} images of a plane have {label.repeats} of labels"
        if len(common) < len(planes):
            made.notes.append("other planes have no labels of their size")
        planes = common
    number = len(planes)
    if image.repeats > 1:
        entries, one = [planes] * image.repeats, [planes * image.repeats]
        made.fields["data.planes"] = name_planes(entries)
        made.notes.append(
            f"data.planes={name_planes(one)} makes one entry of each event, instead of "
            f"{image.repeats}"
        )
    elif list(sizes) != list(range(number)) or number < len(sizes):
        made.fields["data.planes"] = name_planes([planes])
    elif number > 3 and number % 3 == 0:
        groups = [planes[first : first + 3] for first in range(0, number, 3)]
        made.notes.append(
            f"data.planes={name_planes(groups)} makes {len(groups)} entries of each "
            f"event, one of each three planes, instead of one of {number}"
        )
    return ""


def _suggest_classes(made: Suggestion, counts: dict[int, int]) -> None:
    """Suggests classes and a map where the labels are not the default's."""
    classes = COSMIC_TAGGER.classes
    if set(counts) <= set(range(len(classes))):
        return
    ignored = {label for label in counts if label in NO_CLASS or label < 0}
    kept = sorted(set(counts) - ignored)
    if len(set(kept) | {0}) > MAX_CLASSES:
        made.notes.append(
            f"more than {MAX_CLASSES} labels: data.label_map has to say which are one "
            "class"
        )
        return
    names = dict(enumerate(classes))
    if set(kept) - set(names):
        last = max(kept)
        kept = list(range(last + 1)) if last < MAX_CLASSES else sorted({0, *kept})
        names = {label: f"class{label}" for label in kept} | {0: classes[0]}
        made.fields["data.classes"] = ",".join(names[label] for label in kept)
        made.notes.append(
            "the classes' names are made up; 0 is taken for the background, the class "
            "of pixels without charge"
        )
    else:
        kept = list(names)
    if ignored or kept != list(range(len(kept))):
        items = [f"{label}:{names[label]}" for label in kept]
        items += [f"{label}:{IGNORE}" for label in sorted(ignored) if label >= 0]
        if min(ignored, default=0) < 0:
            items.append(f"{OTHER}:{IGNORE}")
        made.fields["data.label_map"] = ",".join(items)
    for label in sorted(ignored):
        made.notes.append(f"label {label} is taken for no class, which is not counted")


def _suggest_charges(made: Suggestion, image: Images) -> None:
    """Suggests a scale for charges in another unit, and the logarithm's sign."""
    values = [plane.values for plane in image.planes if plane.values is not None]
    if not values:
        return
    median = max(value.median_size for value in values)
    highest = max(max(abs(value.lowest), abs(value.highest)) for value in values)
    if median > MAX_MEDIAN:
        power = round(math.log10(USUAL_CHARGE / median))
        made.fields["data.charge_scale"] = f"1e{power}"
        highest *= 10.0**power
        made.notes.append(
            f"half of the charges are above {median:.3g}, those of CosmicTagger's "
            f"events above {USUAL_CHARGE:g}"
        )
    if highest > CHARGE_LIMIT:
        made.notes.append(
            f"charges up to {highest:.3g} need data.charge_limit, or are damage"
        )
    if min(value.lowest for value in values) < 0:
        made.notes.append(
            "charges of both signs: data.img_transform=True feeds sign(c) log(1 + |c|)"
        )


def _suggest_events(made: Suggestion, listing: Listing) -> frozenset[int]:
    """Suggests to leave out what is wrong, and returns those entries."""
    products = (made.image, made.label)
    bad = frozenset(
        entry
        for product in products
        if product is not None and product.images is not None
        for entry in product.images.bad_entries
    )
    if bad and len(bad) != listing.num_events:
        made.fields["data.on_bad_event"] = "skip"
        made.notes.append(f"entries that are left out: {len(bad):,} were found bad")
    return bad
