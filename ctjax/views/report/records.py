"""Reads what runs have left in their output folders, for the report."""

import csv
import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctjax.base.detector import COSMIC_TAGGER, Detector
from ctjax.base.errors import UserError
from ctjax.config import resolve
from ctjax.config.detectors import DETECTOR_FIELDS, read_detector, read_planes
from ctjax.config.fields import Data
from ctjax.data import sources
from ctjax.data.larcv.file import LarcvFileError
from ctjax.data.larcv.truth import NEUTRINO_TYPE, read_neutrinos
from ctjax.views import skipped
from ctjax.views.event_table import FoundEvents, read_found_events

TIMING_FILES = {"train": "train", "inference": "inference", "iotest": "io"}
"""Name of the file in profiles/, by mode."""

STEP_COLUMNS, EVENT_COLUMNS = ("step", "loss"), ("entry",)
"""Columns that the tables of steps and of events must have beside the metrics."""
NAMES = ("file",)
"""Columns of tables that are not numbers."""

Table = dict[str, np.ndarray]
"""Columns by name, each [N] float64."""


class ReportError(UserError):
    """A folder cannot be reported; the message names it."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Holds everything that is known about one output folder.

    Attributes:
      folder: its path, as given.
      name: its short name, for legends.
      launches: by mode, what `run_record.save_config` wrote when it was started.
      train: table of training steps, or None.
      validation: table of validations, or None.
      inference: table of events, or None.
      confusion: [N, P, K, K] of the events of `inference`, or None.
      timings: by mode, [N] of `timings.TIMING_TYPE`.
      skipped: by mode or `skipped.VALIDATION`, rows of `skipped.COLUMNS` of the events
        that were skipped.
      detector: whose events these are.
      found: what heads have found in the events of `inference`, or None.
    """

    folder: str
    name: str
    launches: dict[str, dict[str, Any]]
    train: Table | None
    validation: Table | None
    inference: Table | None
    confusion: np.ndarray | None
    timings: dict[str, np.ndarray]
    skipped: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)
    detector: Detector = COSMIC_TAGGER
    found: FoundEvents | None = None

    @functools.cached_property
    def log(self) -> list[str]:
        """The lines of its process.log, none where there is no such file."""
        path = os.path.join(self.folder, "process.log")
        if not os.path.isfile(path):
            return []
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()

    @functools.cached_property
    def data(self) -> Data:
        """How the inference reads its files; raises ConfigError."""
        return _read_data(self.launches.get("inference", {})) or Data()

    def option(self, mode: str, *names: str) -> Any:
        """Returns a field, as in `option("train", "run", "seed")`, or None."""
        value: Any = self.launches.get(mode, {}).get("config")
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def images_per_step(self, mode: str) -> np.ndarray | None:
        """Returns the events of each step with timings, [N], or None if unknown."""
        timings = self.timings[mode]
        if "images" in (timings.dtype.names or ()):
            return timings["images"]
        # Of a version that did not write them down.
        size = self.option(mode, "run", "minibatch_size")
        if size is not None and mode == "train":
            size *= self.option(mode, "mode", "optimizer", "gradient_accumulation") or 1
        return None if size is None else np.full(len(timings), size)

    @functools.cached_property
    def neutrinos(self) -> np.ndarray:
        """The [N] neutrinos of `inference`'s events; unknown if the file is gone."""
        table = self.inference or {"entry": np.zeros(0)}
        entries = table["entry"].astype(int)
        unknown = np.zeros(len(entries), NEUTRINO_TYPE)
        unknown["energy_gev"], unknown["current"] = np.nan, -1
        if self.option("inference", "data", "synthetic") in (True, None):
            return unknown
        try:
            everything = read_neutrinos(self.files())
        except (LarcvFileError, OSError, KeyError):
            return unknown
        # Entries of one event follow each other.
        entries //= len(read_planes(self.data) or [()])
        return everything[entries] if max(entries) < len(everything) else unknown

    def event_id(self, place: int) -> list[float]:
        """Returns run, subrun and event of a row of `inference`."""
        table, names = self.inference or {}, ("run", "subrun", "event")
        if not table.keys() >= set(names):
            raise ReportError(
                f"{self.folder}: expected {', '.join(names)} in its table"
            )
        return [float(table[name][place]) for name in names]

    def files(self) -> list[str]:
        """Finds the files of the inference; raises LarcvFileError if they are gone."""
        folder = self.option("inference", "data", "data_directory")
        names = self.option("inference", "data", "file").split(",")
        return sources.find_files([os.path.join(folder, n.strip()) for n in names])


