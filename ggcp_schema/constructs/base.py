"""Errors that know where they are, and expressions of earlier fields."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any

from construct import ConstructError, Container, ListContainer

Steps = tuple["str | int", ...]


class FieldError(ConstructError):
    """A field that is not what the layout says.

    `steps` is the way to the field from the root, `offset` where it begins in the file in bytes, `missing`
    the number of bytes by which the file is too short, or None where it is not a matter of length. `partial`
    is what was parsed before it.
    """

    partial: Any = None

    def __init__(
        self, offset: int, expected: str, found: str, *, missing: int | None = None, step: str | int | None = None
    ) -> None:
        super().__init__(expected)
        self.steps: list[str | int] = [] if step is None else [step]
        self.offset, self.expected, self.found, self.missing = offset, expected, found, missing

    def within(self, step: str | int | None, around: Container | ListContainer) -> FieldError:
        """The same error seen from the record or list around the field."""
        if step is not None:
            self.steps.insert(0, step)
            if isinstance(step, str) and self.partial is not None:
                around[step] = self.partial
            elif self.partial is not None:
                around.append(self.partial)
        self.partial = around
        return self

    def __str__(self) -> str:
        short = "" if self.missing is None else f": the file is {self.missing} bytes too short"
        return (
            f"{format_path(self.steps)} at offset {self.offset} ({self.offset:#x}): "
            f"expected {self.expected}, found {self.found}{short}"
        )


def format_path(steps: list[str | int] | Steps) -> str:
    """`("layers", 1, "wq", "ne", 0)` as `layers[1].wq.ne[0]`; the root is `file`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "file"


class Expr:
    """A number or a condition that follows from earlier fields, with the words for it in the reference."""

    __slots__ = ("text", "value")

    def __init__(self, text: str, value: Callable[[Container], Any]) -> None:
        self.text, self.value = text, value

    def __call__(self, context: Container) -> Any:
        return self.value(context)

    def expected(self, context: Container, found: int) -> int:
        """What a field that states this number must hold, given what it holds."""
        number: int = self(context)
        return number

    def __str__(self) -> str:
        return self.text


class Stated(Expr):
    """A number that is in no field of its own: whoever states it first is believed, all others must agree."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(text, lambda context: context["_params"][text])

    def expected(self, context: Container, found: int) -> int:
        number: int = context["_params"].setdefault(self.text, found)
        return number


def lookup(context: Container, name: str) -> Any:
    """The nearest field of that name: in this record, else in the ones around it."""
    while name not in context:
        context = context["_"]
    return context[name]


class Ref(Expr):
    """An earlier field by its dotted name, sought from the record at hand outwards."""

    __slots__ = ("first", "rest")

    def __init__(self, path: str) -> None:
        self.text = path.rpartition(".")[2]
        self.first, *self.rest = path.split(".")

    def __call__(self, context: Container) -> Any:
        value = lookup(context, self.first)
        for name in self.rest:
            value = value[name]
        return value


def end_of(stream: IO[bytes], context: Container) -> int:
    """The stream's size, measured once a parse."""
    shared = context["_params"]
    if "_end" not in shared:
        here = stream.tell()
        shared["_end"] = stream.seek(0, io.SEEK_END)
        stream.seek(here)
    end: int = shared["_end"]
    return end


def too_short(offset: int, wanted: int, available: int) -> FieldError:
    """The error of a field that wants more bytes than there are."""
    available = max(available, 0)
    return FieldError(offset, f"{wanted} bytes", f"{available} before the end", missing=wanted - available)


def insist(error: FieldError, context: Container, *, found: int | None = None, expected: int | None = None) -> int:
    """Raises the error, unless a tolerant trace takes note of it; then gives the number to go on with.

    That is the one found or, if the trace mends, the one expected; None where parsing cannot go on with it.
    """
    trace = context["_params"].get("trace")
    number = None if trace is None else expected if trace.mends and expected is not None else found
    if number is None or not trace.tolerant:
        raise error
    trace.note(error)
    return number
