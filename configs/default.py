"""CosmicTagger's defaults: uresnet (18,382,131 parameters) at 640 x 1024.

    python -m ctjax.main --config configs/default.py --config.data.synthetic=True

ctjax/config/fields.py declares the fields, their meanings and their defaults.
"""

from ml_collections import ConfigDict

from ctjax.config import fields


def get_config() -> ConfigDict:
    """Returns every field with its default."""
    return fields.default_config()
