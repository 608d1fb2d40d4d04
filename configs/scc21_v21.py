"""What CosmicTagger v2.1 calls scc21: no normalization, depth 7, 8,864,931 parameters.

Full resolution and v2.1's loss, as there (branch v2.1, commit 4c3a3a3).

    ctjax train --config scc21_v21 data.data_directory=DIR data.file=train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import choices, fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        name="scc21_v21", normalization=choices.Normalization.NONE
    )
    config = fields.default_config(network)
    config.data.downsample = 0
    config.mode.optimizer.loss_average = "pixels"
    return config
