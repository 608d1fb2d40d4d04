"""Defines fixed facts of the data and the task, each with its source."""

BACKGROUND, COSMIC, NEUTRINO = 0, 1, 2
"""Classes of a pixel, as the label product stores them."""

IMAGE_PRODUCT = "sbndwire"
"""Producer of the sparse2d product that holds the charge of each pixel."""

CHARGE_LIMIT = 1e6
"""A larger charge is taken for damage unless data.charge_limit says otherwise; those of
the light events are 5.0 to 2,772."""

LABEL_PRODUCT = "sbnd_cosmicseg"
"""Producer of the sparse2d product that holds the class of each pixel."""

PARTICLE_PRODUCT = "sbndneutrino"
"""Producer of the particle product, whose first row of an event is the neutrino."""

BOX_PRODUCT = "bbox_neutrino"
"""Producer of the bbox2d product, whose first box of a plane is around the vertex."""

FULL_IMAGE_SHAPE = (1280, 2048)
"""Rows (drift ticks) and columns (wires) of dataset version 1.

Only synthetic and simulated data take their shape from here; files have their own.
"""

CLASS_PRODUCT = "cosmicseg_prediction"
"""Producer of the predicted class."""
