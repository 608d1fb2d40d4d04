"""Holds the networks, as Flax linen modules; no data, no training.

pixel_network       what runs ask of a network, and what several of them use
uresnet             UResNet, composed of blocks
heads               what tells an event's class and its vertex beside a UResNet
uresnet_v21         the same with the blocks and norms of CosmicTagger v2.1
uresnet3d           the same of 3D convolutions over the planes
uresnet_tensorflow  that of CosmicTagger's TensorFlow code
uresnet_sparse      UResNet on active sites, made of site_blocks
site_heads          the same heads on active sites
site_blocks         convolutions, norms and blocks on active sites
segformer           SegFormer, four stages of attention
cvt                 CvT, a U of attention
attention           attention, as both compute it
blocks              convolution, norm, activation; residual blocks; series of them
layers              convolutions, pooling and interpolation, which hold no statistics
own_pixels          which pixels of padded images statistics count
normalization       batch normalization with the statistics of each plane
other_detectors     whether weights are those of another number of planes or classes
other_heads         whether weights are those of a network with other heads
torch_weights       conversion to and from the tensors of CosmicTagger's torch network
kernels             which implementation computes a block or a convolution
"""

from typing import Any

import jax.numpy as jnp

from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.config.architecture import AnyNetwork, Architecture
from ctjax.config.fields import Remat
from ctjax.models.cvt import CvT
from ctjax.models.pixel_network import PixelNetwork
from ctjax.models.segformer import SegFormer
from ctjax.models.uresnet import UResNet
from ctjax.models.uresnet3d import UResNet3D
from ctjax.models.uresnet_sparse import UResNetSparse
from ctjax.models.uresnet_tensorflow import UResNetTensorFlow
from ctjax.models.uresnet_v21 import UResNetV21

__all__ = ["NETWORKS", "PixelNetwork", "UResNet", "make"]

NETWORKS: dict[Architecture, type[PixelNetwork]] = {
    Architecture.URESNET: UResNet,
    Architecture.URESNET_V21: UResNetV21,
    Architecture.URESNET3D: UResNet3D,
    Architecture.URESNET_TENSORFLOW: UResNetTensorFlow,
    Architecture.URESNET_SPARSE: UResNetSparse,
    Architecture.SEGFORMER: SegFormer,
    Architecture.CVT: CvT,
}
"""The module of each architecture."""


def make(
    network: AnyNetwork,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    remat: Remat = Remat.NONE,
    detector: Detector = COSMIC_TAGGER,
) -> PixelNetwork:
    """Makes the network that the options are of; see `PixelNetwork` for the rest."""
    return NETWORKS[network.architecture](network, dtype, axis_name, remat, detector)
