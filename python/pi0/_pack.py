"""A request as openpi-client packs it (MessagePack, arrays in msgpack-numpy's form), so that nothing else is needed."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np


def _size(length: int, fixed: int, limit: int, codes: tuple[int, ...]) -> bytes:
    """The head of something with a length: in one byte up to `limit`, then in 1, 2 or 4 more (codes has 2 or 3)."""
    if length < limit:
        return bytes([fixed | length])
    for code, form, most in zip(codes, ("BB", ">BH", ">BI")[-len(codes):], (1 << 8, 1 << 16, 1 << 32)[-len(codes):]):
        if length < most:
            return struct.pack(form, code, length)
    raise ValueError(f"expected fewer than 2^32 bytes or entries, found {length}")


def _pack_bytes(out: list[Any], raw: Any, length: int) -> None:
    out.append(_size(length, 0, 0, (0xC4, 0xC5, 0xC6)))
    out.append(raw)


def _pack_text(out: list[Any], text: str) -> None:
    raw = text.encode()
    out.append(_size(len(raw), 0xA0, 32, (0xD9, 0xDA, 0xDB)))
    out.append(raw)


def _pack_integer(out: list[Any], value: int) -> None:
    if -32 <= value < 128:
        out.append(struct.pack("b" if value < 0 else "B", value))
    elif -(1 << 63) <= value < 1 << 63:
        out.append(struct.pack(">Bq", 0xD3, value))
    else:
        out.append(struct.pack(">BQ", 0xCF, value))


def _pack_array(out: list[Any], array: "np.ndarray[Any, Any]") -> None:
    if array.dtype.kind in "VOc":
        raise TypeError(f"expected numbers, booleans or text, found an array of {array.dtype}")
    out.append(b"\x84")
    _pack_bytes(out, b"__ndarray__", 11)
    out.append(b"\xc3")
    _pack_bytes(out, b"data", 4)
    _pack_bytes(out, array.tobytes(), array.nbytes)
    _pack_bytes(out, b"dtype", 5)
    _pack_text(out, array.dtype.str)
    _pack_bytes(out, b"shape", 5)
    out.append(_size(array.ndim, 0x90, 16, (0xDC, 0xDD)))
    for length in array.shape:
        _pack_integer(out, length)


def _pack(out: list[Any], value: Any) -> None:
    if value is None:
        out.append(b"\xc0")
    elif isinstance(value, (bool, np.bool_)):
        out.append(b"\xc3" if value else b"\xc2")
    elif isinstance(value, str):
        _pack_text(out, value)
    elif isinstance(value, (bytes, bytearray)):
        _pack_bytes(out, bytes(value), len(value))
    elif isinstance(value, int):
        _pack_integer(out, value)
    elif isinstance(value, float):
        out.append(struct.pack(">Bd", 0xCB, value))
    elif isinstance(value, (np.ndarray, np.generic)):
        _pack_array(out, np.asarray(value))
    elif isinstance(value, dict):
        out.append(_size(len(value), 0x80, 16, (0xDE, 0xDF)))
        for key, entry in value.items():
            if not isinstance(key, str):
                raise TypeError(f"expected keys that are text, found {key!r}")
            _pack_text(out, key)
            _pack(out, entry)
    elif isinstance(value, (list, tuple)):
        out.append(_size(len(value), 0x90, 16, (0xDC, 0xDD)))
        for entry in value:
            _pack(out, entry)
    elif hasattr(value, "__array__"):  # tensors of other libraries
        _pack_array(out, np.asarray(value))
    else:
        raise TypeError(f"expected arrays, numbers, text, maps or lists, found {type(value).__name__}")


def pack(value: Any) -> bytes:
    out: list[Any] = []
    _pack(out, value)
    return b"".join(out)
