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
    string    text of at most `longest` bytes that follows its `length` (TYPE), in `encoding`
    padding   bytes without meaning: `size` of them; or up to a multiple of `to_multiple_of` of the offset in the file,
              or up to the offset `until` (EXPRESSION each). With `optional` the file may end before or in the padding
    data      the elements of a tensor, `size` bytes (EXPRESSION). If the size is a function of the element type,
              `element_types` has {number: {name, block_size, type_size}}: blocks of block_size elements take type_size
              bytes, and a row is a whole number of blocks
    struct    `fields`, one after the other: [{name, type: TYPE, docs}]; the name is null for what has no value. `name`
              is the name of the type. That of a tensor also has its `shape` ([EXPRESSION, …], null if it is not fixed);
              with `null_if_zero` the record is that of a NULL if the only length is 0
    array     `count` elements (EXPRESSION) of the TYPE `of`; as many as fit until the end of the file if count is null
    if        the TYPE `then` if `condition` (EXPRESSION) is true, else the TYPE `else`
    switch    the TYPE of the case in `cases`, [{key, type}], whose key equals `on` (EXPRESSION); `default` is the TYPE
              for any other key, or null if another key is an error
    computed  no bytes: `value` is an EXPRESSION
    nothing   no bytes and no value
    end       the end of the file: nothing may follow

A number, or bytes, may have a rule that its value must follow: `equals` (EXPRESSION), `one_of` (a list of numbers),
`names` (an object: the valid numbers with their meanings), `meanings` (the same, but other numbers are valid too) or
`range` ([least, greatest]).

An EXPRESSION is a number, a string or a boolean; {"bytes": hex}; {"field": path}; {"op": operator, "args":
[EXPRESSION, …]} with Python's operators (a comparison counts as 1 or 0); {"function": name, "args": […]}, where "prod"
is the product of a list; or {"function": name}, a function of the record and of what was read before it, which
`functions` describes. A path is relative to the record that contains the field: "n_dims" is a field of the same record,
"_" is the record around it, "_root" the outermost one, and "_index" the index of the element in the innermost array. A
field is only ever computed from fields before it, except where a function is said to look ahead.
"""

from __future__ import annotations

from typing import TypedDict

from ggcp_schema.constructs import Node, nodes, reference_of
from ggcp_schema.formats.file import Format


class Note(TypedDict):
    """What a function computes, in words."""

    name: str
    text: str


class Reference(TypedDict):
    """The reference as JSON."""

    format: str
    title: str
    description: str
    magic: str
    root: Node
    functions: dict[str, str]
    notes: list[Note]


def reference(format: Format) -> Reference:
    """Return the reference as JSON data: see the top of this module."""
    root = reference_of(format.schema)
    notes = functions(root)
    for node in nodes(root):
        if "function" in node:
            node.pop("note", None)
            node.pop("kaitai", None)
    return {
        "format": format.name,
        "title": format.title,
        "description": format.description,
        "magic": format.magic.hex(),
        "root": root,
        "functions": notes,
        "notes": [{"name": name, "text": text} for name, text in notes.items()],
    }


def functions(root: Node) -> dict[str, str]:
    """Return the names of the functions of a record in a TYPE, with what they compute."""
    return {node["function"]: node["note"] for node in nodes(root) if "function" in node and "note" in node}
