"""Our own compact UResNet in PyTorch, for benchmarks/compute.py to compare with.

The same network as `ctjax.models.UResNet`, under names by which
`ctjax.models.torch_weights` fills it, and with what ctjax does to be fast, where
PyTorch can have it for nothing:
planes are folded into the batch wherever no batch statistics are taken, and the 1 x 1
convolution of the way up comes before the interpolation, with which it commutes. Layer
normalization is left out; none of the compared configurations has it.
"""
# ruff: noqa: D107 (the classes say what their arguments are)

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctjax.base.detector import COSMIC_TAGGER
from ctjax.config.fields import (
    Connection,
    Downsampling,
    GrowthRate,
    Network,
    Normalization,
    Upsampling,
)

NUM_CLASSES = COSMIC_TAGGER.num_classes
NUM_PLANES = COSMIC_TAGGER.num_planes

Groups = list[Tensor]
"""Images [N, C, H, W] that are normalized together: one plane in training with batch
normalization, else all planes one after the other."""


class Block(nn.Module):
    """Convolution, normalization, activation; [N, C, H, W] to [N, C', H', W']."""

    def __init__(
        self,
        network: Network,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        activate: bool = True,
        transpose: bool = False,
        upsample: bool = False,
    ):
        super().__init__()
        make = nn.ConvTranspose2d if transpose else nn.Conv2d
        padding = (kernel - 1) // 2 if stride == 1 else 0
        self.conv = make(inputs, outputs, kernel, stride, padding, bias=network.bias)
        if network.normalization is Normalization.LAYER:
            raise ValueError("network.normalization=layer: not in the torch peer")
        has_norm = network.normalization is Normalization.BATCH
        self.norm = nn.BatchNorm2d(outputs) if has_norm else nn.Identity()
        self.activate, self.upsample = activate, upsample

    def forward(self, x: Tensor) -> Tensor:
        """Applies the unit."""
        x = self.conv(x)
        if self.upsample:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.norm(x)
        return F.leaky_relu(x) if self.activate else x


