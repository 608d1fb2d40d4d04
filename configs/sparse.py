"""The sparse UResNet in the shape of CosmicTagger's scc21, computed at charge alone.

18,549,379 parameters. Full resolution: pixels without charge are neither stored nor
computed; docs/sparse.md has what that saves.

    ctjax train --config sparse --config.data.data_directory=DIR \
        --config.data.file=cosmic_tagging_train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network."""
    config = fields.default_config(networks.UResNetSparse())
    config.network.name = "sparse"
    config.data.downsample = 0
    config.data.img_transform = True
    # Pixels without charge have no site, and their constant loss hides the others'.
    config.mode.optimizer.loss_charged_pixels_only = True
    return config
