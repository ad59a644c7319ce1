"""Parsed values as text for a person, as `print` shows them."""

from __future__ import annotations

from typing import Any

from construct import Container, ListContainer

from ggcp_schema.constructs.described import number_text

MAX_BYTES = 40  # of a bytes value


class Record(Container):
    """The values of a Struct. Its text has a line for each, with magic numbers in letters and long bytes cut."""

    __slots__ = ()  # a file can have a million records

    def __str__(self) -> str:
        return "\n".join(_lines(self)).strip("\n") or "{}"

    __repr__ = __str__


def _lines(value: Any) -> list[str]:
    """Return the lines of a record or a list, each with a name or an index."""
    items = enumerate(value) if isinstance(value, list) else value.items()
    lines = []
    for name, item in items:
        label = f"[{name}]" if isinstance(name, int) else str(name)
        if str(name).startswith("_"):
            continue
        if not isinstance(item, Container | ListContainer) or type(item).__str__ not in SPREAD:
            lines.append(f"{label} = {_text(item)}")
        elif isinstance(item, list) and not any(isinstance(each, Container | list) for each in item):
            lines.append(f"{label} = {list(item)}")
        else:
            lines += [f"{label}:", *(f"    {line}" for line in _lines(item))]
    return lines


SPREAD = (Record.__str__, Container.__str__, ListContainer.__str__)
"""What writes values over lines; a record with a text of its own takes one line."""


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        more = f"… ({len(value):,} bytes)" if len(value) > MAX_BYTES else ""
        return f"{value[:MAX_BYTES]!r}{more}" if value.strip(b"\0") else f"{len(value)} × 00"
    return number_text(value) if isinstance(value, int) else str(value)
