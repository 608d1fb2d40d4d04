"""Describes trained weights from what their run has left: a model card, in Markdown.

The card has the parts of a Hugging Face model card: a head that programs read, what the
network is, how to use it, what it was trained on, how well it did, its limits.
"""

import math
import os
import re
from typing import Any

from ctjax.base.errors import UserError
from ctjax.learning import class_scores
from ctjax.views.report import tables
from ctjax.views.report.records import Record

HEAD = """---
library_name: ctjax
pipeline_tag: image-segmentation
tags: [neutrino, liquid-argon, {architecture}]
---
"""

UNKNOWN = "CONFIGURATION"
"""In the place of a configuration's name."""


def describe(
    record: Record,
    weights: str,
    step: int,
    checksum: str,
    configuration: str | None = None,
) -> str:
    """Writes the card of weights.

    Args:
      record: of the run that has trained them; of its inference, too, where it has one.
      weights: file name of the weights.
      step: of the training, at which they were saved.
      checksum: SHA-256 of that file, in hexadecimal digits.
      configuration: that the training was started with, by its name or file; None
        where that is not known.

    Returns:
      The card's text. Results are left out where the inference was of another step.
    """
    launch = record.launches["train"]
    name = os.path.splitext(os.path.basename(weights))[0]
    architecture = record.option("train", "network", "architecture")
    sections = [
        HEAD.format(architecture=architecture) + f"\n# {name}",
        _describe_network(record, launch),
        _describe_use(record, weights, step, checksum, configuration),
        _describe_training(record, launch, step),
        _describe_results(record, step),
        _describe_limits(record),
    ]
    return "\n\n".join(sections) + "\n"


def check(record: Record) -> None:
    """Refuses to describe what is no training.

    Raises:
      UserError: the folder has no record of a training.
    """
    if "train" not in record.launches:
        raise UserError(
            f"{record.folder}: found no train_config.json, expected the output folder "
            "of a training, which a model card describes"
        )


def _describe_network(record: Record, launch: dict[str, Any]) -> str:
    detector, network = record.detector, record.option("train", "network") or {}
    halved = 2 ** (record.option("train", "data", "downsample") or 0)
    transform = record.option("train", "data", "img_transform")
    parameters = launch.get("parameters")
    rows = {
        "network": f"`{network.get('architecture')}`, {network.get('name')}",
        "parameters": f"{parameters:,}" if parameters else None,
        "planes of an event": detector.num_planes,
        "classes": ", ".join(detector.classes),
        "pixels": f"squares of {halved} x {halved} stored ones"
        if halved > 1
        else "as stored",
        "charge": "log(1 + charge), of negative ones mirrored"
        if transform
        else "as is",
    }
    return "\n".join(
        [
            "Labels every pixel of the wire planes of a liquid-argon detector with a "
            "class.",
            "",
            *_table(("what", "value"), rows.items()),
        ]
    )


def _describe_use(
    record: Record, weights: str, step: int, checksum: str, configuration: str | None
) -> str:
    downsample = record.option("train", "data", "downsample") or 0
    config = os.path.basename(configuration or UNKNOWN)
    file_name = os.path.basename(weights)
    if configuration is None:
        meaning = (
            f"For `{UNKNOWN}` put the name or the file of the configuration that the\n"
            "network was trained with, which its record does not name"
        )
    else:
        meaning = "`config` is the configuration that the training was started with"
    return f"""## Use

```python
import ctjax

tagger = ctjax.load("{file_name}", config="{config}")
events = ctjax.open("events.h5", downsample={downsample})
classes = tagger.classify(events[0])
```

{meaning}; fields of `network` that were
typed beside it, which the command below may show, have to be in it.
Weights of step {step:,}; SHA-256 of the file `{checksum}`."""


