"""UResNet segmentation of liquid-argon detector images in JAX.

Where things live, from the top: a folder is one reason to change, and a module imports
only from its own folder and from those further down this list.

    __main__    `ctjax COMMAND …`
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

from ctjax.base import version as _version

__version__ = _version.find_version()
