"""construct, extended for files that are larger than memory and may be damaged. Nothing here is specific to ggcp.

The classes with construct's names are drop-ins for construct's own, with these additions: an error has the field's path
with list indices, its offset, what was expected and what was found, when parsing and when building; every size is
checked against the file before anything is read; a `Const` may be an expression; each describes itself in data. Hooks
(`field * function`) are refused, and `compile()` gains no speed. `Payload`, `LazyArray`, `Chars` and `Variants` are
new. `Field` is the tree of a parsed file's fields with their places.
"""

from construct import Error

from ggcp_schema.constructs.conditions import If, IfThenElse, Switch
from ggcp_schema.constructs.described import Node, nodes, number_text, reference_of, rule_text
from ggcp_schema.constructs.errors import (
    DataGoneError,
    FieldError,
    Steps,
    count_bytes,
    counted,
    format_path,
    short_size,
)
from ggcp_schema.constructs.expressions import Kaitai, compiled, expression_text, expression_tree, kaitai, prod_, this
from ggcp_schema.constructs.extents import Extent, Hollow, Origin, PatchedExtent, Payload
from ggcp_schema.constructs.fields import Bytes, Chars, Computed, Const, OneOf, Padding, PascalString, Pass, Terminated
from ggcp_schema.constructs.lazy import LazyArray, LazyList
from ggcp_schema.constructs.lists import LISTS, CopiedList, LongList, Row, column, each
from ggcp_schema.constructs.numbers import (
    Flag,
    Float32b,
    Float32l,
    Float64b,
    Float64l,
    Int8sl,
    Int8ul,
    Int16sb,
    Int16sl,
    Int16ub,
    Int16ul,
    Int32sb,
    Int32sl,
    Int32ub,
    Int32ul,
    Int64sb,
    Int64sl,
    Int64ub,
    Int64ul,
    NaN,
    number,
)
from ggcp_schema.constructs.records import Array, AtOnce, GreedyRange, Struct, Variants
from ggcp_schema.constructs.shown import Record
from ggcp_schema.constructs.streams import SMALL, stream_end
from ggcp_schema.constructs.tree import Field, root_field

__all__ = [
    "LISTS",
    "SMALL",
    "Array",
    "AtOnce",
    "Bytes",
    "Chars",
    "Computed",
    "Const",
    "CopiedList",
    "DataGoneError",
    "Error",
    "Extent",
    "Field",
    "FieldError",
    "Flag",
    "Float32b",
    "Float32l",
    "Float64b",
    "Float64l",
    "GreedyRange",
    "Hollow",
    "If",
    "IfThenElse",
    "Int8sl",
    "Int8ul",
    "Int16sb",
    "Int16sl",
    "Int16ub",
    "Int16ul",
    "Int32sb",
    "Int32sl",
    "Int32ub",
    "Int32ul",
    "Int64sb",
    "Int64sl",
    "Int64ub",
    "Int64ul",
    "Kaitai",
    "LazyArray",
    "LazyList",
    "LongList",
    "NaN",
    "Node",
    "OneOf",
    "Origin",
    "Padding",
    "PascalString",
    "Pass",
    "PatchedExtent",
    "Payload",
    "Record",
    "Row",
    "Steps",
    "Struct",
    "Switch",
    "Terminated",
    "Variants",
    "column",
    "compiled",
    "count_bytes",
    "counted",
    "each",
    "expression_text",
    "expression_tree",
    "format_path",
    "kaitai",
    "nodes",
    "number",
    "number_text",
    "prod_",
    "reference_of",
    "root_field",
    "rule_text",
    "short_size",
    "stream_end",
    "this",
]
