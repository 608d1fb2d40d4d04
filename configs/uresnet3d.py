"""CosmicTagger's UResNet of 3D convolutions: 18,381,459 parameters.

ctjax train --config uresnet3d data.synthetic=True
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with the 3D network."""
    return fields.default_config(networks.UResNet3D())
