"""The network of CosmicTagger v2.1's uresnet2-inference: 35,585,866 parameters.

It has both heads, of the event's class and of the vertex, and takes images of 704 x
1024 (branch v2.1, commit 4c3a3a3).

    ctjax inference --config uresnet2_inference data.file=events.h5 \
        mode.weights_location=FOLDER
"""

from ml_collections import ConfigDict

from ctjax.config import fields, heads, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network and loss."""
    network = networks.UResNetV21(
        name="uresnet2_inference",
        n_initial_filters=64,
        blocks_deepest_layer=3,
        blocks_final=3,
        depth=6,
        classification=heads.Classification(active=True),
        vertex=heads.Vertex(active=True),
    )
    config = fields.default_config(network)
    config.data.downsample = 1
    config.mode.optimizer.loss_average = "pixels"
    return config
