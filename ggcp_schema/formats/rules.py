"""What breaks a rule of a format, and what is odd: the common vocabulary of all formats' rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from construct import Container

from ggcp_schema.constructs import Extent, Field, FieldError, Steps, count_bytes, format_path
from ggcp_schema.schema.ggml import GgmlType

if TYPE_CHECKING:
    from ggcp_schema.formats.file import File

MAX_FOUND = 1000  # errors, and warnings, of which a report has the texts


class Finding(NamedTuple):
    """Something odd that does not prevent reading: the path of the field, and what is odd about it."""

    path: str
    message: str


class Problem(NamedTuple):
    """A rule of the format that the file breaks.

    `missing` is the number of bytes that the field lacks, and `file_missing` is that of the whole file; None if
    the file is not too short, or if that is not known.
    """

    path: str
    offset: int
    expected: str
    found: str
    missing: int | None = None
    file_missing: int | None = None

    @property
    def message(self) -> str:
        """What was expected and what was found."""
        error = FieldError(self.offset, self.expected, self.found, missing=self.missing)
        error.file_missing = self.file_missing
        return error.message


class Refusal(NamedTuple):
    """A broken rule whose field is looked for when it is shown: `problem`. `offset` is that of the record."""

    offset: int
    steps: Steps
    expected: str
    found: str

    def problem(self, root: Field) -> Problem:
        """Return the error with the path and the offset of the field."""
        field = root.find(self.steps)
        if field is None:  # what precedes its record is lost
            return Problem(format_path(self.steps), self.offset, self.expected, self.found)
        return broken_field(field, self.expected, self.found)


class Oddity(NamedTuple):
    """Something that the format allows, but that is unusual or harmful."""

    path: str
    offset: int
    message: str


def odd_findings(file: File) -> Iterator[Oddity]:
    """Yield the findings of a file, with their offsets."""
    return (Oddity(finding.path, file.find(finding.path).offset, finding.message) for finding in file.findings)


class Rules(NamedTuple):
    """What the rules of a format find that its schema does not state, and the numbers of tensors.

    The errors and warnings may be iterators, so that very many take no memory.
    """

    checked: int
    expected: int | None
    errors: Iterable[Problem | Refusal]
    warnings: Iterable[Oddity]


T = TypeVar("T", Problem, Oddity)


class Found(tuple[T, ...]):
    """The first MAX_FOUND findings by offset. `total` counts all."""

    total = 0

    @classmethod
    def of(cls, findings: Iterable[T | Refusal], root: Field) -> Found[T]:
        """Return the findings in order; those of refusals in the tree of fields."""
        numbers, by_offset = count(), attrgetter("offset")
        first: list[Any] = nsmallest(MAX_FOUND, (finding for finding, _ in zip(findings, numbers)), key=by_offset)
        placed: Iterable[Any] = (
            finding.problem(root) if isinstance(finding, Refusal) else finding for finding in first
        )
        found = cls(sorted(placed, key=by_offset))
        found.total = next(numbers)
        return found

    @property
    def more(self) -> int:
        """How many findings were left out."""
        return self.total - len(self)


def odd_padding(path: str, padding: bytes | Extent, end: int) -> Iterator[Oddity]:
    """Yield a warning if padding that ends at the offset `end` is not zero."""
    if isinstance(padding, bytes) and padding.strip(b"\0"):
        size = len(padding)
        dirty = size - padding.count(0)
        verb = "is" if dirty == 1 else "are"
        yield Oddity(path, end - size, f"{dirty} of {count_bytes(size)} of padding {verb} not zero")


def repeated(path: str, name: str, records: Iterable[Container]) -> Iterator[Problem]:
    """Yield an error for each record with a name that an earlier one has."""
    seen: set[Any] = set()
    for index, record in enumerate(records):
        if record[name] in seen:
            text = record[name] if isinstance(record[name], str) else record[name].decode("utf-8", "backslashreplace")
            yield Problem(f"{path}[{index}].{name}", record["_offset"], "a name that is not used before", repr(text))
        seen.add(record[name])


def broken_rows(path: str, name: str, records: Iterable[Container], types: dict[int, GgmlType]) -> Iterator[Refusal]:
    """Yield an error for each quantized tensor whose rows are not a whole number of blocks."""
    for index, record in enumerate(records):
        kind, shape = types[record["type"]], record[name]
        if shape and shape[0] % kind.block_size:
            expected = f"a multiple of {kind.block_size} (the block size of {kind.name})"
            yield Refusal(record["_offset"], (path, index, name, 0), expected, str(shape[0]))


def broken_field(field: Field, expected: str, found: str) -> Problem:
    """Return an error for the value of a field."""
    return Problem(field.path, field.offset, expected, found)
