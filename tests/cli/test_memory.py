"""The memory that files made to hurt take: at most 24 bytes for each byte of structure, besides that of the program."""

from __future__ import annotations

import contextlib
import gc
import os
import struct
import sys
import tracemalloc

import pytest
import typer

from ggcp_schema.cli.app import app

COUNT = 2_500
SLACK = 3 << 18  # bytes, for what is the same for all files, and the larger objects of Python 3.10


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(keys: list[bytes], tensors: list[bytes]) -> bytes:
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return data + bytes(-len(data) % 32 + 64)


def ggmf(n: int) -> bytes:
    head = b"fmgg" + struct.pack("<I7iI", 1, 1, 32, 1, 1, 1, 32, 0, 1) + b"a" + bytes(4)
    return head + b"".join(struct.pack("<IIII", 1, 5, 0, 0) + b"%05x" % i for i in range(n))


KINDS = {
    "ggmf": ggmf,
    "keys": lambda n: gguf([text(b"%x" % i) + struct.pack("<IB", 0, 1) for i in range(2 * n)], []),
    "names": lambda n: gguf([], [text(b"%x" % i) + struct.pack("<IQIQ", 1, 0, 0, 0) for i in range(n)]),
    "no dimensions": lambda n: gguf([], [text(b"%x" % i) + struct.pack("<IIQ", 0, 24, 0) for i in range(n)]),
}
COMMANDS = {"validate": 1, "tensors --json": 1, "diff": 2}


def peak(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command as the command line does, without the collector. Return the most memory that it took."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        with open(os.devnull, "w") as null, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", null)
            with contextlib.suppress(typer.Exit):
                app(arguments, standalone_mode=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory(kind, command, tmp_path, monkeypatch):
    path = tmp_path / "hostile.gguf"
    arguments = [*command.split(), *[str(path)] * COMMANDS[command]]
    monkeypatch.setattr("ggcp_schema.inspect.diff.MAX_ROWS", 100)  # so many are kept of any file
    monkeypatch.setattr("ggcp_schema.constructs.records.MANY", 100)
    path.write_bytes(KINDS[kind](4))
    peak(arguments, monkeypatch)  # imports
    path.write_bytes(KINDS[kind](COUNT))
    taken = peak(arguments, monkeypatch)
    assert taken <= SLACK + 24 * path.stat().st_size * COMMANDS[command]
