"""Declares the options of the networks beside UResNet, and whose section is which."""

import dataclasses

from ctjax.base.errors import ConfigError
from ctjax.config.architecture import ARCHITECTURE, NAME, AnyNetwork, Architecture
from ctjax.config.choices import BlockStyle, Kernels, Normalization
from ctjax.config.fields import (
    BLOCK_CONCAT,
    FILTER_SIZE_DEEPEST,
    KERNELS,
    RESIDUAL,
    AnyUResNet,
    DenseUResNet,
    MasterUResNet,
    Network,
)
from ctjax.config.heads import Heads, active_heads
from ctjax.config.option import option


@dataclasses.dataclass(frozen=True)
class UResNetV21(Heads, DenseUResNet):
    """Options of the 2D UResNet of CosmicTagger v2.1, with its defaults."""

    architecture: Architecture = option(Architecture.URESNET_V21, ARCHITECTURE)
    name: str = option("uresnet_v21", NAME, keeps_parameters=True)
    depth: int = option(7, "how often the network halves the image", 1)
    block_style: BlockStyle = option(
        BlockStyle.RESIDUAL, "what blocks are: one convolution, two and a sum, ConvNeXt"
    )
    kernel_size: int = option(
        3, "kernel size of the blocks, also of the deepest level; an odd number", 1
    )
    depthwise: bool = option(
        False, "the first convolution of a ConvNeXt block takes each feature alone"
    )
    kernels: Kernels = option(Kernels.AUTO, KERNELS, keeps_parameters=True)


@dataclasses.dataclass(frozen=True)
class UResNet3D(MasterUResNet):
    """Options of the UResNet of 3D convolutions, those of CosmicTagger's uresnet3d."""

    architecture: Architecture = option(Architecture.URESNET3D, ARCHITECTURE)
    name: str = option("uresnet3d", NAME, keeps_parameters=True)


@dataclasses.dataclass(frozen=True)
class UResNetTensorFlow(Heads, MasterUResNet):
    """Options of the UResNet of CosmicTagger's TensorFlow code."""

    architecture: Architecture = option(Architecture.URESNET_TENSORFLOW, ARCHITECTURE)
    name: str = option("uresnet_tensorflow", NAME, keeps_parameters=True)
    block_concat: bool = option(False, BLOCK_CONCAT)


@dataclasses.dataclass(frozen=True)
class UResNetSparse(Heads, AnyUResNet):
    """Options of the sparse UResNet, with the defaults of the one on images."""

    architecture: Architecture = option(Architecture.URESNET_SPARSE, ARCHITECTURE)
    name: str = option("uresnet_sparse", NAME, keeps_parameters=True)
    filter_size_deepest: int = option(5, FILTER_SIZE_DEEPEST, 1)
    residual: bool = option(True, RESIDUAL)


@dataclasses.dataclass(frozen=True)
class SegFormer(AnyNetwork):
    """Options of the SegFormer; the defaults are those of CosmicTagger v2.1."""

    architecture: Architecture = option(Architecture.SEGFORMER, ARCHITECTURE)
    name: str = option("segformer", NAME, keeps_parameters=True)
    in_dims: tuple[int, ...] = option((32, 64, 160, 256), "features of each stage", 1)
    depths: tuple[int, ...] = option((2, 2, 2, 2), "blocks of each stage", 0)
    num_heads: tuple[int, ...] = option(
        (1, 2, 5, 8), "attention heads of each stage, which divide its features", 1
    )
    sr_ratios: tuple[int, ...] = option(
        (8, 2, 4, 1), "how much smaller the map is that each stage attends to", 1
    )
    mlp_ratios: tuple[int, ...] = option(
        (4, 4, 4, 4), "how much wider each stage is within its blocks", 1
    )
    decoder_dim: int = option(256, "features of the decoder", 1)


@dataclasses.dataclass(frozen=True)
class CvT(AnyNetwork):
    """Options of the convolutional vision transformer, those of CosmicTagger v2.1."""

    architecture: Architecture = option(Architecture.CVT, ARCHITECTURE)
    name: str = option("cvt", NAME, keeps_parameters=True)
    layer_embed: tuple[int, ...] = option(
        (32, 64, 64), "features of each level, from the top", 1
    )
    blocks: tuple[int, ...] = option(
        (2, 2, 2), "attention blocks of each level, on the way down and up again", 0
    )
    num_heads: tuple[int, ...] = option(
        (2, 8, 8), "attention heads of each level, which divide its features", 1
    )
    deepest_width: int = option(128, "features of the deepest level", 1)
    deepest_heads: int = option(
        8, "attention heads of the deepest level, which divide its features", 1
    )


SECTIONS: dict[Architecture, type[AnyNetwork]] = {
    Architecture.URESNET: Network,
    Architecture.URESNET_V21: UResNetV21,
    Architecture.URESNET3D: UResNet3D,
    Architecture.URESNET_TENSORFLOW: UResNetTensorFlow,
    Architecture.URESNET_SPARSE: UResNetSparse,
    Architecture.SEGFORMER: SegFormer,
    Architecture.CVT: CvT,
}
"""The options that each architecture reads."""


def field_names(section: type[AnyNetwork]) -> list[str]:
    """Returns the names of the options that a network reads."""
    return [field.name for field in dataclasses.fields(section)]


