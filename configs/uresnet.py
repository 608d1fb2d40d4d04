"""The default network by its own name: 18,382,131 parameters.

ctjax train --config uresnet --config.data.synthetic=True
"""

from ctjax.config.fields import default_config as get_config

__all__ = ["get_config"]
