"""Prints what larcv3 files hold, and what to type to train on them."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.base.errors import UserError
from ctjax.commands import suggested_fields
from ctjax.commands.suggested_fields import Suggestion
from ctjax.data.larcv import listing
from ctjax.data.larcv.errors import LarcvFileError
from ctjax.data.larcv.listed_images import Geometry, Images, Plane
from ctjax.data.larcv.listing import Listing, Product

INDENT = "  "
WRONG = "! "
"""Before what is wrong, at the place where it is."""

INDEX_TABLES = ("extents", "image_meta")
"""Not counted in the line about a product that is no image."""

MAX_IDS = 20
"""Projection ids in one line; of more the number is told."""


def print_listings(paths: Sequence[str]) -> None:
    """Prints what each file holds.

    Args:
      paths: of files.

    Raises:
      UserError: about the files that are no larcv3 files, after the others.
    """
    width = shutil.get_terminal_size().columns
    listed, refused = 0, []
    for path in paths:
        try:
            found = listing.read(path)
        except LarcvFileError as error:
            refused.append(str(error))
            continue
        _print([*[""] * bool(listed), *describe(found, width)])
        listed += 1
    if refused:
        raise UserError("; ".join(refused))


def _print(lines: Iterable[str]) -> None:
    """Writes lines; on a terminal titles are bold, and what is wrong is red."""
    if not sys.stdout.isatty():
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    from rich import console  # slow to import, and not for pipes

    screen = console.Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for line in lines:
        style = "bold" if line and not line.startswith(" ") else ""
        style = "red" if line.lstrip().startswith(WRONG) else style
        screen.print(line, style=style, markup=False, emoji=False)


def describe(found: Listing, width: int) -> list[str]:
    """Returns the lines about a file.

    Args:
      found: what it holds.
      width: columns of the terminal, to which text is wrapped; paths and what is to be
        typed are not.
    """
    suggestion = suggested_fields.suggest(found)
    events = (
        "events" if found.num_events is None else _number(found.num_events, "event")
    )
    lines = [f"{found.path}: {_size(found.num_bytes)}, {events}"]
    lines += _wrap(_describe_ids(found), width)
    lines += _describe_problems(found.problems, width)
    others = []

    def rank(product: Product) -> int:
        chosen = suggestion.image, suggestion.label
        return chosen.index(product) if product in chosen else len(chosen)

    for product in sorted(found.products, key=rank):
        if product.kind == "sparse2d":
            lines += ["", *_describe_images(product, suggestion, width)]
        else:
            others += _describe_other(product, width)
    if others:
        lines += ["", "Other products", *others]
    lines += ["", *_describe_suggestion(found, suggestion, width)]
    return [_printable(line) for line in lines]


def _describe_ids(found: Listing) -> str:
    if found.event_ids and not any(found.event_ids.values()):
        return "run, subrun and event were never set"
    parts = []
    for name, span in found.event_ids.items():
        if span is None:
            parts.append(f"{name} never set")
        else:
            parts.append(f"{name} {_range(*span)}")
    return ", ".join(parts)


def _describe_images(
    product: Product, suggestion: Suggestion, width: int
) -> Iterator[str]:
    """Describes a sparse2d product."""
    images = product.images
    if images is None:
        yield f"{product.name} (sparse2d)"
        yield from _describe_problems(product.problems, width)
        return
    is_label = images.labels is not None and suggested_fields.is_label(product)
    kind = "labels" if is_label else "charges or other values"
    kind = "charges" if product is suggestion.image else kind
    yield f"{product.name} (sparse2d): {kind}, {_number(images.num_voxels, 'voxel')}"
    yield from _describe_problems((*product.problems, *images.problems), width)
    yield from _plane_table(images, has_values=not is_label)
    if is_label:
        yield ""
        yield from _label_table(images, product is suggestion.label, width)
    notes = []
    if images.repeats > 1:
        notes.append(f"images of each plane in an event: {images.repeats}")
    if images.num_empty:
        notes.append(f"events without a voxel: {images.num_empty:,}")
    for plane in images.planes:
        absent = images.num_events - plane.num_images
        if absent > images.num_empty:
            notes.append(f"events without plane {plane.projection}: {absent:,}")
    notes += _describe_geometry(images)
    if images.num_sampled_voxels < images.num_voxels:
        notes.append(
            f"values are of {_number(images.num_sampled_voxels, 'voxel')} in "
            f"{_number(images.num_sampled_events, 'event')} spread over the file"
        )
    for note in notes:
        yield from _wrap(note, width)


def _plane_table(images: Images, has_values: bool) -> list[str]:
    headings = ["plane", "wires x ticks", "voxels", "most/event", "empty"]
    if has_values:
        headings += ["lowest", "mean", "highest"]
    rows = []
    for plane in images.planes:
        size = "not known" if plane.size is None else "{} x {}".format(*plane.size)
        empty = images.num_events - plane.num_images + plane.num_empty
        row = [f"{plane.projection}", size, f"{plane.num_voxels:,}"]
        row += [f"{plane.most_voxels:,}", f"{empty:,}"]
        if has_values and plane.values is not None:
            numbers = plane.values.lowest, plane.values.mean, plane.values.highest
            row += [f"{number:.4g}" for number in numbers]
        rows.append(row)
    return _table(headings, rows)


def _label_table(images: Images, is_chosen: bool, width: int) -> list[str]:
    """Tables the voxels of each label, by plane where there is room."""
    counts = images.labels or {}
    classes = COSMIC_TAGGER.classes
    are_classes = is_chosen and set(counts) <= set(range(len(classes)))
    headings = ["label", *["class"] * are_classes, "voxels", "share"]
    total = max(1, sum(counts.values()))
    rows = []
    for label, count in counts.items():
        row = [f"{label}", *[classes[label] for _ in range(are_classes)]]
        rows.append([*row, f"{count:,}", f"{100 * count / total:.1f} %"])
    wide = [*headings, *(f"plane {plane.projection}" for plane in images.planes)]
    labels = [plane.values.labels if plane.values else {} for plane in images.planes]
    wide_rows = [
        [*row, *(f"{(of_plane or {}).get(label, 0):,}" for of_plane in labels)]
        for row, label in zip(rows, counts, strict=True)
    ]
    table = _table(wide, wide_rows)
    return table if len(table[0]) <= width else _table(headings, rows)


def _describe_geometry(images: Images) -> Iterator[str]:
    """Describes image_sizes and origin, planes of the same together."""
    planes: dict[Geometry, list[Plane]] = {}
    for plane in images.planes:
        if plane.geometry is not None:
            planes.setdefault(plane.geometry, []).append(plane)
    for (sizes, origin), same in planes.items():
        ids = ", ".join(str(plane.projection) for plane in same[:MAX_IDS])
        who = f"plane{'' if len(same) == 1 else 's'} {ids}"
        who = "all planes" if len(same) == len(images.planes) else who
        yield (
            f"image_sizes {sizes[0]:.6g} x {sizes[1]:.6g}, origin {origin[0]:.6g}, "
            f"{origin[1]:.6g}: {who}"
        )


def _describe_other(product: Product, width: int) -> Iterator[str]:
    if not product.kind:
        yield from _wrap(f"{product.name}: no product of larcv3", width)
    else:
        tables = (
            f"{name} {number:,}"
            for name, number in product.rows.items()
            if name not in INDEX_TABLES
        )
        number = product.num_events
        events = "no table of events" if number is None else _number(number, "event")
        text = "; ".join((events, *tables))
        yield from _wrap(f"{product.name} ({product.kind}): {text}", width)
    yield from _describe_problems(product.problems, width)


def _describe_problems(problems: Iterable[str], width: int) -> Iterator[str]:
    for problem in problems:
        yield from _wrap(f"{WRONG}{problem}", width)


def _describe_suggestion(
    found: Listing, suggestion: Suggestion, width: int
) -> Iterator[str]:
    """Says what to type."""
    if suggestion.obstacle:
        yield "Not to be trained on"
        yield from _wrap(suggestion.obstacle, width)
        return
    has_labels = suggestion.label is not None
    fields = {"data.file": found.path, **suggestion.fields}
    words = ["ctjax", "train"]
    if not has_labels:
        words = ["ctjax", "infer"]
        fields["mode.weights_location"] = "RUN"
    words += [f"{name}={value}" for name, value in fields.items()]
    yield "To train on it" if has_labels else "To predict on it"
    yield f"{INDENT}{shlex.join(words)}"
    for note in suggestion.notes:
        yield from _wrap(f"- {note}", width)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns columns to the right, their headings with them."""
    table = [headings, *rows]
    widths = [
        max(len(row[column]) for row in table if column < len(row))
        for column in range(len(headings))
    ]
    return [
        INDENT
        + "  ".join(cell.rjust(size) for cell, size in zip(row, widths, strict=False))
        for row in table
    ]


def _wrap(text: str, width: int) -> list[str]:
    """Wraps a text; lines behind the first stand below it."""
    mark = text.startswith((WRONG, "- "))
    return textwrap.wrap(
        _printable(text),
        max(40, width),
        initial_indent=INDENT,
        subsequent_indent=INDENT * (2 if mark else 1),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _number(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _range(lowest: int, highest: int) -> str:
    return str(lowest) if lowest == highest else f"{lowest} to {highest}"


def _size(num_bytes: int) -> str:
    size, unit = float(num_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.4g} {unit}"


def _printable(line: str) -> str:
    """Escapes what a damaged name has in it, such as a line break."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in line
    )
