"""The network that today's CosmicTagger calls scc21: uresnet without normalization.

18,367,891 parameters (branch master, commit 156c480), where the competition of SC21 had
a network of half the size without residual blocks, which is configs/scc21.py. Full
resolution unless data.downsample says otherwise.

    ctjax train --config scc21_master --config.data.downsample=2 \
        --config.data.data_directory=DIR --config.data.file=cosmic_tagging_train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns the defaults with that network."""
    config = fields.default_config()
    config.network.name = "scc21_master"
    config.network.normalization = "none"
    config.data.downsample = 0
    # Its accuracy is that of the network alone, as the competition's.
    config.mode.mask_empty_pixels = False
    return config