def check_reads(section: type[AnyNetwork], name: str) -> None:
    """Refuses the name of an option that other networks read, but not this one.

    Args:
      section: of the network.
      name: of a field, within the section; may be of no network at all.

    Raises:
      ConfigError: the message names the field and those who read it.
    """
    readers = {
        architecture.value
        for architecture, other in SECTIONS.items()
        if name in field_names(other)
    }
    own = next(known for known, other in SECTIONS.items() if other is section)
    if readers and own.value not in readers:
        raise ConfigError(
            f"network.{name}: not read by network.architecture={own.value}; it is of "
            f"{', '.join(sorted(readers))}"
        )


def check(network: AnyNetwork) -> None:
    """Refuses options of a network that contradict each other.

    Raises:
      ConfigError: the message names the field.
    """
    if isinstance(network, MasterUResNet | UResNetSparse):
        _check_odd(network, "filter_size_deepest")
    if isinstance(network, Network) and network.normalization is Normalization.GROUP:
        raise ConfigError(
            "network.normalization: expected none, batch, layer or instance with "
            "network.architecture=uresnet, got group"
        )
    if isinstance(network, UResNetV21):
        _check_v21(network)
    if isinstance(network, AnyUResNet):
        _check_heads_fit(network)
    if isinstance(network, UResNetTensorFlow):
        if network.normalization in (Normalization.INSTANCE, Normalization.GROUP):
            raise ConfigError(
                "network.normalization: expected none, batch or layer with "
                "network.architecture=uresnet_tensorflow, got "
                f"{network.normalization.value}"
            )
    if isinstance(network, UResNetSparse):
        if network.normalization in (Normalization.LAYER, Normalization.GROUP):
            raise ConfigError(
                "network.normalization: expected none, batch or instance with "
                "network.architecture=uresnet_sparse, got "
                f"{network.normalization.value}"
            )
    if isinstance(network, UResNet3D):
        # CosmicTagger's layer normalization is over the columns, and raises.
        if network.normalization not in (Normalization.BATCH, Normalization.NONE):
            raise ConfigError(
                "network.normalization: expected batch or none with "
                f"network.architecture=uresnet3d, got {network.normalization.value}"
            )
    if isinstance(network, SegFormer):
        for name in ("in_dims", "depths", "num_heads", "sr_ratios", "mlp_ratios"):
            _check_length(network, name, 4, "one for each stage")
        for width, heads in zip(network.in_dims, network.num_heads, strict=True):
            _check_heads("in_dims", width, "num_heads", heads)
    if isinstance(network, CvT):
        levels = len(network.layer_embed)
        for name in ("blocks", "num_heads"):
            _check_length(network, name, levels, "as many as network.layer_embed")
        above = (network.layer_embed[0], *network.layer_embed)
        for level, heads in enumerate(network.num_heads):
            # On the way up a level has the features of the one above it.
            for width in above[level : level + 2]:
                _check_heads("layer_embed", width, "num_heads", heads)
        width, heads = network.deepest_width, network.deepest_heads
        _check_heads("deepest_width", width, "deepest_heads", heads)


def _check_v21(network: UResNetV21) -> None:
    _check_odd(network, "kernel_size")
    if network.depthwise and network.block_style is not BlockStyle.CONVNEXT:
        raise ConfigError(
            "network.depthwise: expected False with network.block_style="
            f"{network.block_style.value}, got True; it is of convnext"
        )
    if network.normalization is Normalization.GROUP:
        for name in ("n_initial_filters", "bottleneck_deepest"):
            if getattr(network, name) % 4:
                raise ConfigError(
                    f"network.{name}: expected a multiple of 4 with "
                    f"network.normalization=group, got {getattr(network, name)}"
                )


def _check_heads_fit(network: AnyUResNet) -> None:
    """Refuses heads of sizes that the network does not have."""
    heads = active_heads(network)
    if heads.vertex is not None and heads.vertex.depth > network.depth:
        raise ConfigError(
            f"network.vertex.depth: expected at most the {network.depth} levels of "
            f"network.depth, got {heads.vertex.depth}"
        )
    if isinstance(network, UResNetSparse) and heads.vertex and not heads.halvings:
        raise ConfigError(
            f"network.vertex.depth: expected less than the {network.depth} levels of "
            "network.depth with network.architecture=uresnet_sparse, which makes no "
            f"map of the whole image, got {heads.vertex.depth}"
        )
    if network.normalization is not Normalization.GROUP:
        return
    for name, head in (
        ("classification", heads.classification),
        ("vertex", heads.vertex),
    ):
        if head is not None and head.n_layers and head.n_filters % 4:
            raise ConfigError(
                f"network.{name}.n_filters: expected a multiple of 4 with "
                f"network.normalization=group, got {head.n_filters}"
            )


def _check_odd(network: AnyNetwork, name: str) -> None:
    if getattr(network, name) % 2 == 0:
        raise ConfigError(
            f"network.{name}: expected an odd number, got {getattr(network, name)}"
        )


def _check_length(network: AnyNetwork, name: str, length: int, words: str) -> None:
    found = getattr(network, name)
    if len(found) != length:
        raise ConfigError(
            f"network.{name}: expected {length} numbers, {words}, got {found}"
        )


def _check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    if width % heads:
        raise ConfigError(
            f"network.{heads_name}: expected a divisor of the features in "
            f"network.{width_name}, got {heads} for {width}"
        )
