"""The network: Flax linen modules and nothing of the data or of the training.

blocks   convolution, normalization, residual, down- and up-sampling units
uresnet  UResNet, composed of them
"""

from ctjax.models.uresnet import UResNet

__all__ = ["UResNet"]
