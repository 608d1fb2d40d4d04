"""The student cluster competition of SC21: uresnet without normalization.

18,367,891 parameters; full resolution unless data.downsample says otherwise.

    ctjax train --config scc21 --config.data.downsample=2 \
        --config.data.data_directory=DIR --config.data.file=cosmic_tagging_train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns the defaults with the competition's network."""
    config = fields.default_config()
    config.network.name = "scc21"
    config.network.normalization = "none"
    config.data.downsample = 0
    # The competition's accuracy is that of the network alone.
    config.mode.mask_empty_pixels = False
    return config
