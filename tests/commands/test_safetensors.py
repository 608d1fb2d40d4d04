"""Weights as .safetensors, and files that claim what they do not hold."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ctjax.commands import import_weights
from ctjax.config.fields import Config
from ctjax.models.torch_weights import WeightsError


def content(header, data=b"\0" * 8):
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(words).to_bytes(8, "little") + words + data


def entry(dtype="F32", shape=(2,), data_offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        content(b"{x"),
        content(b"[" * 100_000),
        content([1]),
        content({"x": 3}),
        content({"x": entry("F8", [8])}),
        content({"x": entry(shape=[2**40])}),
        content({"x": entry(data_offsets=[4, 12])}),
        content({"x": entry(), "y": entry()}),
        content({"__metadata__": {"step": 3}, "x": entry()}),
    ],
)
def test_damaged_files_are_one_line(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        import_weights.read_weights(str(path), {}, Config())
    assert f"{path}: expected a file of tensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bfloat16_becomes_float32(tmp_path):
    """A little-endian bfloat16 is the upper half of a float32."""
    path = tmp_path / "a.safetensors"
    halves = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    header = {"x": entry("BF16", [2], [0, 4])}
    path.write_bytes(content(header, halves.astype("<u2").tobytes()))
    found, _ = import_weights._read_safetensors(str(path))
    np.testing.assert_array_equal(found["x"], np.float32([1.5, -2]), strict=True)


@pytest.mark.parametrize(
    ("texts", "step"), [(None, 0), ({"step": "12"}, 12), ({"step": "last"}, 0)]
)
def test_step_is_in_the_header(tmp_path, texts, step):
    path = str(tmp_path / "a.safetensors")
    tensors = {"x": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    save_file(tensors, path, metadata=texts)
    found, found_step = import_weights._read_safetensors(path)
    assert found_step == step
    np.testing.assert_array_equal(found["x"], tensors["x"], strict=True)
