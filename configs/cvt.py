"""The convolutional vision transformer of CosmicTagger v2.1: 801,475 parameters.

Its attention is over all pixels of a plane, whose number counts squared: images are
downsampled three times.

    ctjax train --config cvt data.synthetic=True
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with the vision transformer, on images of 160 x 256."""
    config = fields.default_config(networks.CvT())
    config.data.downsample = 3
    return config
