"""The memory that files made to hurt take: at most 24 bytes for each byte of structure, besides that of the program."""

from __future__ import annotations

import contextlib
import gc
import os
import struct
import sys
import tracemalloc
from itertools import product

import pytest
import typer

from ggcp_schema import open_file
from ggcp_schema.cli.app import app
from tests.builder import build_checkpoint
from tests.helpers import thinned
from tests.lora.lora_files import ggla

COUNT = 1_500
SLACK = 1 << 19  # bytes, for what is the same for all files, and the larger objects of Python 3.10


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(keys: list[bytes], tensors: list[bytes]) -> bytes:
    data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return data + bytes(-len(data) % 32) + b"\1" * 64


def ggmf(n: int) -> bytes:
    head = b"fmgg" + struct.pack("<I7iI", 1, 1, 32, 1, 1, 1, 32, 0, 1) + b"a" + bytes(4)
    return head + b"".join(struct.pack("<IIII", 1, 5, 0, 0) + b"%05x" % i for i in range(n))


def unsound(n: int) -> bytes:
    """Return a checkpoint whose x are not its weights, so that what it holds twice is searched for."""
    return build_checkpoint(n_vocab=3, n_embd=2, n_mult=2, n_head=1, n_layer=1 + n // 9)


KINDS = {
    "ggmf": ggmf,
    "unsound": unsound,
    "keys": lambda n: gguf([text(b"%x" % i) + struct.pack("<IB", 0, 1) for i in range(2 * n)], []),
    "no dimensions": lambda n: gguf([], [text(b"%x" % i) + struct.pack("<IIQ", 0, 24, 0) for i in range(n)]),
}
COMMANDS = {"validate --data": 1, "tensors --json": 1, "stats": 1, "diff": 2}


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command as the command line does."""
    with open(os.devnull, "w") as null, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", null)
        patch.setattr(sys, "stderr", null)
        with contextlib.suppress(typer.Exit):
            app(arguments, standalone_mode=False)


CASES = [*product(COMMANDS, KINDS)]


@pytest.mark.parametrize(("command", "kind"), thinned(CASES, [*CASES[::4], CASES[-2]]))
def test_memory(command, kind, tmp_path, monkeypatch):
    path = tmp_path / "hostile.gguf"
    arguments = [*command.split(), *[str(path)] * COMMANDS[command]]
    monkeypatch.setattr("ggcp_schema.inspect.diff.MAX_ROWS", 100)  # so many are kept of any file
    monkeypatch.setattr("ggcp_schema.cli.stats.MAX_TENSORS", 100)
    monkeypatch.setattr("ggcp_schema.constructs.records.MANY", 100)
    monkeypatch.setattr("ggcp_schema.constructs.lists.PACK", 50)
    path.write_bytes(KINDS[kind](4))
    run(arguments, monkeypatch)  # imports
    path.write_bytes(KINDS[kind](COUNT))
    gc.collect()
    gc.disable()  # as the command line does
    tracemalloc.start()
    try:
        run(arguments, monkeypatch)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert taken <= SLACK + 24 * path.stat().st_size * COMMANDS[command]


def test_memory_of_a_gap_in_an_adapter(tmp_path):
    """Any number of records may be lost between two of which one never follows the other."""
    first, second = (ggla({name: ((4, 8), (4, 8))}) for name in ("blk.0.attn_q", "unknown"))
    path = tmp_path / "hostile.ggla"
    for gap in (1 << 8, 1 << 22):  # the first is for the imports
        path.write_bytes(first + bytes([7]) * gap + second[16:])
        tracemalloc.start()
        try:
            with open_file(path, partial=True) as file:
                assert "unknown.weight.loraB" in file.tensors
            taken = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert taken <= path.stat().st_size
