"""The UResNet of CosmicTagger's TensorFlow code: 18,382,131 parameters.

Of another wiring than that of its torch code (branch master, commit 992fba8).

    ctjax run framework=tensorflow data.synthetic=True
"""

from ml_collections import ConfigDict

from ctjax.config import fields, networks


def get_config() -> ConfigDict:
    """Returns the defaults with that network."""
    return fields.default_config(networks.UResNetTensorFlow())
