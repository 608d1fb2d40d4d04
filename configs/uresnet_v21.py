"""CosmicTagger v2.1's recipe uresnet, its own 2D UResNet: 5,453,347 parameters.

Full resolution and v2.1's loss, as there (branch v2.1, commit 4c3a3a3).

    ctjax train --config uresnet_v21 data.data_directory=DIR data.file=train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import choices, fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        blocks_deepest_layer=2,
        blocks_final=2,
        upsampling=choices.Upsampling.CONVOLUTIONAL,
    )
    config = fields.default_config(network)
    config.data.downsample = 0
    config.mode.optimizer.loss_average = "pixels"
    return config
