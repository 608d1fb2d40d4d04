"""Makes of arrays what a network takes, and arrays of what it says."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ctjax.base.constants import BACKGROUND
from ctjax.base.errors import UserError
from ctjax.data.given_events import voxels_of
from ctjax.data.minibatch import HostMinibatch, images_of_event
from ctjax.data.voxels import Voxels
from ctjax.models import PixelNetwork

if TYPE_CHECKING:
    from ctjax.api.evaluated import Evaluated


def given_voxels(
    charge: Any, num_planes: int
) -> tuple[list[Voxels], tuple[int, int], bool]:
    """Checks charges and lists their pixels.

    Args:
      charge: [P, H, W] or [B, P, H, W] of a real type.
      num_planes: P.

    Returns:
      The pixels of each event that are not 0, (H, W), and whether it is one event.

    Raises:
      UserError: another shape or type, or a charge that is not finite in float32.
    """
    array = np.asarray(charge)
    if array.dtype.kind not in "fiu":
        raise UserError(f"charge: expected real numbers, got {array.dtype}")
    has_shape = array.ndim in (3, 4) and array.shape[-3] == num_planes
    if not has_shape or not array.size:
        raise UserError(
            f"charge: expected [{num_planes}, H, W] or [B, {num_planes}, H, W], got "
            f"{list(array.shape)}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    is_bad = ~np.isfinite(array)
    if is_bad.any():
        first = np.argwhere(is_bad)[0].tolist()
        raise UserError(
            f"charge: expected finite numbers, got {array[tuple(first)]} at {first}"
        )
    events = array.reshape(-1, *array.shape[-3:])
    height, width = array.shape[-2:]
    return [voxels_of(event) for event in events], (height, width), array.ndim == 3


def pad_to_network(minibatch: HostMinibatch, model: PixelNetwork) -> HostMinibatch:
    """Adds rows and columns of zeros to images that the network does not take."""
    if minibatch.image is None or minibatch.label is None:
        return minibatch  # sites, of which no image is made
    added = added_to_network(minibatch.image.shape[-2:], model)
    if not any(added):
        return minibatch
    widths = [(0, 0), (0, 0), *((0, number) for number in added)]
    image, label = (np.pad(a, widths) for a in (minibatch.image, minibatch.label))
    return minibatch._replace(image=image, label=label)


def added_to_network(shape: tuple[int, ...], model: PixelNetwork) -> list[int]:
    """Returns how many rows and columns images need beyond theirs, (H, W)."""
    divisor, smallest, _ = model.image_rule()
    return [max(smallest, -(-size // divisor) * divisor) - size for size in shape]


def score_image(
    evaluated: "Evaluated", place: int, shape: tuple[int, int], is_masked: bool
) -> np.ndarray:
    """Makes the scores of an event, see `Tagger.predict`.

    Args:
      evaluated: its minibatch.
      place: of the event in it.
      shape: (H, W).
      is_masked: whether pixels without charge are background.

    Returns:
      [P, H, W, K] float32. Pixels that are no sites of a sparse network have the
      scores of equal logits.
    """
    num_classes = evaluated.results["score"].shape[-1]
    equal = np.float32(1 / num_classes)
    score = _image_of("score", evaluated, place, shape, (num_classes,), equal)
    if is_masked:
        is_empty = _image_of("image", evaluated, place, shape, (), np.float32(0)) == 0
        score[is_empty] = np.arange(num_classes) == BACKGROUND
    return score


def class_image(
    evaluated: "Evaluated", place: int, shape: tuple[int, int], is_masked: bool
) -> np.ndarray:
    """Makes the classes of an event, [P, H, W] uint8; arguments as `score_image`.

    The step has masked them; pixels that are no sites are background in any case.
    """
    background = np.uint8(BACKGROUND)
    return _image_of("prediction", evaluated, place, shape, (), background)


def _image_of(
    name: str,
    evaluated: "Evaluated",
    place: int,
    shape: tuple[int, int],
    more: tuple[int, ...],
    elsewhere: np.generic,
) -> np.ndarray:
    """Makes an image of its own, [P, H, W, *more], of one of the step's results."""
    if evaluated.minibatch.sites is None:
        return evaluated.results[name][place].copy()
    site_ids = evaluated.minibatch.site_ids
    assert site_ids is not None
    spans = images_of_event(evaluated.minibatch, place)
    image = np.full((len(spans), *shape, *more), elsewhere)
    for plane, (part, span) in enumerate(spans):
        columns, rows = np.divmod(site_ids[part, span], shape[0])
        image[plane, rows, columns] = evaluated.results[name][part, span]
    return image
