"""Finds fields by path in the one index of the file, its spans; and slices of tensor data."""

from __future__ import annotations

import array
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ggcp_schema.checkpoint import Checkpoint, unknown_path
from ggcp_schema.constructs import Extent, Span, format_path
from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.schema.tensor import ELEMENT_SIZE
from ggcp_schema.source import Source

SLICE = re.compile(r"(?P<path>.*)\[(?P<start>-?\d*)(?P<colon>:?)(?P<stop>-?\d*)\]")


@dataclass(frozen=True)
class Node:
    """A record, list or leaf of the file: `leaf` is its span, or None; `children` are in file order. `offset` and
    `size` are in bytes."""

    path: str
    offset: int
    size: int
    leaf: Span | None
    children: tuple[Node, ...]


def tree(spans: Iterable[Span]) -> tuple[Node, ...]:
    """The leaves, which must be in file order, as the records and lists that they are in."""
    return tuple(_nodes(list(spans), 0))


def _nodes(spans: list[Span], depth: int) -> Iterator[Node]:
    start = 0
    while start < len(spans):
        step, end = spans[start].steps[depth], start + 1
        while end < len(spans) and spans[end].steps[depth] == step:
            end += 1
        first, last = spans[start], spans[end - 1]
        leaf = first if len(first.steps) == depth + 1 else None
        children = () if leaf else tuple(_nodes(spans[start:end], depth + 1))
        path = format_path(first.steps[: depth + 1])
        yield Node(path, first.offset, last.offset + last.size - first.offset, leaf, children)
        start = end


def under(ckpt: Checkpoint, path: str) -> list[Span]:
    """The leaves at or below the path, in file order; all, if it is empty. Raises `UsageError` if there are none,
    or the damage behind which they may lie."""
    spans = ckpt.spans
    if not path:
        return list(spans.values())
    if path in spans:
        return [spans[path]]
    found = [span for name, span in spans.items() if name.startswith((f"{path}.", f"{path}["))]
    if not found:
        raise _absent(ckpt, path)
    return found


def _absent(ckpt: Checkpoint, path: str) -> GgcpError:
    return ckpt.damage or unknown_path(path, all_paths(ckpt.spans))


def all_paths(spans: Mapping[str, Span]) -> dict[str, None]:
    """Every path there is, of records and lists as well as of leaves."""
    paths: dict[str, None] = {}
    for span in spans.values():
        for depth in range(1, len(span.steps) + 1):
            paths[format_path(span.steps[:depth])] = None
    return paths


def value_at(ckpt: Checkpoint, path: str) -> tuple[Span, Any]:
    """The leaf at the path, and its value: a list for data, an element or a slice of it with `[i]` or `[a:b]`.

    Elements count in ggml order, the order of the file: `[0]` to `[ne[0] - 1]` are the first row. Slices are
    Python's, without a step. A path to a tensor means its data only with `.data`. Raises `UsageError` for a path
    that does not exist, or that is a record.
    """
    spans = ckpt.spans
    if path in spans:
        span = spans[path]
        if isinstance(span.value, Extent):
            return span, data_slice(ckpt.source, span.value, slice(None))
        return span, span.text if span.kind == "char" else span.value
    match = SLICE.fullmatch(path)
    if match and isinstance(spans.get(match["path"], _NOTHING).value, Extent):
        span = spans[match["path"]]
        return span, element_or_slice(ckpt.source, span.value, match)
    parts = [child.split(path, 1)[1].lstrip(".") for child in _children(spans, path)]
    if parts:
        raise UsageError(f"{path} is a record, not a value", f"It has {', '.join(parts)}.")
    raise _absent(ckpt, path)


_NOTHING = Span((), "", 0, 0, None)


def _children(spans: Mapping[str, Span], path: str) -> list[str]:
    depth = None
    children: dict[str, None] = {}
    for name, span in spans.items():
        if name.startswith((f"{path}.", f"{path}[")):
            if depth is None:
                depth = next(n for n in range(len(span.steps)) if format_path(span.steps[:n]) == path) + 1
            children[format_path(span.steps[:depth])] = None
    return list(children)


def element_or_slice(source: Source, extent: Extent, match: re.Match[str]) -> float | list[float]:
    """What `[i]` or `[a:b]` means of the data. Raises `UsageError` where there is no such element."""
    count = extent.nbytes // ELEMENT_SIZE
    start, stop = (int(match[name]) if match[name] else None for name in ("start", "stop"))
    if match["colon"]:
        return data_slice(source, extent, slice(start, stop))
    if start is None or not -count <= start < count:
        raise UsageError(f"{match['path']} has no element [{match['start']}]", f"It has {count} elements.")
    return data_slice(source, extent, slice(start % count, start % count + 1))[0]


def data_slice(source: Source, extent: Extent, part: slice) -> list[float]:
    """Those elements of the data, in ggml order."""
    start, stop, _ = part.indices(extent.nbytes // ELEMENT_SIZE)
    size = max(0, stop - start) * ELEMENT_SIZE
    values = array.array("f", raw_bytes(source, extent.offset + start * ELEMENT_SIZE, size))
    if sys.byteorder == "big":
        values.byteswap()
    return list(values)


def raw_bytes(source: Source, offset: int, size: int) -> bytes:
    """Those bytes of the file."""
    buffer = bytearray(size)
    source.read_into(memoryview(buffer), offset)
    return bytes(buffer)


@dataclass(frozen=True)
class Piece:
    """Bytes of one field, or of none (`path` is empty) behind damage."""

    path: str
    offset: int
    size: int


def pieces(ckpt: Checkpoint, offset: int, size: int) -> Iterator[Piece]:
    """The fields of that range of the file, cut to it. Raises `UsageError` if it begins outside the file."""
    if not 0 <= offset < max(ckpt.size, 1):
        raise UsageError(f"there is no offset {offset} in {ckpt.path}", f"It has {ckpt.size} bytes.")
    end = min(offset + size, ckpt.size)
    for span in ckpt.spans.values():
        if span.offset < end and span.offset + span.size > offset:
            start = max(span.offset, offset)
            yield Piece(span.path, start, min(span.offset + span.size, end) - start)
    known = max((span.offset + span.size for span in ckpt.spans.values()), default=0)
    if end > known:
        yield Piece("", max(known, offset), end - max(known, offset))


def place(ckpt: Checkpoint, where: str) -> tuple[int, int | None]:
    """The offset and size that `PATH`, `OFFSET`, or either with `:LENGTH` means; size None for a bare offset.

    Numbers are decimal, or hexadecimal with 0x. Raises `UsageError`.
    """
    target, colon, length = where.rpartition(":") if ":" in where else (where, "", "")
    size = _number(length) if colon else None
    if colon and size is None:
        raise UsageError(f"{where}: {length!r} is not a length", "Give PATH:LENGTH or OFFSET:LENGTH, in bytes.")
    offset = _number(target)
    if offset is None:
        spans = under(ckpt, target)
        offset = spans[0].offset
        size = spans[-1].offset + spans[-1].size - offset if size is None else size
    return offset, size


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
