"""Sizes and reads of the stream that is parsed, checked before anything is allocated."""

from __future__ import annotations

import io
from typing import IO

from construct import Container

from ggcp_schema.constructs.errors import negative, too_short

CHUNK = 1 << 18  # bytes that are read or written at a time; they stay in a core's cache until they are used
SMALL = 64  # bytes that are read without measuring the stream first


def position(stream: IO[bytes]) -> int:
    """Return the position in the stream, as `tell` does, which asks the system each time."""
    return stream.seek(0, io.SEEK_CUR) or stream.tell()  # of an mmap, it is None before Python 3.13


def stream_end(stream: IO[bytes], context: Container) -> int:
    """Return the size of the stream in bytes. It is measured once per parse."""
    params = context["_params"]
    if "_end" not in params:
        here = stream.tell()
        stream.seek(0, io.SEEK_END)
        params["_end"] = stream.tell()
        stream.seek(here)
    end: int = params["_end"]
    return end


def read_exactly(stream: IO[bytes], length: int, context: Container) -> bytes:
    """Read `length` bytes. A length is checked against the size of the stream before anything is allocated.

    Raises `FieldError` if the stream ends first, or if the length is negative.
    """
    if length < 0:
        raise negative(stream.tell(), length)
    if length > SMALL:
        available = stream_end(stream, context) - stream.tell()
        if length > available:
            raise too_short(stream.tell(), length, available)
    data = stream.read(length)
    if len(data) != length:
        raise too_short(stream.tell() - len(data), length, len(data))
    return data
