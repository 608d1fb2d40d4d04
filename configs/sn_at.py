"""CosmicTagger's sn-at: its 3D UResNet, a level deeper: 19,366,755 parameters.

Full resolution, as there (branch master, commit 156c480).

    ctjax train --config sn_at data.data_directory=DIR data.file=cosmic_tagging_train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network, on images of 1280 x 2048."""
    config = fields.default_config(networks.UResNet3D(name="sn_at", depth=7))
    config.data.downsample = 0
    return config
