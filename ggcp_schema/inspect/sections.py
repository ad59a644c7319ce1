"""The reference of a format for people: its records as tables, with types, conditions and rules in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import construct
from construct import Construct
from construct.expr import BinExpr

from ggcp_schema.constructs import (
    Computed,
    Const,
    EitherOrder,
    GreedyRange,
    OneOf,
    Padding,
    PascalString,
    Pass,
    Payload,
    Struct,
    Terminated,
    docs_of,
    expression_text,
    expression_tree,
    kind_of,
    rule_text,
    unwrap,
)
from ggcp_schema.formats.file import Format
from ggcp_schema.inspect.reference import is_function
from ggcp_schema.schema.tensor import TENSOR, declared_shape

NEGATED = {"==": "!=", "!=": "=="}


@dataclass(frozen=True)
class Row:
    """A field: its `type`, the `condition` under which the file has it, the `rule` for its value, and a `note`.

    Each is in words, and may be empty except the name and the type.
    """

    name: str
    type: str
    condition: str = ""
    rule: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A record of the format, titled by its path, with its fields in file order; or the cases of a value."""

    title: str
    rows: tuple[Row, ...]


def sections(format: Format) -> list[Section]:
    """Return the records of the format: the file, each record in it once, then the tensor record if it has one."""
    found = list(_record("file", "", format.schema, ()))
    if any(row.type.startswith("tensor ") for section in found for row in section.rows):
        found += _record("tensor", "tensor", TENSOR, ())
    return found


def byte_order_text(format: Format) -> str:
    """Return what the reference says of the byte order."""
    either = isinstance(format.schema, EitherOrder)
    return "Numbers are in the byte order of the file." if either else "All numbers are little-endian."


def _record(title: str, path: str, record: Struct, around: tuple[object, ...]) -> Iterator[Section]:
    """Yield the section of a record, then those of the records in it. `around` are the records around it."""
    rows: list[Row] = []
    inner: list[tuple[str, Construct]] = []
    for declared in record.subcons:
        field = unwrap(declared)
        name = declared.name or "(end of file)"
        condition = ""
        if isinstance(field, construct.IfThenElse) and field.elsesubcon is Pass:
            condition = expression_text(field.condfunc)
            field = unwrap(field.thensubcon)
        rows.append(Row(name, type_text(field), condition, rule(field), docs_of(declared)))
        inner.append((f"{path}.{name}".removeprefix("."), field))
    section = Section(title, tuple(rows))
    if section.rows in around:  # a record in itself, such as an array of arrays
        return
    yield section
    for where, field in inner:
        yield from _inside(where, (), field, record, (*around, section.rows))


def _inside(
    path: str, conditions: tuple[str, ...], field: Construct, record: Struct, around: tuple[object, ...]
) -> Iterator[Section]:
    """Yield the sections of the records in a field of a record."""
    field = unwrap(field)
    title = f"{path} ({', '.join(conditions)})" if conditions else path
    if isinstance(field, construct.Struct):
        if not shape_of(field):
            yield from _record(title, path, field, around)
    elif isinstance(field, construct.Array):
        yield from _inside(f"{path}[i]", conditions, field.subcon, record, around)
    elif isinstance(field, construct.IfThenElse):
        if type_text(field) in ("record", f"record × {_count(field.thensubcon)}"):
            text = expression_text(field.condfunc)
            yield from _inside(path, (*conditions, text), field.thensubcon, record, around)
            yield from _inside(path, (*conditions, negated(field.condfunc)), field.elsesubcon, record, around)
    elif isinstance(field, construct.Switch) and type_text(field).startswith("by "):
        yield from _cases(path, conditions, field, record, around)


def _cases(
    path: str, conditions: tuple[str, ...], switch: construct.Switch, record: Struct, around: tuple[object, ...]
) -> Iterator[Section]:
    """Yield the cases of a switch as a section if some are values, then the sections of the cases that are records."""
    key = expression_text(switch.keyfunc)
    meanings = _meanings(record, key)
    if any(type_text(case) != "record" for case in switch.cases.values()):
        rows = [
            Row(str(value), type_text(case), rule=rule(case), note=meanings.get(value, ""))
            for value, case in switch.cases.items()
        ]
        if tuple(rows) not in around:
            yield Section(f"{path}, by {key}", tuple(rows))
    for value, case in switch.cases.items():
        yield from _inside(path, (*conditions, f"{key} == {value!r}"), case, record, around)


