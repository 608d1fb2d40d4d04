"""The quickstart: simulate, train, infer and report, on a processor of two cores.

    ctjax quickstart

1,000 events to train on and 100 to report on are simulated once, into ~/.cache/ctjax; a
small network trains on images of 160 x 256 pixels. With larcv3 files of your own:

    ctjax quickstart --config.run.id=mine \
        --config.data.file=TRAIN --config.data.aux_file=VALIDATION

and with a file of real events to try the network on at the end:

    ctjax quickstart --config.data.test_file=cosmic_tagging_light.h5
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns the defaults with a network that learns fast on a processor."""
    config = fields.default_config()
    config.mode.name = "quickstart"
    config.run.iterations = 900
    config.run.minibatch_size = 2
    config.run.aux_iterations = 100
    config.run.aux_minibatch_size = 20
    config.data.file = None  # simulated
    config.data.downsample = 3
    config.data.img_transform = True
    config.network.name = "quickstart"
    # Planes differ in noise, and short trainings leave running statistics that fit
    # none of them: no running statistics.
    config.network.normalization = "instance"
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
    return config
