"""Joins the predictions that several processes have written, each in a file."""

import contextlib
import os
from typing import Any

import h5py
import numpy as np

from ctjax.data.larcv.records import PlaneMeta
from ctjax.outputs.predictions import Products, open_writer

GEOMETRY = ("number_of_voxels", "image_sizes", "origin")


def part_path(path: str, process: int) -> str:
    """Returns the name of the file that one of several processes writes."""
    return f"{path}.rank{process}"


def join(parts: list[str], order: list[int], path: str, products: Products) -> None:
    """Joins the files that several processes have written, and removes them.

    Args:
      parts: files written through `open_writer`.
      order: for each event, in which of them it is.
      path: file to write, which gets its name when it is complete.
      products: see `open_writer`.

    Raises:
      OSError: a part cannot be read, or the folder cannot be written to.
    """
    taken = [0] * len(parts)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(h5py.File(part, "r")) for part in parts]
        writer = None
        for part in order:
            event = _read(files[part], taken[part])
            if writer is None:
                attributes = dict(files[0].attrs)
                opened = open_writer(path, event["metas"], products, attributes)
                writer = stack.enter_context(opened)
            writer.append(**event)
            taken[part] += 1
    for part in parts:
        os.remove(part)


def _read(file: h5py.File, index: int) -> dict[str, Any]:
    """Reads an event that was written; returns arguments of `LarcvWriter.append`."""
    row = h5py.Dataset(file["Events/event_id"].id)[index]
    event: dict[str, Any] = {
        "event_id": (int(row["run"]), int(row["subrun"]), int(row["event"])),
        **{"sparse2d": {}, "particles": {}, "bboxes": {}},
    }
    data = h5py.Group(file["Data"].id)
    for name in map(str, data):
        group = h5py.Group(data[name].id)
        tables = {key: h5py.Dataset(group[key].id) for key in group}
        kind, _, producer = name.removesuffix("_group").partition("_")
        rows = _span(tables["extents"][index])
        if kind == "particle":
            event["particles"][producer] = tables["particles"][rows]
        elif kind == "bbox2d":
            boxes = [tables["bboxes"][_span(s)] for s in tables["bbox_extents"][rows]]
            event["bboxes"][producer] = boxes
        else:
            event["metas"] = [
                PlaneMeta(*(tuple(meta[name].tolist()) for name in GEOMETRY))
                for meta in tables["image_meta"][rows]
            ]
            voxels = [tables["voxels"][_span(s)] for s in tables["voxel_extents"][rows]]
            event["sparse2d"][producer] = [(v["id"], v["value"]) for v in voxels]
    return event


def _span(extent: np.void) -> slice:
    """Returns the rows that an extent names."""
    return slice(extent["first"], extent["first"] + extent["N"])
