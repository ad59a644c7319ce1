"""General construct pieces for files that are larger than memory and may be damaged.

They know nothing of ggcp. `Record` and `Items` are construct's `Struct` and `Array` with three additions:
an error that knows the field's path with list indices, its file offset, what was expected and what was
found; a check of every size against the file before anything is read or looped over; and an optional
`Trace` (`parse_stream(f, trace=Trace())`) that collects every leaf with its place in the file.

They bypass construct's `parsed` hooks and its path strings, which cost more than the parsing itself.
"""

from ggcp_schema.constructs.base import Expr, FieldError, Ref, Stated, Steps, end_of, format_path, insist, lookup
from ggcp_schema.constructs.leaves import (
    F32,
    Derived,
    EndOfFile,
    Extent,
    Hole,
    Int32,
    Int64,
    Name,
    OneOf,
    PaddingTo,
    Payload,
    UInt8,
    UInt32,
)
from ggcp_schema.constructs.records import Choice, If, Items, Record, unlabelled
from ggcp_schema.constructs.trace import Span, Trace

__all__ = [
    "F32",
    "Choice",
    "Derived",
    "EndOfFile",
    "Expr",
    "Extent",
    "FieldError",
    "Hole",
    "If",
    "Int32",
    "Int64",
    "Items",
    "Name",
    "OneOf",
    "PaddingTo",
    "Payload",
    "Record",
    "Ref",
    "Span",
    "Stated",
    "Steps",
    "Trace",
    "UInt8",
    "UInt32",
    "end_of",
    "format_path",
    "insist",
    "lookup",
    "unlabelled",
]
