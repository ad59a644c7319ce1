"""The reference of a format for programs, read off the schema itself. `sections` makes the one for people.

`reference` gives JSON data, complete enough to generate a reader in another language:

    {"format": name, "title": …, "description": …, "magic": the first bytes in hex, "root": TYPE,
     "functions": {name: docstring}, "notes": [{"name": …, "text": …}]}

A TYPE is an object whose `kind` is one of

    u8 i8 u16 i16 u32 i32 u64 i64 f32 f64
              a number; `size` in bytes, `byte_order` "little" or "big", or an EXPRESSION that has one of these values
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
from typing import Any

import construct
from construct import Construct
from construct.expr import BinExpr, FuncPath, Path, UniExpr

from ggcp_schema.constructs import (
    Computed,
    Const,
    EitherOrder,
    FormatField,
    GreedyRange,
    OneOf,
    Padding,
    PascalString,
    Payload,
    docs_of,
    expression_text,
    expression_tree,
    kind_of,
    unwrap,
)
from ggcp_schema.formats.file import Format
from ggcp_schema.schema.ggml import GgmlType

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
    if isinstance(field, EitherOrder):
        tree: dict[str, Any] = _in_either_order(type_tree(field.little), type_tree(field.big))
        return tree
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
    if isinstance(field, Padding) and field.until is not None:
        return {"kind": "padding", "until": _tree(field.until)}
    if isinstance(field, Padding) and field.multiple_of is not None:
        return {"kind": "padding", "to_multiple_of": _tree(field.multiple_of), "optional": field.optional}
    if isinstance(field, Padding):
        return {"kind": "padding", "size": _tree(field.size)}
    if isinstance(field, construct.Bytes):
        return {"kind": kind_of(field), "size": _tree(field.length)}
    if isinstance(field, Payload):
        types = _element_types(field.nbytes)
        return {"kind": "data", "size": _tree(field.nbytes)} | ({"element_types": types} if types else {})
    if isinstance(field, Computed):
        return {"kind": "computed", "value": _tree(field.func)}
    return {"kind": kind_of(field)}


def _in_either_order(little: Any, big: Any) -> Any:
    """Return the tree of a record of which there are two that differ only in the byte order."""
    if isinstance(little, dict):
        return {key: _in_either_order(value, big[key]) for key, value in little.items()}
    if isinstance(little, list):
        return [_in_either_order(*pair) for pair in zip(little, big, strict=True)]
    return little if little == big else {"field": "_root.byte_order"}


def _field_tree(declared: Construct) -> dict[str, Any]:
    return {"name": declared.name, "type": type_tree(declared), "docs": docs_of(declared)}


def _with_rule(tree: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
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
    if not is_function(expression):
        return {}
    names = inspect.getclosurevars(expression)
    for table in (*names.nonlocals.values(), *names.globals.values()):
        if isinstance(table, Mapping) and all(isinstance(kind, GgmlType) for kind in table.values()):
            return {str(number): kind._asdict() for number, kind in table.items()}
    return {}


def notes(format: Format) -> list[tuple[str, str]]:
    """Return the names of the functions that the schema calls, and what they compute."""
    return [(name, NOTES.get(name) or text) for name, text in functions(format).items()]


def functions(format: Format) -> dict[str, str]:
    """Return the names of the functions of a record that the schema calls, with their docstrings."""
    found: dict[str, str] = {}
    for field in constructs_in(format.schema):
        for name in (
            "func",
            "count",
            "multiple_of",
            "until",
            "nbytes",
            "size",
            "length",
            "condfunc",
            "keyfunc",
            "value",
        ):
            expression = getattr(field, name, None)
            if is_function(expression):
                found.setdefault(expression_text(expression), inspect.getdoc(expression) or "")
    return found


def is_function(expression: Any) -> bool:
    """Return True if the expression is a function of the record, which the reference names but cannot show."""
    return callable(expression) and not isinstance(expression, Path | BinExpr | UniExpr | FuncPath)


def constructs_in(field: Construct) -> Iterator[Construct]:
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
        yield from constructs_in(sub)
