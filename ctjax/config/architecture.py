"""Names the networks there are, and the options that every network has."""

import dataclasses
import enum

from ctjax.config.option import option


class Architecture(enum.Enum):
    """Which network computes the classes of the pixels."""

    URESNET = "uresnet"
    URESNET_V21 = "uresnet_v21"
    URESNET3D = "uresnet3d"
    URESNET_TENSORFLOW = "uresnet_tensorflow"
    URESNET_SPARSE = "uresnet_sparse"
    SEGFORMER = "segformer"
    CVT = "cvt"


ARCHITECTURE = "which network; the other fields of this section are those it reads"
NAME = "name of the network; part of output_dir"


@dataclasses.dataclass(frozen=True)
class AnyNetwork:
    """Options of every network. Each has a subclass with those that it alone reads."""

    architecture: Architecture = option(Architecture.URESNET, ARCHITECTURE)
    name: str = option("uresnet", NAME, keeps_parameters=True)
    weight_decay: float = option(
        0.0,
        "decoupled weight decay of the kernels (CosmicTagger's torch has none)",
        0,
        keeps_parameters=True,
    )
