"""Writes predictions of planes of different sizes and of other classes."""

import csv
import json
import types

import numpy as np

from ctjax.base.detector import IGNORED, Detector
from ctjax.config.fields import Data
from ctjax.config.heads import NO_HEADS
from ctjax.data.larcv.records import PlaneMeta
from ctjax.data.minibatch import HostMinibatch
from ctjax.outputs import predictions

SHAPES = ((6, 9), (4, 12))
IMAGE_SHAPE = (8, 16)
ATTRIBUTES = {
    **{"image_product": "wire", "label_product": "seg"},
    **{"classes": "background,muon,pion", "label_map": "0:0,1:1,2:2,9:ignore"},
}
DATA = Data(**ATTRIBUTES)


def source_of(shapes=SHAPES, bad_events=()):
    """What predictions need to know of a source of events of three classes."""
    classes, colours = tuple(DATA.classes.split(",")), ("#000000",) * 3
    metas = [
        PlaneMeta((w, h), (w / 2, h / 2), (p, 1)) for p, (h, w) in enumerate(shapes)
    ]
    return types.SimpleNamespace(
        detector=Detector(len(shapes), classes, colours, shapes),
        image_shape=IMAGE_SHAPE,
        num_events=3,
        has_label=True,
        bad_events=dict.fromkeys(bad_events, "bad"),
        plane_metas=lambda entry: metas,
    )


def made_results(random, number, planes=2):
    """Results of a step, dense, in which the padding holds what must not be written."""
    shape = number, planes, *IMAGE_SHAPE
    return {
        "image": random.choice([0.0, 1.5, 7.0], shape).astype(np.float32),
        "score": random.random((*shape, 3)).astype(np.float32),
        "prediction": random.integers(0, 3, shape).astype(np.uint8),
        "label": random.choice([0, 1, 2, IGNORED], shape).astype(np.uint8),
    }


def minibatch_of(mask):
    number = len(mask)
    ids = np.arange(3 * number).reshape(number, 3)
    return HostMinibatch(np.arange(number), ids, np.array(mask, np.float32))


def write(path, results, mask, source, attributes=None, heads=NO_HEADS):
    products = predictions.name_products(DATA, source.detector, True, heads)
    metas = predictions.metas_of(source)
    opened = predictions.open_writer(str(path), metas, products, attributes or {})
    with opened as writer:
        minibatch = minibatch_of(mask)
        predictions.append_minibatch(writer, minibatch, results, source, products)
    return products.names()


def write_run(folder, source):
    """Writes the table and the record of an inference over two events of a source."""
    names = source.detector.metric_names
    with open(folder / "inference_metrics.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["entry", "run", "subrun", "event", *names])
        for entry in range(2):
            ids = [3 * entry, 3 * entry + 1, 3 * entry + 2]
            writer.writerow([entry, *ids, *np.full(len(names), 0.5 - entry / 10)])
    planes = ",".join(map(str, range(source.detector.num_planes)))
    data = {"planes": planes, "synthetic": True, "downsample": 1, **ATTRIBUTES}
    config = {"config": {"data": data, "mode": {"write_predictions": True}}}
    (folder / "inference_config.json").write_text(json.dumps(config))
