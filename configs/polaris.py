"""The benchmark network of the Polaris supercomputer: 1,926,403 parameters.

ctjax train --config polaris --config.data.synthetic=True
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns the defaults with a deeper, lighter network at full resolution."""
    config = fields.default_config()
    config.network.name = "polaris"
    config.network.blocks_deepest_layer = 2
    config.network.blocks_final = 2
    config.network.depth = 7
    config.network.bottleneck_deepest = 96
    config.network.residual = False
    config.network.connections = "sum"
    config.data.downsample = 0
    return config
