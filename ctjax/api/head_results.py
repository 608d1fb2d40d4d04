"""Takes what the heads of a network say out of what has been evaluated."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ctjax.base.errors import UserError
from ctjax.config.fields import Config
from ctjax.config.heads import active_heads
from ctjax.data.larcv.records import rows_first

if TYPE_CHECKING:
    from ctjax.api.evaluated import Evaluated


def check_head(config: Config, name: str) -> None:
    """Refuses a network without a head.

    Args:
      config: of the network.
      name: of the head, as in the section `network`.

    Raises:
      UserError: it has none.
    """
    if getattr(active_heads(config.network), name) is None:
        raise UserError(
            f"a network without that head, expected one that was trained with "
            f"network.{name}.active=True"
        )


def make_taker(name: str) -> Callable[..., np.ndarray]:
    """Returns what takes a result of an event, called as `images.score_image`."""

    def take(evaluated: "Evaluated", place: int, *_: Any) -> np.ndarray:
        return evaluated.results[name][place]

    return take


def in_cm(found: np.ndarray, metas: Any) -> np.ndarray:
    """Turns pixels into the unit of the images' geometry.

    Args:
      found: [P, 3] float32, row, column and score.
      metas: geometry of the P planes, as `EventSource.plane_metas` returns it.

    Returns:
      The same of the file's unit.
    """
    pixels, sizes, origin = rows_first(metas)
    position = origin + found[:, :2] * (sizes / pixels)
    return np.concatenate([position, found[:, 2:]], 1).astype(np.float32)
