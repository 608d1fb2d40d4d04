"""CosmicTagger v2.1's uresnet2, which also finds the vertex: 5,516,198 parameters.

Full resolution and v2.1's loss, as there (branch v2.1, commit 4c3a3a3). Its events are
of dataset version 2, with particle_sbndneutrino and bbox2d_bbox_neutrino.

    ctjax train --config uresnet2 data.data_directory=DIR data.file=train.h5
"""

from ml_collections import ConfigDict

from ctjax.config import choices, fields, heads, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        name="uresnet2",
        n_initial_filters=8,
        normalization=choices.Normalization.INSTANCE,
        blocks_deepest_layer=3,
        blocks_final=2,
        vertex=heads.Vertex(active=True),
    )
    config = fields.default_config(network)
    config.data.downsample = 0
    config.mode.optimizer.loss_average = "pixels"
    return config