def _describe_training(record: Record, launch: dict[str, Any], step: int) -> str:
    versions = launch.get("versions", {})
    machine = launch.get("machine", {})
    devices = ", ".join(
        f"{n} x {kind}" for kind, n in launch.get("devices", {}).items()
    )
    ended = launch.get("ended") or {}
    optimizer = record.option("train", "mode", "optimizer") or {}
    size = record.option("train", "run", "minibatch_size")
    seconds = ended.get("duration_s")
    command = _without_folders(tables.plain_command(str(launch.get("command", ""))))
    rows = {
        "data": _describe_data(launch.get("data")),
        "steps": f"{step:,} of {size} events",
        "optimizer": f"{optimizer.get('name')}, learning rate "
        f"{optimizer.get('learning_rate')}, {optimizer.get('lr_schedule')}",
        "loss": optimizer.get("loss_balance_scheme"),
        "precision": record.option("train", "run", "precision"),
        "seed": record.option("train", "run", "seed"),
        "devices": f"{devices} of {machine['processor']}, {machine['cores']} cores"
        if machine
        else devices,
        "duration": f"{seconds / 60:.0f} min since the last start" if seconds else None,
        "command": f"`{command}`" if command else None,
        "versions": ", ".join(
            f"{name} {versions[name]}"
            for name in ("ctjax", "ctjax_commit", "python", "jax", "flax", "optax")
            if versions.get(name)
        ),
        "date": launch.get("started"),
    }
    return "\n".join(["## Training", "", *_table(("what", "value"), rows.items())])


def _without_folders(words: str) -> str:
    """Leaves out the folders of a command's files, the trainer's own affair."""
    return re.sub(r"(?<=[\s=,])[/~][^\s,]*/", "", words)


def _describe_data(data: Any) -> str | None:
    """Names files by their last part, for the same reason."""
    if not isinstance(data, dict) or not data.get("events"):
        return None
    if not data.get("files"):
        return f"{data['events']:,} synthetic events"
    files = [
        f"{os.path.basename(file['file'])} ({file['events']:,} events, "
        f"{file['bytes']:,} bytes, sample SHA-256 `{str(file['sample_sha256'])[:16]}`)"
        for file in data["files"]
    ]
    return f"{data['events']:,} events: {'; '.join(files)}"


def _describe_results(record: Record, step: int) -> str:
    lines = ["## Results", ""]
    scores = tables.scores(record)
    launch = record.launches.get("inference", {})
    if not scores:
        return "\n".join([*lines, "Not measured: the run has no inference with truth."])
    tried = (launch.get("weights") or {}).get("step")
    if tried != step:
        words = f"Not measured: the run's inference was of step {tried}, not {step}."
        return "\n".join([*lines, words])
    lines += [
        f"On {_describe_data(launch.get('data'))}. Means over the events with their "
        "errors (bootstrap); of events with true pixels of the class, but for the last "
        "column.",
        "",
        *_table(
            ("class", "efficiency", "purity", "IoU", "false pixels in events without"),
            [
                (
                    each.name,
                    *(_written(m) for m in (each.efficiency, each.purity, each.iou)),
                    _written(each.false_pixels, "{:.1f}"),
                )
                for each in scores
            ],
        ),
        "",
        "CosmicTagger's metrics, means over the events and planes, where a class "
        "neither present nor predicted counts as 1:",
        "",
        *_table(
            ("metric", "mean"),
            [
                (tables.plain_words(metric), f"{values[0][0]:.4f}")
                for metric, values in tables.plane_metrics(record)
            ],
        ),
    ]
    return "\n".join(lines)


def _describe_limits(record: Record) -> str:
    downsample = record.option("train", "data", "downsample") or 0
    planes = record.detector.num_planes
    heads = [
        words
        for name, words in (
            ("classification", "classes of events"),
            ("vertex", "vertices"),
        )
        if record.option("train", "network", name, "active")
    ]
    beyond = (
        f"- Pixels, and {' and '.join(heads)}, whose results are not on this card: it\n"
        "  says nothing of energies or particles."
        if heads
        else "- Pixels only: it says nothing of energies, particles or vertices."
    )
    return f"""## Limits

- For images of {planes} planes with `data.downsample={downsample}`, of a detector and a
  simulation like those of the training; elsewhere it was not tried.
- The numbers are of one training from one seed. Their errors are those of the events
  drawn, not those of another training.
{beyond}"""


def _written(mean: class_scores.Mean, form: str = "{:.3f}") -> str:
    return "none" if math.isnan(mean.value) else mean.written(form)


def _table(heads: tuple[str, ...], rows: Any) -> list[str]:
    """Lays out a Markdown table; rows whose value is not known are left out."""
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(
            f"| {' | '.join(map(str, row))} |"
            for row in rows
            if all(cell not in (None, "") for cell in row)
        ),
    ]
