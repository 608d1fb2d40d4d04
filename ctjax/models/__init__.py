"""Holds the networks, as Flax linen modules; no data, no training.

uresnet        UResNet, composed of blocks
blocks         convolution, normalization, activation; residual blocks; series of them
layers         convolutions, pooling and interpolation, which hold no statistics
normalization  batch normalization with the statistics of each plane
torch_weights  conversion to and from the tensors of CosmicTagger's torch network
kernels        which implementation computes a block or a convolution
"""

from ctjax.models.uresnet import UResNet

__all__ = ["UResNet"]
