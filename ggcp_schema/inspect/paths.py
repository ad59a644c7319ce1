"""Ranges of bytes of a file, each with the field that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from construct import ConstructError, Container

from ggcp_schema.constructs import LISTS, Extent, Field
from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.text import count_text, shorten

NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|\d{1,18}")
RANGE = re.compile(r"(?P<target>.*?)(?::(?P<length>[^\]]*))?", re.DOTALL)  # the colon of a slice is in brackets
MAX_LIST = 1000  # elements of a list that is shown and compared element by element
MAX_KEYS = 10_000  # keys, or other records with lists in them, of which all are shown
MAX_TEXT = 1 << 16  # characters of a text that JSON has
NOT_VALUES = (Container, *LISTS, Extent)
MAX_QUOTED = 40  # characters of a length that an error repeats


@contextmanager
def reading(file: File) -> Iterator[None]:
    """Convert the errors of a list that is parsed while it is shown: the file has been changed meanwhile."""
    try:
        yield
    except ConstructError as error:
        file.source.check_unchanged()
        raise FileError(f"{file.path}: {error}") from error


def is_long(field: Field) -> bool:
    """Return True for a list of more than MAX_LIST values, or of simple records, as tokens are; of keys, MAX_KEYS."""
    if not field.is_list or len(field.value) <= MAX_LIST:
        return False
    first = field.value[0]
    if not isinstance(first, Container):
        return True
    if "key" in first:
        return len(field.value) > MAX_KEYS
    return not any(isinstance(value, NOT_VALUES) for value in first.values())


@dataclass(frozen=True)
class Piece:
    """Bytes of one field, or of none (`field` is None) after damage. `offset` and `size` are in bytes."""

    field: Field | None
    offset: int
    size: int

    @property
    def path(self) -> str:
        """The path of the field; empty if the bytes belong to none."""
        return "" if self.field is None else self.field.path

    @property
    def start(self) -> int:
        """Where the field starts, which may be before these bytes of it."""
        return self.offset if self.field is None else self.field.offset


def place(file: File, where: str) -> tuple[int, int | None]:
    """Return the offset and the size that `PATH`, `OFFSET`, `PATH:LENGTH` or `OFFSET:LENGTH` means, in bytes.

    The size is None for a bare offset. PATH may be a slice, as in `File.lookup`. Numbers are decimal,
    or hexadecimal with 0x. Raises `UsageError`.
    """
    match = RANGE.fullmatch(where)
    target, length = (where, None) if match is None or file.field(where) else match.groups()
    size = None if length is None else number(length)
    if length is not None and not size:
        wrong = f"{shorten(length, MAX_QUOTED)!r} is not a length"
        raise UsageError(f"{shorten(where, MAX_QUOTED)}: {wrong}", "Give PATH:LENGTH or OFFSET:LENGTH, in bytes.")
    offset = number(target)
    if offset is not None:
        if not 0 <= offset < file.size:
            raise UsageError(f"offset {offset} is beyond the end of {file.path} ({count_text(file.size, 'byte')})")
        return offset, size
    if all(number(part) is not None for part in target.split("-")):
        raise UsageError(f"{target} is not an offset", "Give OFFSET:LENGTH, the length in bytes.")
    found = file.lookup(target)
    tensor = file.tensors.get(target.removesuffix(".data"))  # whose data may be that of another one
    offset, own = (tensor.offset, tensor.nbytes) if tensor and not found.size else (found.offset, found.size)
    if size is None and not own:
        raise UsageError(f"{target} occupies no bytes in {file.path}")
    if offset >= file.size:
        raise UsageError(f"there are no bytes at {target}, the end of {file.path}")
    return offset, own if size is None else size


def number(text: str) -> int | None:
    """Return a number in decimal, or in hexadecimal with 0x; None if the text is neither."""
    return int(text, 0 if text[:2] in ("0x", "0X") else 10) if NUMBER.fullmatch(text) else None


def pieces(file: File, offset: int, size: int) -> Iterator[Piece]:
    """Yield the fields of a range of the file, each cut to the range, and what follows damage as one piece."""
    end = min(offset + size, file.size)
    for leaf in _leaves_between(file.root, offset, end):
        start, stop = max(leaf.offset, offset), min(leaf.end, end)
        yield Piece(leaf, start, stop - start)
    known = file.root.end
    if end > known:
        yield Piece(None, max(known, offset), end - max(known, offset))


def _leaves_between(field: Field, start: int, stop: int) -> Iterator[Field]:
    """Yield the leaves that hold bytes from `start` to `stop`, in file order."""
    if not field.size or field.offset >= stop or field.end <= start:
        return
    if field.is_leaf:
        yield field
        return
    inner = field.children()
    first = getattr(inner, "index_at", lambda offset: 0)(max(start, field.offset)) or 0
    for child in field.elements(first) if field.is_list else inner:
        if child.offset >= stop:
            return
        yield from _leaves_between(child, start, stop)
