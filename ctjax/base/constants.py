"""Defines fixed facts of the data and the task, each with its source."""

NUM_PLANES = 3
"""Wire planes (projections) of one event; larcv projection ids are 0, 1, 2."""

BACKGROUND, COSMIC, NEUTRINO = 0, 1, 2
"""Classes of a pixel, as the label product stores them."""

NUM_CLASSES = 3

CLASS_NAMES = ("background", "cosmic", "neutrino")

IMAGE_PRODUCT = "sbndwire"
"""Producer of the sparse2d product that holds the charge of each pixel."""

CHARGE_LIMIT = 1e6
"""A larger charge is taken for damage unless data.charge_limit says otherwise; those of
the light events are 5.0 to 2,772."""

LABEL_PRODUCT = "sbnd_cosmicseg"
"""Producer of the sparse2d product that holds the class of each pixel."""

FULL_IMAGE_SHAPE = (1280, 2048)
"""Rows (drift ticks) and columns (wires) of dataset version 1.

Only synthetic and simulated data take their shape from here; files have their own.
"""

PLANE_METRICS = (
    "Total_Accuracy",
    "Cosmic_IoU",
    "Neutrino_IoU",
    "Non_Bkg_Accuracy",
    "mIoU",
)
"""Metrics of a plane, by CosmicTagger's names."""

METRIC_NAMES = tuple(
    f"{group}/{metric}"
    for group in ("Average", *(f"plane{plane}" for plane in range(NUM_PLANES)))
    for metric in PLANE_METRICS
)
"""Metrics of the mean of the planes, then of each plane, in CosmicTagger's order."""

CONFUSION_NAMES = tuple(
    f"plane{plane}/{true}_as_{found}"
    for plane in range(NUM_PLANES)
    for true in CLASS_NAMES
    for found in CLASS_NAMES
)
"""Numbers of pixels by plane, true class and predicted class."""

COSMIC_SCORE_PRODUCT = "cosmic_prediction"
NEUTRINO_SCORE_PRODUCT = "neutrino_prediction"
"""Producers of the scores, named as CosmicTagger's TensorFlow 1 code named them."""

CLASS_PRODUCT = "cosmicseg_prediction"
"""Producer of the predicted class."""
