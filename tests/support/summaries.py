"""What TensorBoard would show: the scalars and pictures of a folder's event files."""

import collections
import pathlib
from collections.abc import Iterator
from typing import Any

from tensorboardX.proto.event_pb2 import Event


def read_events(folder: pathlib.Path) -> Iterator[Event]:
    """Yields every record: length (8 bytes), its checksum (4), event, checksum (4)."""
    for path in sorted(folder.glob("events.out.tfevents*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def read_scalars(folder: pathlib.Path) -> dict[str, dict[int, float]]:
    """Returns the value of every tag by its step."""
    found: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for event in read_events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                assert event.step not in found[value.tag], (value.tag, event.step)
                found[value.tag][event.step] = value.simple_value
    return dict(found)


def read_plugins(folder: pathlib.Path) -> list[tuple[str, str, int, Any]]:
    """Returns plugin, tag, step and value of what is neither scalar nor picture."""
    return [
        (value.metadata.plugin_data.plugin_name, value.tag, event.step, value)
        for event in read_events(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name
    ]


def read_images(folder: pathlib.Path) -> dict[tuple[str, int], bytes]:
    """Returns the PNG file of every picture by tag and step."""
    return {
        (value.tag, event.step): value.image.encoded_image_string
        for event in read_events(folder)
        for value in event.summary.value
        if value.HasField("image")
    }
