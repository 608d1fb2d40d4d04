"""Files of TensorFlow and Keras, read without either."""

import json
import shutil
import struct

import h5py
import numpy as np
import pytest

from ctjax.base.crc32c import crc32c
from ctjax.commands import tensorflow_files
from ctjax.models import tensorflow_weights
from ctjax.models.torch_weights import WeightsError

SOME = {
    "bottleneck/bias": np.arange(3, dtype=np.float32),
    "bottleneck/kernel": np.ones((1, 1, 4, 3), np.float32),
    "save_counter": np.array(7, np.int64),
}


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_checksum(data, expected):
    assert crc32c(data) == expected


def test_checksum_of_lanes_that_do_not_fill_the_data():
    data = np.random.default_rng(0).bytes(1000)
    for size in (1, 2, 3, 99, 100, 101, 999, 1000):
        state = 0xFFFFFFFF
        for byte in data[:size]:
            state ^= byte
            for _ in range(8):
                state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
        assert crc32c(data[:size]) == state ^ 0xFFFFFFFF


def varint(number):
    found = b""
    while number >= 0x80:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def masked(data):
    checksum = crc32c(data)
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def block(entries, compression=0):
    body, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value))
        body, before = body + key[shared:] + value, key
    body += struct.pack("<II", 0, 1) + bytes([compression])
    return body + masked(body)


def write_bundle(prefix, variables, compression=0, kind=None):
    """A checkpoint as TensorFlow writes it: index and data."""
    data, entries = b"", [(b"", field(1, 1))]
    types = {"float32": 1, "int64": 9}
    for name, array in sorted(variables.items()):
        raw = array.tobytes()
        shape = b"".join(field(2, field(1, size)) for size in array.shape)
        value = field(1, kind or types[array.dtype.name]) + field(2, shape)
        value += field(4, len(data)) + field(5, len(raw))
        value += varint(6 << 3 | 5) + masked(raw)
        key = f"{name}/.ATTRIBUTES/VARIABLE_VALUE".encode()
        entries.append((key, value))
        data += raw
    table = block(entries, compression)
    empty = block([])
    index = block([(b"zz", varint(0) + varint(len(table) - 5))])
    handles = varint(len(table)) + varint(len(empty) - 5)
    handles += varint(len(table) + len(empty)) + varint(len(index) - 5)
    footer = handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table + empty + index + footer)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)


@pytest.fixture
def prefix(tmp_path):
    write_bundle(tmp_path / "model_1.ckpt", SOME)
    return tmp_path / "model_1.ckpt"


def test_variables_of_a_bundle(prefix):
    found = tensorflow_files.read_bundle(str(prefix))
    assert set(found) == set(SOME)
    for name, array in SOME.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    tensors = tensorflow_weights.to_torch(found)
    assert set(tensors) == {"bottleneck.weight", "bottleneck.bias"}
    assert tensors["bottleneck.weight"].shape == (3, 4, 1, 1)


def cut(data):
    return data[:-1]


def flip(place):
    def change(data):
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        ("index", cut, "expected the index of a TensorFlow checkpoint: found no table"),
        ("index", lambda data: b"", "found no table"),
        ("index", flip(20), "found another checksum than its own"),
        ("data-00000-of-00001", cut, "data-00000-of-00001 ends before it"),
        ("data-00000-of-00001", flip(5), "bottleneck/bias.*another checksum than its"),
    ],
)
def test_damage_is_named(prefix, ending, change, words):
    path = prefix.with_name(f"{prefix.name}.{ending}")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=words):
        tensorflow_files.read_bundle(str(prefix))


def test_what_is_of_another_kind_is_named(tmp_path):
    for changes, words in (
        ({"compression": 1}, "compressed table"),
        ({"kind": 22}, "of type 22 or in slices, expected numbers, whole"),
        ({"kind": 2}, "12 bytes for an array of shape"),
    ):
        write_bundle(tmp_path / "m.ckpt", SOME, **changes)
        with pytest.raises(WeightsError, match=words):
            tensorflow_files.read_bundle(str(tmp_path / "m.ckpt"))
    (tmp_path / "m.ckpt.data-00000-of-00001").unlink()
    write_bundle(tmp_path / "other.ckpt", SOME)
    shutil.move(tmp_path / "other.ckpt.index", tmp_path / "m.ckpt.index")
    with pytest.raises(WeightsError, match="No such file"):
        tensorflow_files.read_bundle(str(tmp_path / "m.ckpt"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("bottleneck/vars/1", "bottleneck/bias"),
        (
            "layers/u_net_core/layers/u_net_core/layers/block_series_1/blocks/block_12/"
            "convolution/vars/0",
            "net_core/main_module/up_blocks/blocks/12/convolution/kernel",
        ),
        (
            "layers/u_net_core/layers/convolution_upsample/norm/vars/3",
            "net_core/upsample/norm/moving_variance",
        ),
    ],
)
def test_paths_of_keras(path, expected):
    assert tensorflow_weights.from_keras_path(path) == expected


def test_files_that_are_not_of_keras(tmp_path):
    path = tmp_path / "m.weights.h5"
    path.write_text("nothing")
    with pytest.raises(WeightsError, match="expected an HDF5 file"):
        tensorflow_files.read_keras(str(path))
    h5py.File(path, "w").close()
    with pytest.raises(WeightsError, match="found no variables"):
        tensorflow_files.read_keras(str(path))


def test_modules_of_the_competitions_code():
    names = tensorflow_weights.to_torch({"a/blocks/0/batch_norm/gamma": np.ones(3)})
    assert list(names) == ["a.blocks.0.norm.weight"]


@pytest.mark.parametrize(
    ("folder", "read", "name"),
    [
        ("checkpoint_tf2", tensorflow_files.read_bundle, "model_30.ckpt"),
        ("checkpoint_v21", tensorflow_files.read_keras, "model_30.weights.h5"),
    ],
)
def test_files_of_the_original(folder, read, name, shared_folder):
    golden = shared_folder / "golden/tensorflow" / folder
    with np.load(golden / "expected.npz") as arrays:
        expected = {
            key.removeprefix("state/"): arrays[key]
            for key in arrays
            if key.startswith("state/")
        }
        paths = json.loads(str(arrays["h5_names"])) if "h5_names" in arrays else {}
    found = read(str(golden / name))
    assert set(found) - {"_CHECKPOINTABLE_OBJECT_GRAPH"} == set(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array)
    for path, wanted in paths.items():
        assert tensorflow_weights.from_keras_path(path) == wanted
