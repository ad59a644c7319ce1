"""GGUF files that the tests write from keys and tensors in one list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ggcp_schema.files.contents import Inspect
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.output import WHOLE, Parts, WriteOptions, placed_parts
from ggcp_schema.files.tensor_entries import TensorEntry
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.mapping.plan import Plan

Entry = KeyValue | TensorEntry


def content_of(plan: Plan) -> Gguf:
    """Return the content of a plan whose output is one GGUF file."""
    content = plan.parts[WHOLE]
    assert isinstance(content, Gguf)
    return content


def entries_of(plan: Plan) -> list[Entry]:
    content = content_of(plan)
    return [*content.keys, *content.tensors]


def write_gguf(path: Path, entries: Iterable[Entry], inspect: Inspect | None = None, **options: Any) -> int:
    """Write a GGUF file; `options` are those of `WriteOptions`. Return its size."""
    entries = list(entries)
    content = Gguf(
        [entry for entry in entries if isinstance(entry, KeyValue)],
        [entry for entry in entries if isinstance(entry, TensorEntry)],
    )
    return write_parts(path, {WHOLE: content}, WriteOptions(**options), inspect)


def write_parts(path: Path, parts: Parts, options: WriteOptions, inspect: Inspect | None = None) -> int:
    """Write a file or a folder. Return its size."""
    with placed_parts(path, parts, options, inspect) as size:
        return size
