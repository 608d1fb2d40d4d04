"""UResNet segmentation of liquid-argon detector images in JAX.

Letters in the shapes of docstrings: B events of a minibatch, P planes, H rows (drift
ticks), W columns (wires), C features, K classes, V stored voxels of one plane.
"""

__version__ = "0.1.0"
