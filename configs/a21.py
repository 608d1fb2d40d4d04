"""The benchmark network of the Aurora supercomputer: 8,510,547 parameters.

Synthetic events at 640 x 1024, as in CosmicTagger's configuration of that name.

    ctjax train --config a21
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns the defaults with a network half as wide, without residual blocks."""
    config = fields.default_config()
    config.network.name = "A21"
    config.network.n_initial_filters = 8
    config.network.blocks_final = 0
    config.network.residual = False
    config.network.connections = "sum"
    config.data.synthetic = True
    config.data.downsample = 1
    return config
