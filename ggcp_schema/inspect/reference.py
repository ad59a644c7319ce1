"""The reference of a format, read off the schema itself: as sections for people, and as JSON for programs.

`sections` gives the records of a format as tables, and `notes` what the functions compute that the schema calls.

`reference` gives the same as JSON data, complete enough to generate a reader in another language:

    {"format": name, "title": …, "description": …, "magic": the first bytes in hex, "root": TYPE,
     "functions": {name: docstring}, "notes": [{"name": …, "text": …}]}

A TYPE is an object whose `kind` is one of

    u8 i8 u16 i16 u32 i32 u64 i64 f32 f64
              a number; `size` in bytes, `byte_order` "little" or "big"
    bool      a byte that is 0 or 1
    char      text of `size` bytes (EXPRESSION), without a terminator
    bytes     `size` bytes
    string    text that follows its `length` (TYPE), in `encoding`
    padding   bytes without meaning: `size` of them; or up to a multiple of `to_multiple_of` of the offset in the file,
              or up to the offset `until` (EXPRESSION each). With `optional` the file may end before or in the padding
    data      the elements of a tensor, `size` bytes (EXPRESSION). If the size is a function of the element type,
              `element_types` has {number: {name, block_size, type_size}}: blocks of block_size elements take type_size
              bytes, and a row is a whole number of blocks
    struct    `fields`, one after the other: [{name, type: TYPE, docs}]; the name is null for what has no value
    array     `count` elements (EXPRESSION) of the TYPE `of`; as many as fit until the end of the file if count is null
    if        the TYPE `then` if `condition` (EXPRESSION) is true, else the TYPE `else`
    switch    the TYPE of the case in `cases`, [{key, type}], whose key equals `on` (EXPRESSION); `default` is the TYPE
              for any other key, or null if another key is an error
    computed  no bytes: `value` is an EXPRESSION
    nothing   no bytes and no value
    end       the end of the file: nothing may follow

A number, or bytes, may have a rule that its value must follow: `equals` (EXPRESSION), `one_of` (a list of numbers),
`names` (an object: the valid numbers with their meanings) or `range` ([least, greatest]).

An EXPRESSION is a number, a string or a boolean; {"bytes": hex}; {"field": path}; {"op": operator, "args":
[EXPRESSION, …]} with Python's operators (a comparison counts as 1 or 0); {"function": name, "args": […]}, where "prod"
is the product of a list; or {"function": name}, a function of the record and of what was read before it, which
`functions` describes. A path counts from the record that holds the field: "n_dims"
is a field of the same record, "_" is the record around it, "_root" the outermost one, and "_index" the index of the
element in the innermost array. A field is only ever computed from fields before it, except where a function is said
to look ahead.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import construct
from construct import Construct
from construct.expr import BinExpr, FuncPath, Path, UniExpr

from ggcp_schema.constructs import (
    Computed,
    Const,
    FormatField,
    GreedyRange,
    OneOf,
    PaddingTo,
    PaddingUntil,
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
from ggcp_schema.files.file import Format
from ggcp_schema.schema.ggml import GgmlType
from ggcp_schema.schema.tensor import TENSOR, declared_shape

NEGATED = {"==": "!=", "!=": "=="}

NOTES = {
    "n_ff": """\
The width of the feed-forward layers is the second dimension of layers[0].w1, which lies ahead: after the headers and
the data of 6 tensors. A model without layers has the width that its hyper-parameters give: `n_ff = ceil((2 * (4 *
n_embd) // 3) / n_mult) * n_mult`, in integers, or none if n_mult is 0. The trainers up to 24 August 2023 followed
this formula. A later writer stored n_mult 256 whatever the width was, so the shape of w1 counts.""",
    "optimizer_layout": """\
Version 0 is v0. In version 1, nx, iter, just_initialized and a tensor of the shape [nx] begin 8 bytes from here in
v1, and 96 bytes from here in v1-raw-params. The file contradicts a layout if just_initialized would be neither 0 nor
1, the tensor's n_dims not 1, or its ne[0] not nx. The layout is v1-raw-params if the file contradicts v1 and not
v1-raw-params; otherwise it is v1.""",
    "optimizer_type": """\
v0 and v1-raw-params store the type as params.type. In v1 it is inferred: see infer_optimizer_type.""",
    "infer_optimizer_type": """\
v1 does not store the optimizer's type. Let `remaining` be the number of bytes from here to the end of the file, and
`bound(ne) = 12 + 8 * n_dims + 48 + 31 + 4 * prod(ne)` the format author's upper bound on a tensor record. The state
has at most these sizes, in which the last summand counts only if past > 0:
  Adam    `12 + 2 * bound([nx])` + `bound([past])`
  L-BFGS  `24 + 5 * bound([nx]) + bound([past]) + 2 * bound([lbfgs_m]) + 2 * bound([nx, lbfgs_m])` + `bound([past])`
