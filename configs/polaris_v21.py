"""What CosmicTagger v2.1 calls polaris, for the supercomputer: 1,631,491 parameters.

Full resolution and v2.1's loss, as there (branch v2.1, commit 4c3a3a3).

    ctjax train --config polaris_v21 data.synthetic=True
"""

from ml_collections import ConfigDict

from ctjax.config import choices, fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        name="polaris_v21",
        block_style=choices.BlockStyle.NONE,
        blocks_deepest_layer=2,
        blocks_final=2,
        bottleneck_deepest=96,
        connections=choices.Connection.SUM,
    )
    config = fields.default_config(network)
    config.data.downsample = 0
    config.mode.optimizer.loss_average = "pixels"
    return config
