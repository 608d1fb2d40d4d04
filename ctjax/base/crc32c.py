"""Computes CRC-32C, the checksum of TensorFlow's files, in numpy."""

import math

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_ALL_ONES = 0xFFFFFFFF


def _make_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        odd = (table & 1).astype(bool)
        table = np.where(odd, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


_TABLE = _make_table()


def crc32c(data: bytes) -> int:
    """Computes the checksum of some bytes.

    They are cut into as many lanes as a lane has bytes, which advance together. As a
    checksum is linear in what came before, those of the lanes are joined in the end.

    Args:
      data: any number of bytes.

    Source:
      RFC 3720, appendix B.4, which has values to compare with.
    """
    length = math.isqrt(len(data))
    state = _ALL_ONES
    if length > 0:
        count = len(data) // length
        lanes = np.frombuffer(data, np.uint8, count * length).reshape(count, length)
        states = np.zeros(count, np.uint32)
        states[0] = state
        for column in lanes.T:
            states = _advance(states, column)
        state = _join(states, length)
    for byte in data[length * (len(data) // length) :] if length else b"":
        state = int(_TABLE[(state ^ byte) & 0xFF]) ^ (state >> 8)
    return state ^ _ALL_ONES


def _advance(states: np.ndarray, column: np.ndarray | int) -> np.ndarray:
    """Advances each state by its byte."""
    return _TABLE[(states ^ column) & 0xFF] ^ (states >> 8)


def _join(states: np.ndarray, length: int) -> int:
    """Joins the states of lanes, each of so many bytes."""
    # What each value of each byte of a state becomes after a lane of zeros.
    places = np.array([[0], [8], [16], [24]], np.uint32)
    shifted = np.arange(256, dtype=np.uint32) << places
    for _ in range(length):
        shifted = _advance(shifted, 0)
    tables = shifted.tolist()
    total = 0
    for state in states.tolist():
        a, b, c, d = total & 0xFF, total >> 8 & 0xFF, total >> 16 & 0xFF, total >> 24
        total = tables[0][a] ^ tables[1][b] ^ tables[2][c] ^ tables[3][d] ^ state
    return total