def read_record(folder: str) -> Record:
    """Reads an output folder.

    Args:
      folder: output folder of one run of any mode, or of several in a row.

    Raises:
      ReportError: the folder holds nothing that a run leaves.
    """
    if not os.path.isdir(folder):
        raise ReportError(f"{folder}: expected the output folder of a run")
    launches = {mode: _read_json(folder, mode) for mode in TIMING_FILES}
    tables, detectors = {}, []
    for mode, name, needed in (
        ("inference", "inference_metrics.csv", EVENT_COLUMNS),
        ("train", "train_metrics.csv", STEP_COLUMNS),
        ("train", "val_metrics.csv", STEP_COLUMNS),
    ):
        table = _read_table(folder, name, needed)
        tables[name] = table
        if table is not None:
            detector = _find_detector(launches[mode], table)
            _check_columns(os.path.join(folder, name), table, detector.metric_names)
            detectors.append(detector)
    inference = tables["inference_metrics.csv"]
    detector = detectors[0] if detectors else COSMIC_TAGGER
    record = Record(
        folder=folder,
        name=os.path.basename(os.path.abspath(folder)),
        launches={mode: launch for mode, launch in launches.items() if launch},
        train=tables["train_metrics.csv"],
        validation=tables["val_metrics.csv"],
        inference=inference,
        confusion=_read_confusion(folder, inference, detector),
        timings=_read_timings(folder),
        skipped={
            part: skipped.read_table(skipped.table_path(folder, part))
            for part in (*TIMING_FILES, skipped.VALIDATION)
        },
        detector=detector,
        found=_read_found(folder, inference),
    )
    if not (record.launches or record.timings or record.train or inference):
        raise ReportError(f"{folder}: expected tables or timings of a run, found none")
    return record


def _read_json(folder: str, mode: str) -> dict[str, Any]:
    path = os.path.join(folder, f"{mode}_config.json")
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        try:
            launch = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ReportError(f"{path}: expected JSON: {error}") from error
    if not isinstance(launch, dict) or not isinstance(launch.get("config", {}), dict):
        raise ReportError(f"{path}: expected the configuration of a run")
    return launch


def _read_table(folder: str, name: str, needed: Sequence[str]) -> Table | None:
    """Reads the numbers of a table; returns None where it is absent or empty.

    Args:
      folder: that it is in.
      name: of its file.
      needed: names of columns.
    """
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return None
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (ValueError, csv.Error) as error:
        raise ReportError(f"{path}: expected a table: {error}") from error
    rows = [row for row in rows if len(row) == len(header)]
    if not rows:
        return None
    columns = zip(header, zip(*rows, strict=True), strict=True)
    try:
        table = {
            column: np.array(values, dtype=np.float64)
            for column, values in columns
            if column not in NAMES
        }
    except ValueError as error:
        raise ReportError(f"{path}: expected numbers: {error}") from error
    _check_columns(path, table, needed)
    return table


def _check_columns(path: str, table: Table, needed: Sequence[str]) -> None:
    missing = [column for column in needed if column not in table]
    if missing:
        raise ReportError(f"{path}: expected a column {missing[0]}, found none")


def _read_data(launch: dict[str, Any]) -> Data | None:
    """Reads how a launch read its files; None where it does not say it."""
    values = launch.get("config", {}).get("data")
    if not isinstance(values, dict):
        return None
    known = {name: values[name] for name in DETECTOR_FIELDS if name in values}
    return resolve.build(Data, known, "data.")


def _find_detector(launch: dict[str, Any], table: Table) -> Detector:
    """Says whose metrics a table has, by its launch or else by its columns."""
    data = _read_data(launch)
    if data is not None:
        return read_detector(data)
    planes = [str(p) for p in range(len(table)) if f"plane{p}/mIoU" in table]
    names = [
        column.removeprefix("Average/").removesuffix("_IoU")
        for column in table
        if column.startswith("Average/") and column.endswith("_IoU")
    ]
    if not planes or not names:
        return COSMIC_TAGGER
    # Names begin with a capital in the table, whatever they are.
    names = [n.lower() if n[1:] in ("", n[1:].lower()) else n for n in names]
    classes = ",".join([COSMIC_TAGGER.classes[0], *names])
    return read_detector(Data(planes=",".join(planes), classes=classes))


def _read_confusion(
    folder: str, inference: Table | None, detector: Detector
) -> np.ndarray | None:
    table = _read_table(folder, "inference_confusion.csv", ("entry",))
    names = detector.confusion_names
    if table is None or inference is None or set(names) - set(table):
        return None
    if not np.array_equal(table["entry"], inference["entry"]):
        return None
    counts = np.stack([table[name] for name in names], -1)
    size = detector.num_classes
    return counts.reshape(-1, detector.num_planes, size, size)


def _read_found(folder: str, inference: Table | None) -> FoundEvents | None:
    found = read_found_events(folder)
    if found is None or inference is None:
        return None
    return found if np.array_equal(found.entries, inference["entry"]) else None


def _read_timings(folder: str) -> dict[str, np.ndarray]:
    timings = {}
    for mode, name in TIMING_FILES.items():
        path = os.path.join(folder, "profiles", f"{name}_timings.npy")
        if not os.path.isfile(path):
            continue
        try:
            found = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, MemoryError) as error:
            raise ReportError(f"{path}: expected timings: {error}") from error
        names = getattr(found, "dtype", np.dtype(float)).names or ()
        if not {"iteration", "step_s", "wait_s"} <= set(names):
            raise ReportError(f"{path}: expected timings, found others")
        if len(found):
            timings[mode] = found
    return timings


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested dictionary to one with dotted names."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
