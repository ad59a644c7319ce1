"""What a construct says of itself: the data from which the reference of a format is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from construct import Construct, Container, Error, Renamed, SizeofError

from ggcp_schema.constructs.expressions import expression_text

Node = dict[str, Any]
"""A description as JSON data. docs/JSON.md describes its keys."""


class Sizes(NamedTuple):
    """What the schema alone says of the size of a field.

    `least` is the least number of bytes that it can occupy, so that impossible counts are found early. `fixed` is its
    size if it is the same in every file; None if it varies or the field is computed.
    """

    least: int
    fixed: int | None = None

    @classmethod
    def of_either(cls, cases: Iterable[Construct]) -> Sizes:
        """Return the sizes of a field that is one of these, whichever the file has."""
        sizes = [sizes_of(case) for case in cases if case is not Error]
        fixed = {size.fixed for size in sizes}
        return cls(min(size.least for size in sizes), fixed.pop() if len(fixed) == 1 else None)


class Described:
    """A construct that describes itself.

    construct's `compile()` gives a construct that calls this one: generated code would have neither its checks nor the
    paths of its errors.
    """

    kind: str

    def reference(self) -> Node:
        """Return the description of what this construct parses."""
        return {"kind": self.kind}

    def sizes(self) -> Sizes:
        """Return what is known of the size without a file."""
        return _least_by_construct(self)

    def _emitparse(self, code: Any) -> NoReturn:
        raise NotImplementedError

    def _emitbuild(self, code: Any) -> NoReturn:
        raise NotImplementedError


def unwrap(field: Construct) -> Construct:
    """Return the construct without the `Renamed` wrappers that `"name" / field * "docs"` adds.

    Raises `TypeError` if a wrapper has a hook, `field * function`, which would not be called.
    """
    while isinstance(field, Renamed):
        if field.parsed is not None:
            raise TypeError(f"{field.name or 'a field'} has a hook (field * function), which is never called")
        field = field.subcon
    return field


def docs_of(field: Construct) -> str:
    """Return the note on a field: the nearest `* "docs"` among its `Renamed` wrappers; empty if there is none."""
    while isinstance(field, Renamed):
        if field.docs:
            return str(field.docs)
        field = field.subcon
    return str(getattr(field, "docs", "") or "")


def reference_of(field: Construct) -> Node:
    """Return the description of a construct. One of construct's own has only its class's name as its kind."""
    field = unwrap(field)
    return field.reference() if isinstance(field, Described) else {"kind": type(field).__name__}


def sizes_of(field: Construct) -> Sizes:
    """Return what the schema alone says of the size of a field."""
    field = unwrap(field)
    return field.sizes() if isinstance(field, Described) else _least_by_construct(field)


def _least_by_construct(field: Any) -> Sizes:
    """Return the size that construct's `sizeof` gives without a context, as the least; 0 if it needs one."""
    with suppress(SizeofError, KeyError, AttributeError, TypeError):
        return Sizes(int(field._sizeof(Container(), "")))
    return Sizes(0)


def nodes(node: Any) -> Iterator[Node]:
    """Yield a description, and all descriptions and expressions in it, in file order."""
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from nodes(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from nodes(inner)


def number_text(value: Any) -> str:
    """Return a value for a message: magic numbers in hex with their characters, `0x67676370 ('ggcp')`."""
    if not isinstance(value, int):
        return repr(value) if isinstance(value, bytes) else str(value)
    if abs(value) < 1 << 24:
        return str(int(value))  # a bool, the value of a condition, as a number
    text = value.to_bytes((value.bit_length() + 7) // 8, "big") if value > 0 else b""
    letters = len(text) == 4 and all(32 < byte < 127 for byte in text)
    return f"{value:#x} ({text.decode()!r})" if letters else str(value)


def rule_text(node: Node, most: int | None = None) -> str:
    """Return the rule that a value must follow, in words; empty if any value is valid.

    Of more than `most` valid numbers the first two and the last are given.
    """
    if "equals" in node:
        value = node["equals"]
        return expression_text(value) if isinstance(value, dict) else number_text(value)
    if "range" in node:
        return "{} to {}".format(*node["range"])
    meanings = node.get("names") or node.get("meanings") or dict.fromkeys(node.get("one_of", ()), "")
    texts = [f"{value} ({meaning})" if meaning else str(value) for value, meaning in meanings.items()]
    if "meanings" in node:
        texts.append("another number")
    if most is not None and len(texts) > most:
        texts[2:-1] = ["…"]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