def _meanings(record: Struct, name: str) -> Mapping[Any, str]:
    """Return what the values of that field of the record mean."""
    field = next((unwrap(field) for field in record.subcons if field.name == name), None)
    return field.valids if isinstance(field, OneOf) and isinstance(field.valids, Mapping) else {}


def negated(expression: Any) -> str:
    """Return the text of the opposite of a condition."""
    text = expression_text(expression)
    if isinstance(expression, BinExpr):
        for sign, opposite in NEGATED.items():
            if f" {sign} " in text:
                return text.replace(f" {sign} ", f" {opposite} ", 1)
    return f"not ({text})"


def type_text(field: Construct) -> str:  # noqa: PLR0911 - a return for each kind of construct
    """Return the type in the reference's words: `u32`, `tensor [n_embd]`, `record × n_layer`."""
    field = unwrap(field)
    if isinstance(field, construct.IfThenElse):
        then, otherwise = type_text(field.thensubcon), type_text(field.elsesubcon)
        return then if then == otherwise else f"{then} if {expression_text(field.condfunc)}, else {otherwise}"
    if isinstance(field, construct.Switch):
        texts = {type_text(case) for case in field.cases.values()}
        return texts.pop() if len(texts) == 1 and "record" not in texts else f"by {expression_text(field.keyfunc)}"
    if isinstance(field, construct.Array):
        return f"{type_text(field.subcon)} × {_count(field)}"
    if isinstance(field, construct.Struct):
        shape = shape_of(field)
        return f"tensor [{', '.join(shape)}]{_null_text(field)}" if shape else "record"
    if isinstance(field, Computed):
        return "derived"
    if isinstance(field, PascalString):
        return f"string, its length as {type_text(field.lengthfield)} first"
    if isinstance(field, construct.Bytes):
        return f"{kind_of(field)} × {expression_text(field.length)}"
    if isinstance(field, Padding) and field.size is not None:
        return f"padding × {expression_text(field.size)}"
    if isinstance(field, construct.Subconstruct):
        return type_text(field.subcon)
    return kind_of(field)


def _count(field: Construct) -> str:
    field = unwrap(field)
    if isinstance(field, GreedyRange):
        return "any number"
    return expression_text(field.count) if isinstance(field, construct.Array) else ""


def rule(field: Construct) -> str:  # noqa: PLR0911 - a return for each kind of construct
    """Return what the value must be, or how it is computed; empty if there is nothing to say."""
    field = unwrap(field)
    if isinstance(field, construct.IfThenElse):
        texts = list(dict.fromkeys(filter(None, (rule(field.thensubcon), rule(field.elsesubcon)))))
        return " or ".join(texts)
    if isinstance(field, Computed):
        return f"= {_path_text(field.func)}" if not is_function(field.func) else f"= {expression_text(field.func)}()"
    if isinstance(field, Padding) and field.until is not None:
        return f"up to the offset {_call_text(field.until)}"
    if isinstance(field, Padding) and field.multiple_of is not None:
        text = f"up to the next multiple of {_call_text(field.multiple_of)} of the offset in the file"
        return f"{text}, or to its end" if field.optional else text
    if isinstance(field, Payload):
        return f"{_call_text(field.nbytes)} bytes"
    if field is Terminated:
        return "nothing may follow"
    return rule_text(field)


def _call_text(expression: Any) -> str:
    text = expression_text(expression)
    return f"{text}()" if is_function(expression) else text


def _path_text(expression: Any) -> str:
    """Return an expression with its path in full: `params.past`, where `expression_text` gives `past`."""
    tree = expression_tree(expression)
    return str(tree["field"]) if isinstance(tree, dict) and "field" in tree else expression_text(expression)


def shape_of(record: Construct) -> list[str]:
    """Return the shape that the schema requires of a tensor record, in ggml order; empty for other records."""
    return [expression_text(length) for length in declared_shape(record) or ()]


def _null_text(record: Construct) -> str:
    n_dims = next(unwrap(field) for field in record.subcons if field.name == "n_dims")
    return f", or NULL if {shape_of(record)[0]} == 0" if isinstance(n_dims, Const) and n_dims.dynamic else ""
