"""Says what the images of a detector are: their planes, their classes, their sizes."""

import dataclasses
from functools import cached_property

IGNORED = 255
"""In place of a class: of a pixel that neither loss nor metrics count."""

ImageShape = tuple[int, int]
"""Rows H and columns W."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """Holds what networks, metrics and pictures need to know of a detector.

    Attributes:
      num_planes: P, images of an event.
      classes: names of the K classes in the order of their numbers; the first is the
        background.
      colours: of the classes in pictures, "#RRGGBB" each.
      plane_shapes: rows and columns of each plane's own pixels, which begin in the
        image's first row and column; None where all planes fill the image.
      has_ignored: whether labels may hold `IGNORED`.
    """

    num_planes: int = 3
    classes: tuple[str, ...] = ("background", "cosmic", "neutrino")
    colours: tuple[str, ...] = ("#C9CCD1", "#0072B2", "#D55E00")
    plane_shapes: tuple[ImageShape, ...] | None = None
    has_ignored: bool = False

    @property
    def num_classes(self) -> int:
        """Returns K."""
        return len(self.classes)

    @property
    def is_whole(self) -> bool:
        """Says whether every pixel of every image counts."""
        return not self.has_ignored and self.plane_shapes is None

    def shapes_of_planes(self, image_shape: ImageShape) -> tuple[ImageShape, ...]:
        """Returns rows and columns of each plane's own pixels in images of a shape."""
        return self.plane_shapes or (image_shape,) * self.num_planes

    @cached_property
    def class_metrics(self) -> tuple[str, ...]:
        """Returns the names of a plane's metrics of one class each, but background."""
        return tuple(f"{_capitalized(name)}_IoU" for name in self.classes[1:])

    @cached_property
    def plane_metrics(self) -> tuple[str, ...]:
        """Returns the names of a plane's metrics, CosmicTagger's for its classes."""
        return ("Total_Accuracy", *self.class_metrics, "Non_Bkg_Accuracy", "mIoU")

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """Returns the metrics of the planes' mean, then of each, in that order."""
        return tuple(
            f"{group}/{metric}"
            for group in ("Average", *(f"plane{p}" for p in range(self.num_planes)))
            for metric in self.plane_metrics
        )

    @cached_property
    def confusion_names(self) -> tuple[str, ...]:
        """Returns names of numbers of pixels by plane, true and predicted class."""
        return tuple(
            f"plane{plane}/{true}_as_{found}"
            for plane in range(self.num_planes)
            for true in self.classes
            for found in self.classes
        )


def _capitalized(name: str) -> str:
    return name[:1].upper() + name[1:]


COSMIC_TAGGER = Detector()
"""The images that CosmicTagger reads: three planes, background, cosmic, neutrino."""
