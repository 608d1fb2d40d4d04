"""CosmicTagger v2.1's sn, a wide 2D UResNet: 34,383,299 parameters.

Images of 640 x 1024 and v2.1's loss, as there (branch v2.1, commit 4c3a3a3).

    ctjax train --config sn data.data_directory=DIR data.file=train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import choices, fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        name="sn",
        n_initial_filters=64,
        blocks_deepest_layer=3,
        blocks_final=3,
        depth=6,
        upsampling=choices.Upsampling.CONVOLUTIONAL,
    )
    config = fields.default_config(network)
    config.data.downsample = 1
    config.mode.optimizer.loss_average = "pixels"
    return config
