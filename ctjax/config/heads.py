"""Declares the options of the two heads of a network, and says what they report."""

import dataclasses

from ctjax.base.detector import Detector
from ctjax.base.errors import ConfigError
from ctjax.config.architecture import AnyNetwork
from ctjax.config.option import option

NEUTRINO_CLASS = "neutrino"
"""Name of the class of pixels that say whether an event shows its neutrino."""

EVENT_LABEL = "EventLabel"
VERTEX_METRICS = ("VertexDetection", "VertexResolution")
"""The latter in cm, not a number for an event without a vertex."""

TOTAL_LOSS = "loss/total"


@dataclasses.dataclass(frozen=True)
class Classification:
    """Options of the head that tells the class of an event."""

    active: bool = option(False, "have a head that tells the class of an event")
    detach: bool = option(
        True, "its gradient stops before the rest of the network", keeps_parameters=True
    )
    weight: float = option(0.01, "weight of its loss", 0, keeps_parameters=True)
    n_filters: int = option(128, "its features", 1)
    n_layers: int = option(4, "its blocks", 0)


@dataclasses.dataclass(frozen=True)
class Vertex:
    """Options of the head that finds the vertex in each plane."""

    active: bool = option(False, "have a head that finds the vertex in each plane")
    detach: bool = option(
        True, "its gradient stops before the rest of the network", keeps_parameters=True
    )
    depth: int = option(
        2,
        "levels above the deepest one, whose output on the way up it takes: of "
        "network.depth it takes the whole image",
        0,
    )
    weight: float = option(1.0, "weight of its losses", 0, keeps_parameters=True)
    n_layers: int = option(4, "its blocks", 0)
    n_filters: int = option(128, "its features", 1)
    l_det: float = option(
        0.1,
        "weight of the loss of which cell the vertex is in",
        0,
        keeps_parameters=True,
    )
    l_coord: float = option(
        0.1, "weight of the loss of where in its cell it is", 0, keeps_parameters=True
    )


@dataclasses.dataclass(frozen=True)
class Heads:
    """Options of the networks that may have heads; the defaults are v2.1's."""

    classification: Classification = dataclasses.field(default_factory=Classification)
    vertex: Vertex = dataclasses.field(default_factory=Vertex)


@dataclasses.dataclass(frozen=True)
class ActiveHeads:
    """Holds the heads that a network has.

    Attributes:
      classification: of the event's class; None for none.
      vertex: of the vertex; None for none.
      halvings: how often a cell of the vertex's map doubles the side of a pixel.
    """

    classification: Classification | None = None
    vertex: Vertex | None = None
    halvings: int = 0

    def __bool__(self) -> bool:
        """Says whether there is one."""
        return self.classification is not None or self.vertex is not None


NO_HEADS = ActiveHeads()


def active_heads(network: AnyNetwork) -> ActiveHeads:
    """Returns the heads that the options of a network ask for."""
    if not isinstance(network, Heads):
        return NO_HEADS
    vertex = network.vertex if network.vertex.active else None
    depth: int = getattr(network, "depth")  # noqa: B009
    return ActiveHeads(
        network.classification if network.classification.active else None,
        vertex,
        0 if vertex is None else depth - vertex.depth,
    )


def metric_names(heads: ActiveHeads, num_planes: int) -> tuple[str, ...]:
    """Returns the names of what the heads' metrics are, behind those of the pixels."""
    names = () if heads.classification is None else (f"Average/{EVENT_LABEL}",)
    if heads.vertex is None:
        return names
    groups = ("Average", *(f"plane{plane}" for plane in range(num_planes)))
    return (*names, *(f"{g}/{metric}" for g in groups for metric in VERTEX_METRICS))


def loss_names(heads: ActiveHeads) -> tuple[str, ...]:
    """Returns the names of the parts of the loss, and of their sum; none without."""
    if not heads:
        return ()
    names = ["segmentation"]
    if heads.classification is not None:
        names.append("event_label")
    if heads.vertex is not None:
        names += ["vertex/detection", "vertex/localization"]
    return (*(f"loss/{name}" for name in names), TOTAL_LOSS)


def check(network: AnyNetwork, detector: Detector, learns_synthetic: bool) -> None:
    """Refuses heads that cannot work.

    Args:
      network: options of the network.
      detector: whose events are read.
      learns_synthetic: whether a training is to learn from synthetic ones.

    Raises:
      ConfigError: the message names the field.
    """
    heads = active_heads(network)
    for name, head in (
        ("classification", heads.classification),
        ("vertex", heads.vertex),
    ):
        if head is None:
            continue
        if learns_synthetic:
            raise ConfigError(
                f"network.{name}.active: expected False with data.synthetic=True: its "
                "events have no class and no vertex"
            )
        if NEUTRINO_CLASS not in detector.classes:
            raise ConfigError(
                f"network.{name}.active: expected a class {NEUTRINO_CLASS} in "
                f"data.classes, got {','.join(detector.classes)}"
            )
