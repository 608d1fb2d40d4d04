"""Writes small larcv3 files with ctjax's writer."""

import numpy as np

from ctjax.data.larcv.records import BBOX, PARTICLE, PlaneMeta
from ctjax.data.larcv.writer import LarcvWriter

WIDTH, HEIGHT = 24, 16
METAS = [PlaneMeta((WIDTH, HEIGHT), (2.4, 1.6), (-0.5, 0.25 * p)) for p in range(3)]


def planes(*sizes, seed=0):
    random = np.random.default_rng(seed)
    return [
        (
            np.sort(random.choice(WIDTH * HEIGHT, size, replace=False)).astype("u8"),
            random.uniform(5, 99, size).astype("f4"),
        )
        for size in sizes
    ]


def particles(number):
    rows = np.zeros(number, PARTICLE)
    rows["pdg"] = np.arange(number) + 11
    rows["vtx"]["y"] = 2.5
    return rows


def boxes(*numbers):
    tables = [np.zeros(number, BBOX) for number in numbers]
    for plane, table in enumerate(tables):
        table["centroid"] = plane + 1.0, plane + 2.0
    return tables


def write(path, events, storage=None):
    with LarcvWriter(path, METAS, ("wire", "a_b"), ("nu",), ("box",), storage) as out:
        for number, (wire, other) in enumerate(events):
            out.append(
                (7, 1, number),
                {"wire": wire, "a_b": other},
                {"nu": particles(number)},
                {"box": boxes(1, 0, 2)},
            )
    return path
