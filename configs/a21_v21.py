"""What CosmicTagger v2.1 calls a21, for the supercomputer Aurora: 3,267,667 parameters.

Synthetic events at 640 x 1024 and v2.1's loss, as there (branch v2.1, commit 4c3a3a3).

    ctjax train --config a21_v21
"""

from ml_collections import ConfigDict

from ctjax.config import choices, fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        name="a21_v21",
        block_style=choices.BlockStyle.NONE,
        n_initial_filters=8,
        blocks_final=0,
        depth=6,
        connections=choices.Connection.SUM,
    )
    config = fields.default_config(network)
    config.data.synthetic = True
    config.data.downsample = 1
    config.mode.optimizer.loss_average = "pixels"
    return config
