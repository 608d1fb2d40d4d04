"""SegFormer as CosmicTagger v2.1 has it: 4,221,475 parameters.

ctjax train --config segformer data.synthetic=True
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with the SegFormer, on images of 320 x 512."""
    config = fields.default_config(networks.SegFormer())
    config.data.downsample = 2
    return config
