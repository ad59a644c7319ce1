"""What a parse sees, leaf by leaf."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

from construct import Construct, Container, ListContainer

from ggcp_schema.constructs.base import FieldError, Steps, format_path
from ggcp_schema.constructs.records import If


class Span(NamedTuple):
    """One leaf of the file: where it is, what it holds, and the construct that says what that means.

    `value` is an `Extent` for data; a derived value has size 0.
    """

    steps: Steps
    kind: str
    offset: int
    size: int
    value: Any
    field: Construct | None = None

    @property
    def path(self) -> str:
        return format_path(self.steps)

    @property
    def text(self) -> str:
        """The value of a `char` leaf as text; what is not UTF-8 as backslash escapes."""
        text: str = self.value.decode("utf-8", "backslashreplace")
        return text


class Trace:
    """Collects the leaves of a parse in file order, up to the damage if there is some.

    A tolerant trace also collects the errors after which parsing can go on, instead of stopping at the first. It
    goes on with the number that was found; one that also `mends` with the number that was expected, where only
    one can be.
    """

    def __init__(self, *, tolerant: bool = False, mends: bool = False) -> None:
        self.tolerant, self.mends = tolerant, mends
        self.steps: list[str | int] = []
        self.spans: list[Span] = []
        self.errors: list[FieldError] = []

    def parse(self, step: str | int | None, field: Construct, stream: IO[bytes], context: Container) -> Any:
        """Parses the field; if that brought no leaves of its own, the field is one."""
        if step is None:
            return field._parse(stream, context, "")
        offset, count = stream.tell(), len(self.spans)
        self.steps.append(step)
        value = field._parse(stream, context, "")
        if len(self.spans) == count and value is not None and not isinstance(value, ListContainer):
            leaf = field.thensubcon if isinstance(field, If) else field
            self.spans.append(Span(tuple(self.steps), leaf.kind, offset, stream.tell() - offset, value, leaf))
        self.steps.pop()  # not on an error: the steps then say where parsing ended
        return value

    def note(self, error: FieldError) -> None:
        error.steps = [*self.steps, *error.steps]
        self.errors.append(error)