class ResidualBlock(nn.Module):
    """Two blocks whose sum with their input is activated."""

    def __init__(self, network: Network, features: int, kernel: int):
        super().__init__()
        self.convolution_1 = Block(network, features, features, kernel)
        self.convolution_2 = Block(network, features, features, kernel, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to the same shape."""
        return F.leaky_relu(self.convolution_2(self.convolution_1(x)) + x)


class BlockSeries(nn.Module):
    """Blocks or residual blocks of constant width."""

    def __init__(self, network: Network, features: int, kernel: int, count: int):
        super().__init__()
        if network.residual:
            made = [ResidualBlock(network, features, kernel) for _ in range(count)]
        else:
            made = [Block(network, features, features, kernel) for _ in range(count)]
        self.blocks = nn.ModuleList(made)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to the same shape."""
        for block in self.blocks:
            x = block(x)
        return x


class Bottleneck(nn.Module):
    """A 1 x 1 block under the name that the original gives it, and what is before."""

    def __init__(self, block: Block, pool: bool = False):
        super().__init__()
        self.bottleneck, self.pool = block, pool

    def forward(self, *x: Tensor) -> Tensor:
        """Joins its arguments along the features."""
        joined = torch.cat(x, 1) if len(x) > 1 else x[0]
        return self.bottleneck(F.max_pool2d(joined, 2) if self.pool else joined)


class DeepestBlock(nn.Module):
    """The lowest level, where the planes meet but for `block_concat`."""

    def __init__(self, network: Network, features: int):
        super().__init__()
        self.joins = not network.block_concat
        width = features * NUM_PLANES if self.joins else features
        narrow = network.bottleneck_deepest
        self.bottleneck = Block(network, width, narrow, 1)
        self.blocks = BlockSeries(
            network, narrow, network.filter_size_deepest, network.blocks_deepest_layer
        )
        self.unbottleneck = Block(network, narrow, width, 1)

    def forward(self, groups: Groups) -> Groups:
        """Maps every group to the same shape."""
        number = len(groups)
        if self.joins:
            planes = torch.cat(groups).unflatten(0, (NUM_PLANES, -1))
            groups = [planes.transpose(0, 1).flatten(1, 2)]
        groups = [self.unbottleneck(self.blocks(self.bottleneck(x))) for x in groups]
        if self.joins:
            planes = groups[0].unflatten(1, (NUM_PLANES, -1)).transpose(0, 1)
            groups = list(planes.flatten(0, 1).chunk(number))
        return groups


class Level(nn.Module):
    """One resolution of the U and everything below it; 0 is the deepest block."""

    def __init__(self, network: Network, features: int, depth: int):
        super().__init__()
        self.depth = depth
        if depth == 0:
            self.main_module = DeepestBlock(network, features)
            return
        if network.growth_rate is GrowthRate.MULTIPLICATIVE:
            below = 2 * features
        else:
            below = features + network.n_initial_filters
        series = (network, features, 3, network.blocks_per_layer)
        self.down_blocks = BlockSeries(*series)
        if network.downsampling is Downsampling.CONVOLUTIONAL:
            self.downsample = Block(network, features, below, 2, stride=2)
        else:
            self.downsample = Bottleneck(Block(network, features, below, 1), pool=True)
        self.main_module = Level(network, below, depth - 1)
        if network.upsampling is Upsampling.CONVOLUTIONAL:
            self.upsample = Block(network, below, features, 2, stride=2, transpose=True)
        else:
            self.upsample = Bottleneck(
                Block(network, below, features, 1, upsample=True)
            )
        if network.connections is Connection.CONCAT:
            self.connection = Bottleneck(Block(network, 2 * features, features, 1))
        self.connections = network.connections
        self.up_blocks = BlockSeries(*series)

    def forward(self, groups: Groups) -> Groups:
        """Maps every group to the same shape; the skip takes the level's input."""
        if self.depth == 0:
            return self.main_module(groups)
        lower = [self.downsample(self.down_blocks(x)) for x in groups]
        lower = self.main_module(lower)
        return [
            self.up_blocks(self._connect(self.upsample(x), skip))
            for x, skip in zip(lower, groups, strict=True)
        ]

    def _connect(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.connections is Connection.CONCAT:
            return self.connection(x, skip)
        return x + skip if self.connections is Connection.SUM else x


class UResNet(nn.Module):
    """The network; see `ctjax.models.UResNet`."""

    def __init__(self, network: Network):
        super().__init__()
        features = network.n_initial_filters
        self.initial_convolution = Block(network, 1, features, 5)
        self.net_core = Level(network, features, network.depth)
        self.final_layer = BlockSeries(network, features, 3, network.blocks_final)
        self.bottleneck = nn.Conv2d(features, NUM_CLASSES, 1, bias=network.bias)
        self.has_statistics = network.normalization is Normalization.BATCH

    def forward(self, image: Tensor) -> Tensor:
        """Maps charges [B, P, H, W] to logits [B, P, K, H, W] float32."""
        x = image.transpose(0, 1).flatten(0, 1)[:, None]
        apart = self.has_statistics and self.training
        groups = list(x.chunk(NUM_PLANES)) if apart else [x]
        groups = self.net_core([self.initial_convolution(x) for x in groups])
        logits = [self.bottleneck(self.final_layer(x)).float() for x in groups]
        planes = torch.cat(logits) if apart else logits[0]
        return planes.unflatten(0, (NUM_PLANES, -1)).transpose(0, 1)


def focal_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Computes ctjax's focal loss, see `ctjax.losses.make_loss`.

    Args:
      logits: [B, P, K, H, W] float32.
      label: [B, P, H, W] int64.

    Returns:
      A scalar: each plane's mean over all pixels, weighted by the square of 1 minus the
      probability of the pixel's class, summed over the planes.
    """
    logits, label = logits.transpose(0, 1).flatten(0, 1), label.transpose(0, 1)
    cross_entropy = F.cross_entropy(logits, label.flatten(0, 1), reduction="none")
    with torch.no_grad():
        weight = (1.0 - torch.exp(-cross_entropy)).square()
    by_plane = (NUM_PLANES, -1)
    total = (weight * cross_entropy).reshape(by_plane).sum(1)
    norm = weight.reshape(by_plane).sum(1)
    return (total / norm.clamp_min(torch.finfo(torch.float32).tiny)).sum()


def predict(
    logits: Tensor, image: Tensor, mask_empty_pixels: bool
) -> tuple[Tensor, Tensor]:
    """Returns classes [B, P, H, W] uint8 and probabilities [B, P, K, H, W]."""
    prediction = logits.argmax(2).to(torch.uint8)
    if mask_empty_pixels:
        prediction = prediction * (image != 0)
    return prediction, logits.softmax(2)
