"""A small sparse UResNet, which trains at full resolution on two processor cores.

    ctjax run --config sparse_small \
        --config.data.data_directory=DIR --config.data.file=cosmic_tagging_light.h5

The shape is the quickstart's. Its loss is taken over the pixels with charge alone. It
normalizes by the minibatch, which has learnt more after 300 steps than by each image,
as the quickstart does (docs/sparse.md).
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the sparse network in a small form."""
    config = fields.default_config(networks.UResNetSparse())
    config.run.iterations = 300
    config.run.minibatch_size = 1
    config.data.downsample = 0
    config.data.img_transform = True
    config.network.name = "sparse_small"
    config.network.n_initial_filters = 8
    config.network.depth = 5
    config.network.bottleneck_deepest = 32
    config.network.blocks_per_layer = 1
    config.network.blocks_deepest_layer = 2
    config.network.blocks_final = 0
    config.mode.checkpoint_iteration = 100
    config.mode.logging_iteration = 10
    config.mode.summary_iteration = 10
    config.mode.optimizer.learning_rate = 1e-2
    config.mode.optimizer.lr_schedule = "one_cycle"
    config.mode.optimizer.loss_balance_scheme = "focal"
    config.mode.optimizer.loss_charged_pixels_only = True
    return config
