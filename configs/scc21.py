"""The student cluster competition of SC21: its own network, 9,323,011 parameters.

CosmicTagger's SCC_21.yaml of November 2021 (commit 9e9f29f): neither normalization nor
residual blocks, loss `light`, full resolution unless data.downsample says otherwise.
Today's CosmicTagger calls a network with residual blocks by this name, which is
configs/scc21_master.py.

    ctjax run --config-name SCC_21.yaml run.id=task2 run.iterations=1000 \
        data.downsample=2 framework=torch data.data_directory=DIR
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns the defaults with the competition's network and loss."""
    config = fields.default_config()
    config.network.name = "scc21"
    config.network.normalization = "none"
    config.network.residual = False
    config.data.downsample = 0
    # The competition's accuracy is that of the network alone.
    config.mode.mask_empty_pixels = False
    config.mode.optimizer.loss_balance_scheme = "light"
    return config