By size it is Adam if remaining is nearer to the first number, else L-BFGS. By the records it is Adam if the third
tensor ahead has the shape [past], or is NULL if past is 0, and L-BFGS if it has the shape [nx]; if both are the same,
L-BFGS if a fourth tensor of shape [nx] follows. The records decide unless they are inconclusive.""",
    "byte_order": """\
Big if the low half of the version, the 4 bytes that follow, is zero when it is read as a little-endian number, else
little. All numbers of the file, and the elements of its tensors, have this byte order.""",
    "alignment": "The value of the key general.alignment, or 32 if the file does not have it.",
    "data_start": "The offset in the file of the first byte after the padding: tensor offsets count from it.",
    "tensor_offset": "data_start + tensor_infos[i].offset, for the tensor with the index i.",
    "tensor_nbytes": """\
For a tensor with the dimensions ne, of a type with blocks of block_size elements that take type_size bytes each:
`ceil(ne[0] / block_size) * type_size * prod(ne[1:])`. A tensor without dimensions is a single number.""",
    "nbytes": """\
For a tensor with the dimensions ne, of a type with blocks of block_size elements that take type_size bytes each:
`ceil(ne[0] / block_size) * type_size * prod(ne[1:])`.""",
}
"""What the functions compute that the schemas call, for those who read the reference."""


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


# For people ------------------------------------------------------------------------------------------------


def sections(format: Format) -> list[Section]:
    """Return the records of the format: the file, each record in it once, then the tensor record if it has one."""
    found = list(_record("file", "", format.schema, ()))
    if any(row.type.startswith("tensor ") for section in found for row in section.rows):
        found += _record("tensor", "tensor", TENSOR, ())
    return found


def notes(format: Format) -> list[tuple[str, str]]:
    """Return the names of the functions that the schema calls, and what they compute."""
    return [(name, NOTES.get(name) or text) for name, text in functions(format).items()]


def byte_order_text(format: Format) -> str:
    """Return what the reference says of the byte order."""
    orders = {field.fmtstr[0] for field in _constructs(format.schema) if isinstance(field, FormatField)}
    return "All numbers are little-endian." if orders == {"<"} else "Numbers are in the byte order of the file."


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
    if isinstance(field, PaddingTo | Payload):
        return kind_of(field)
    if isinstance(field, construct.Bytes):
        return f"{kind_of(field)} × {expression_text(field.length)}"
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
        return f"= {_path_text(field.func)}" if not _is_function(field.func) else f"= {expression_text(field.func)}()"
    if isinstance(field, PaddingUntil):
        return f"up to the offset {_call_text(field.modulus)}"
    if isinstance(field, PaddingTo):
        text = f"up to the next multiple of {_call_text(field.modulus)} of the offset in the file"
        return f"{text}, or to its end" if field.optional else text
    if isinstance(field, Payload):
        return f"{_call_text(field.nbytes)} bytes"
    if field is Terminated:
        return "nothing may follow"
    return rule_text(field)


def _call_text(expression: Any) -> str:
    text = expression_text(expression)
    return f"{text}()" if _is_function(expression) else text


def _path_text(expression: Any) -> str:
    """Return an expression with its path in full: `params.past`, where `expression_text` gives `past`."""
    tree = expression_tree(expression)
    return str(tree["field"]) if isinstance(tree, dict) and "field" in tree else expression_text(expression)


def _is_function(expression: Any) -> bool:
    return callable(expression) and not isinstance(expression, Path | BinExpr | UniExpr | FuncPath)


def shape_of(record: Construct) -> list[str]:
    """Return the shape that the schema requires of a tensor record, in ggml order; empty for other records."""
    return [expression_text(length) for length in declared_shape(record) or ()]


def _null_text(record: Construct) -> str:
    n_dims = next(unwrap(field) for field in record.subcons if field.name == "n_dims")
    return f", or NULL if {shape_of(record)[0]} == 0" if isinstance(n_dims, Const) and n_dims.dynamic else ""


# For programs ----------------------------------------------------------------------------------------------


def reference(format: Format) -> dict[str, Any]:
    """Return the reference as JSON data: see the top of this module."""
    return {
        "format": format.name,
        "title": format.title,
        "description": format.description,
        "magic": format.magic.hex(),
        "root": type_tree(format.schema),
        "functions": functions(format),
        "notes": [{"name": name, "text": text} for name, text in notes(format)],
    }


def type_tree(field: Construct) -> dict[str, Any]:  # noqa: PLR0911, PLR0912 - a return for each kind of construct
    """Return the TYPE of a construct: see the top of this module."""
    field = unwrap(field)
    if isinstance(field, construct.Struct):
        return {"kind": "struct", "fields": [_field_tree(declared) for declared in field.subcons]}
    if isinstance(field, construct.Array):
        count = None if isinstance(field, GreedyRange) else _tree(field.count)
        return {"kind": "array", "count": count, "of": type_tree(field.subcon)}
    if isinstance(field, construct.IfThenElse):
        then, otherwise = type_tree(field.thensubcon), type_tree(field.elsesubcon)
        return {"kind": "if", "condition": _tree(field.condfunc), "then": then, "else": otherwise}
    if isinstance(field, construct.Switch):
        cases = [{"key": key, "type": type_tree(case)} for key, case in field.cases.items()]
        default = None if field.default is construct.Error else type_tree(field.default)
        return {"kind": "switch", "on": _tree(field.keyfunc), "cases": cases, "default": default}
    if isinstance(field, Const):
        return _with_rule(type_tree(field.subcon), {"equals": _tree(field.value)})
    if isinstance(field, OneOf):
        return _with_rule(type_tree(field.subcon), _valids(field))
    if isinstance(field, FormatField):
        order = "big" if field.fmtstr[0] == ">" else "little"
        return {"kind": field.kind, "size": field.length, "byte_order": order}
    if isinstance(field, PascalString):
        return {"kind": "string", "length": type_tree(field.lengthfield), "encoding": field.encoding}
    if isinstance(field, PaddingUntil):
        return {"kind": "padding", "until": _tree(field.modulus)}
    if isinstance(field, PaddingTo):
        return {"kind": "padding", "to_multiple_of": _tree(field.modulus), "optional": field.optional}
    if isinstance(field, construct.Bytes):
        return {"kind": kind_of(field), "size": _tree(field.length)}
    if isinstance(field, Payload):
        types = _element_types(field.nbytes)
        return {"kind": "data", "size": _tree(field.nbytes)} | ({"element_types": types} if types else {})
    if isinstance(field, Computed):
        return {"kind": "computed", "value": _tree(field.func)}
    return {"kind": kind_of(field)}


def _field_tree(declared: Construct) -> dict[str, Any]:
    return {"name": declared.name, "type": type_tree(declared), "docs": docs_of(declared)}


def _with_rule(tree: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """Return a TYPE with a rule. A rule on a number of either byte order is one on each of its two cases."""
    if tree["kind"] == "if":
        return tree | {"then": _with_rule(tree["then"], added), "else": _with_rule(tree["else"], added)}
    return tree | added


def _valids(field: OneOf) -> dict[str, Any]:
    if isinstance(field.valids, range):
        return {"range": [field.valids.start, field.valids.stop - 1]}
    if isinstance(field.valids, Mapping):
        return {"names": {str(value): meaning for value, meaning in field.valids.items()}}
    return {"one_of": list(field.valids)}


def _tree(expression: Any) -> Any:
    return {"bytes": expression.hex()} if isinstance(expression, bytes) else expression_tree(expression)


def _element_types(expression: Any) -> dict[str, dict[str, Any]]:
    """Return the table of element types that a function of a size refers to; empty if there is none."""
    if not _is_function(expression):
        return {}
    names = inspect.getclosurevars(expression)
    for table in (*names.nonlocals.values(), *names.globals.values()):
        if isinstance(table, Mapping) and all(isinstance(kind, GgmlType) for kind in table.values()):
            return {str(number): kind._asdict() for number, kind in table.items()}
    return {}


def functions(format: Format) -> dict[str, str]:
    """Return the names of the functions of a record that the schema calls, with their docstrings."""
    found: dict[str, str] = {}
    for field in _constructs(format.schema):
        for name in ("func", "count", "modulus", "nbytes", "length", "condfunc", "keyfunc", "value"):
            expression = getattr(field, name, None)
            if _is_function(expression):
                found.setdefault(expression_text(expression), inspect.getdoc(expression) or "")
    return found


def _constructs(field: Construct) -> Iterator[Construct]:
    """Yield a construct and all in it, in file order."""
    field = unwrap(field)
    yield field
    inner: list[Construct] = []
    if isinstance(field, construct.Struct):
        inner = list(field.subcons)
    elif isinstance(field, construct.IfThenElse):
        inner = [field.thensubcon, field.elsesubcon]
    elif isinstance(field, construct.Switch):
        inner = [*field.cases.values(), field.default]
    elif isinstance(field, PascalString):
        inner = [field.lengthfield]
    elif isinstance(field, construct.Subconstruct):
        inner = [field.subcon]
    for sub in inner:
        yield from _constructs(sub)
