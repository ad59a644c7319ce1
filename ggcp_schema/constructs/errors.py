"""Errors that carry the path and the file offset of the field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from construct import ConstructError, Container, ListContainer, StreamError

from ggcp_schema.errors import FileError

Step = str | int
Steps = tuple[Step, ...]


class FieldError(ConstructError):
    """A field that does not match the schema.

    Attributes:
        steps: the path of the field, from the root: names, and indices of lists.
        offset: where the field begins in the stream, in bytes.
        expected: what the schema requires, in words.
        found: what was found, in words.
        missing: the number of bytes that the field lacks; None if the stream is not too short.
        size: the number of bytes that the field should have, if it lacks some.
        file_missing: the number of bytes that the whole file lacks; None if that is not known.
        partial: the values that were parsed before the error; None until a Struct or an Array adds its own.
        is_unknown: True if the value may be right in a file of a later program, so that this is no damage.
    """

    is_unknown = False

    def __init__(
        self,
        offset: int,
        expected: str,
        found: str,
        *,
        missing: int | None = None,
        size: int = 0,
        steps: Iterable[Step] = (),
        partial: Any = None,
    ) -> None:
        super().__init__(expected)
        self.steps, self.partial = list(steps), partial
        self.size = size
        self.offset, self.expected, self.found, self.missing = offset, expected, found, missing
        self.file_missing: int | None = None

    def within(self, step: Step | None, around: Container | ListContainer | None = None) -> FieldError:
        """Add the enclosing Struct's or Array's step and the values it has parsed so far, and return this error."""
        if step is not None:
            self.steps.insert(0, step)
        if around is not None:
            if isinstance(step, str) and self.partial is not None:
                around[step] = self.partial
            elif step is not None and self.partial is not None:
                around.append(self.partial)
            self.partial = around
        return self

    def __str__(self) -> str:
        return f"{format_path(self.steps)} at offset {self.offset} ({self.offset:#x}): {self.message}"

    @property
    def message(self) -> str:
        """What was expected and what was found: `expected 0 or 1, found 2`."""
        return f"expected {self.expected}, found {self.found}{self.shortage}"

    @property
    def shortage(self) -> str:
        """Say what is missing: `": the file is at least 1 byte too short"`; empty if the stream is not too short."""
        if self.missing is None:
            return ""
        if self.file_missing is None:
            return f": the file is at least {count_bytes(self.missing)} too short"
        return f": the file is {count_bytes(self.file_missing)} too short"


class DataGoneError(StreamError, FileError):
    """Data that was parsed but not read is no longer in its file, or in another place."""

    def __init__(self, file: str | None, message: str) -> None:
        super().__init__(message if file is None else f"{file}: {message}")
        self.filename, self.strerror = file or "the stream", message


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: `1 layer`, `0 layers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short_size(nbytes: int) -> str:
    """Return a size in at most 8 characters: `64 B`, `1.5 KiB`, `47 GiB`."""
    size, unit = float(nbytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 9.95 else f"{size:.1f} {unit}"


def count_bytes(number: int) -> str:
    """Return a number of bytes in words: `1 byte`, `13 bytes`."""
    return counted(number, "byte")


def format_path(steps: Iterable[Step]) -> str:
    """Return the path as text: `("layers", 1, "wq", "ne", 0)` as `layers[1].wq.ne[0]`, and the root as `file`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "file"


def too_short(offset: int, wanted: int, available: int) -> FieldError:
    """Return the error for a field of `wanted` bytes at `offset` where only `available` are left."""
    available = max(available, 0)
    found = f"{available:,} before the end of the file"
    return FieldError(offset, count_bytes(wanted), found, missing=wanted - available, size=wanted)


def negative(offset: int, length: int) -> FieldError:
    """Return the error for a field at `offset` whose length is negative."""
    return FieldError(offset, "a length of at least 0", str(length))


def report(error: FieldError, context: Container, *, found: Any = None) -> Any:
    """Report a wrong value.

    In a normal parse, raise `error`. In a tolerant parse, `parse_stream(stream, errors=[])`, add it to that list and
    return the value to continue with, `found`; raise if that is None. The errors in the list are in file order and have
    no paths: the offset identifies the field.
    """
    log: list[FieldError] | None = context["_params"].get("errors")
    if log is None or found is None:
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame
    log.append(error)
    return found
