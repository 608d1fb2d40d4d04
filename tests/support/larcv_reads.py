"""Reads whole files and compares what is read with the truth."""

import numpy as np

from ctjax.data.sources import open_source
from tests.support import larcv_fixtures


def read_all(path, downsample=0, **options):
    """Dense images and labels of all events of a file."""
    with open_source(file=path, downsample=downsample, **options) as source:
        shape = (source.num_events, 3, *source.image_shape)
        image, label = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
        for entry in range(source.num_events):
            source.read(entry, image[entry], label[entry])
    return image, label


def check_reads(
    path, events, shape=larcv_fixtures.SHAPE, downsamples=(0, 1), **options
):
    """Both paths give the truth at each pooling."""
    for downsample in downsamples:
        truth = larcv_fixtures.dense_truth(events, shape, downsample)
        for raw_chunks in (True, False):
            found = read_all(path, downsample, raw_chunks=raw_chunks, **options)
            for a, b in zip(found, truth, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
