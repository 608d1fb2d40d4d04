"""Says what is read of a larcv3 file, and how."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ctjax.base.constants import CHARGE_LIMIT, IMAGE_PRODUCT, LABEL_PRODUCT
from ctjax.base.detector import COSMIC_TAGGER, IGNORED
from ctjax.data.larcv.errors import Place

_UNKNOWN = IGNORED - 1

_TABLE_SIZE = 2**16


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Holds the options of `LarcvFile`.

    Attributes:
      image_product: producer of the sparse2d product with the charges.
      label_product: of that with the classes.
      planes: projection ids of each entry that an event has, all of one length; None
        for one entry of all planes of the file.
      num_classes: K; the labels 0 to K - 1 are the classes where there is no map.
      label_map: class or `IGNORED` by stored label; at None that of all others.
      charge_scale: factor of the charges.
      charge_limit: refuse a larger charge of either sign, after the scale; never one
        that is not finite is read.
      skip_bad_events: leave it to `read_event` to refuse an event that is inconsistent
        in the tables, where else the file is refused.
      event_classes: read the kind of each event's neutrino, too.
      vertices: read the neutrino's vertex in each plane, too.
      require_label: refuse a file without the label product, or without those that the
        two before are of.
      strict: refuse, too, what larcv3 reads but would not have written.
      raw_chunks: False to read voxels through h5py only.
    """

    image_product: str = IMAGE_PRODUCT
    label_product: str = LABEL_PRODUCT
    planes: tuple[tuple[int, ...], ...] | None = None
    num_classes: int = COSMIC_TAGGER.num_classes
    label_map: Mapping[int | None, int] | None = None
    charge_scale: float = 1.0
    charge_limit: float = CHARGE_LIMIT
    skip_bad_events: bool = False
    event_classes: bool = False
    vertices: bool = False
    require_label: bool = False
    strict: bool = False
    raw_chunks: bool = True

    @property
    def stored_limit(self) -> float:
        """Returns the largest charge as it is stored, finite in float32."""
        most = float(np.finfo(np.float32).max)
        return min(self.charge_limit / abs(self.charge_scale), most)


def read_charges(
    values: np.ndarray, planes: Sequence[slice], options: ReadOptions, place: Place
) -> np.ndarray:
    """Checks stored charges and scales them.

    Args:
      values: [V] of any real type.
      planes: slices of them.
      options: of the file.
      place: of the charges, for errors.

    Returns:
      [V] float32.

    Raises:
      LarcvFileError: a charge is not finite, or beyond the limit.
    """
    # A dtype read from a file equals np.float32 but is not that object, which keeps
    # numpy off its fast loops: copy into an array of numpy's own.
    charges = np.empty(len(values), np.float32)
    with np.errstate(over="ignore"):
        charges[:] = values
    wrong = np.flatnonzero(~(np.abs(charges) <= options.stored_limit))
    if wrong.size:
        plane = [p.start <= wrong[0] < p.stop for p in planes].index(True)
        name = "data.charge_limit"
        if options.charge_scale != 1:
            name += f"={options.charge_limit:g}, data.charge_scale"
            name += f"={options.charge_scale:g}"
        place.fail(
            f"value {charges[wrong[0]]} in plane {plane}",
            f"finite charges up to {options.stored_limit:g} ({name})",
        )
    return scaled(charges, options)


def scaled(charges: np.ndarray, options: ReadOptions) -> np.ndarray:
    """Multiplies charges by the scale."""
    scale = np.float32(options.charge_scale)
    return charges if scale == 1 else charges * scale


def read_classes(values: np.ndarray, options: ReadOptions, place: Place) -> np.ndarray:
    """Turns stored labels into classes.

    Args:
      values: [V] of any real type.
      options: of the file.
      place: of the labels, for errors.

    Returns:
      [V] uint8.

    Raises:
      LarcvFileError: a label is no class, and no map says what it is.
    """
    if options.label_map is None:
        with np.errstate(invalid="ignore"):
            classes = values.astype(np.uint8)
        wrong = (classes != values) | (classes >= options.num_classes)
        expected = f"classes 0 to {options.num_classes - 1}"
    else:
        classes = _mapped(values, options.label_map)
        wrong = classes == _UNKNOWN
        named = sorted(label for label in options.label_map if label is not None)
        expected = f"labels {', '.join(map(str, named))}"
    if wrong.any():
        found = f"value {values[wrong][0]:g}"
        place.fail(found, f"{expected} (data.classes, data.label_map)")
    return classes


def _mapped(values: np.ndarray, label_map: Mapping[int | None, int]) -> np.ndarray:
    """Looks labels up; _UNKNOWN for those that have no class."""
    other = label_map.get(None, _UNKNOWN)
    table = np.full(_TABLE_SIZE + 1, other, np.uint8)
    larger = {}
    for label, number in label_map.items():
        if label is not None and 0 <= label < _TABLE_SIZE:
            table[label] = number
        elif label is not None:
            larger[label] = number
    is_whole = values == np.floor(values)
    is_label = (values >= 0) & (values < _TABLE_SIZE) & is_whole
    # Never an index that numpy would have to convert from what is no number.
    classes = table[np.where(is_label, values, _TABLE_SIZE).astype(np.int64)]
    for label, number in larger.items():
        classes[values == label] = number
    classes[~is_whole | ~np.isfinite(values)] = _UNKNOWN
    return classes
