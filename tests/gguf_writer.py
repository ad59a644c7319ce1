"""GGUF files by gguf's own writer. No code of the package is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, GGUFWriter


@contextmanager
def written_by_gguf(path: Path, architecture: str = "llama", **options: Any) -> Iterator[GGUFWriter]:
    """Yield a writer, which writes what it was given at the end of the block."""
    writer = GGUFWriter(path, architecture, **options)
    yield writer
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if any(writer.tensors):
        writer.write_tensors_to_file()
    writer.close()


def add_keys(writer: GGUFWriter, keys: Iterable[tuple[str, str, Any]]) -> None:
    """Add keys, each with its type (`UINT32`, `ARRAY/STRING`) and value."""
    for key, types, value in keys:
        kind, _, item = types.partition("/")
        writer.add_key_value(key, value, GGUFValueType[kind], sub_type=GGUFValueType[item] if item else None)
