"""Files of tensors, also those that claim what they do not hold."""

import json

import numpy as np
import pytest

from ctjax.base import safetensors
from ctjax.commands import import_weights
from ctjax.config.fields import Network
from ctjax.models.torch_weights import WeightsError


def content(header, data=b"\0" * 8):
    words = json.dumps(header).encode()
    return len(words).to_bytes(8, "little") + words + data


def entry(dtype="F32", shape=(2,), data_offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


def test_what_is_written_is_read(tmp_path):
    path = str(tmp_path / "a.safetensors")
    tensors = {
        "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "scalar": np.float32(2.5).reshape(()),
        "none": np.zeros((0, 3), np.float32),
    }
    safetensors.write(path, tensors, {"step": "7"})
    found, texts = safetensors.read(path)
    assert texts == {"step": "7"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)
    with open(path, "rb") as file:
        assert int.from_bytes(file.read(8), "little") % 8 == 0


def test_bytes_are_those_of_the_format(tmp_path):
    """A little-endian bfloat16 is the upper half of a float32."""
    path = tmp_path / "a.safetensors"
    halves = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    path.write_bytes(
        content({"x": entry("BF16", [2], [0, 4])}, halves.astype("<u2").tobytes())
    )
    found, texts = safetensors.read(str(path))
    np.testing.assert_array_equal(found["x"], np.float32([1.5, -2]), strict=True)
    assert texts == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "header of 0 bytes"),
        (b"\xff" * 8, "header of 18446744073709551615 bytes in a file of 8"),
        ((20).to_bytes(8, "little") + b"{}", "header of 20 bytes"),
        ((2).to_bytes(8, "little") + b"{x", "expected a file of tensors"),
        (content([1]), "no mapping"),
        (content({"x": 3}), "x: found 3 in the header"),
        (content({"x": entry("F8")}), "x: found"),
        (content({"x": entry(shape=[2**40])}), "expected 4398046511104 for its shape"),
        (content({"x": entry(shape=[-2])}), "bytes 0 to 8 of 8"),
        (content({"x": entry(data_offsets=[4, 12])}), "bytes 4 to 12 of 8"),
        (content({"__metadata__": {"step": "x"}}), "expected a file of tensors"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, data, words):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        import_weights.read_weights(str(path), {}, Network())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
