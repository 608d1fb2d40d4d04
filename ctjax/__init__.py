"""UResNet segmentation of liquid-argon detector images in JAX.

Where things live, from the top: a folder is one reason to change, and a module imports
only from its own folder and from those further down this list.

    __main__    `ctjax COMMAND …`
    api         what `import ctjax` gives to a notebook
    main        one run, from its command line to its exit status
    runs        what a run does, composed of everything below
    commands    what else a person can type
    outputs     what a run leaves in its folder
    views       pictures of what runs have left
    simulation  simulated events; of what is below only data.larcv and base
    models      networks, and who computes their convolutions
    data        events on the host; never jax
    learning    pure functions of arrays and plain values; no file, no process
    processes   the processes of a run: found, joined, watched, ended
    config      the options of a run
    base        what imports nothing of ours

Letters in the shapes of docstrings: B events of a minibatch, P planes, H rows (drift
ticks), W columns (wires), C features, K classes, V stored voxels of one plane.
"""

import importlib as _importlib
from typing import TYPE_CHECKING, Any

from ctjax.base import version as _version

if TYPE_CHECKING:
    from ctjax.api.evaluation import metrics as metrics
    from ctjax.api.events import open as open
    from ctjax.api.loading import load as load
    from ctjax.api.pictures import draw as draw
    from ctjax.api.saving import save_predictions as save_predictions
    from ctjax.api.training import train as train

__version__ = _version.find_version()

_PUBLIC = {
    "open": "events",
    "load": "loading",
    "draw": "pictures",
    "metrics": "evaluation",
    "save_predictions": "saving",
    "train": "training",
}
"""Functions for notebooks, imported when they are asked for, and their modules."""


def __getattr__(name: str) -> Any:
    """Imports a function for notebooks."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ctjax' has no attribute {name!r}")
    return getattr(_importlib.import_module(f"ctjax.api.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    """Lists those functions, too."""
    return sorted({*globals(), *_PUBLIC})
