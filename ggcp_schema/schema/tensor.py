"""The tensor record: a header, padding up to a multiple of 32 of the file offset, and the data."""

from typing import Any

from construct import Construct

from ggcp_schema.constructs import (
    Array,
    Chars,
    Const,
    Int32ul,
    OneOf,
    Padding,
    Payload,
    Struct,
    Switch,
    prod_,
    this,
)

ALIGNMENT = 32
MAX_DIMS = 4
NAME_LENGTHS = range(1 << 16)  # ggml's names have fewer than 64 bytes; the bound keeps a wrong length out of the memory
F32 = {0: "F32"}


def Tensor(*ne, null_if_zero=False):  # noqa: N802 - named like the constructs beside which it stands
    """Return the record of a tensor of this shape; of any shape if none is given.

    The shape is in ggml order: the first number is the fastest-varying. With `null_if_zero`, a vector of length 0 is a
    NULL: a record without dimensions and without data.
    """
    n_dims = Const(ne[0] != 0 if null_if_zero else len(ne), Int32ul, tolerable=range(MAX_DIMS + 1))
    return Struct(
        "n_dims"
        / (n_dims if ne else OneOf(Int32ul, range(MAX_DIMS + 1)))
        * "0 for a NULL: the program had no such tensor",
        "name_len" / OneOf(Int32ul, NAME_LENGTHS) * "0 for the optimizer's tensors",
        "type" / OneOf(Int32ul, F32) * "ggml type",
        "ne" / Array(this.n_dims, shape(ne)) * "shape in ggml order: the first number is the fastest-varying",
        "name" / Chars(this.name_len) * "no terminator",
        "padding" / Padding(multiple_of=ALIGNMENT) * "zero in files from the trainers",
        "data" / Payload(4 * prod_(this.ne) * (this.n_dims != 0), ["<f"], shape=this.ne[::-1]) * "little-endian F32",
    )


def shape(ne):
    """Return the construct of an element of `ne`: the dimension of that index, which earlier fields tell."""
    dimensions = {index: Const(length, Int32ul) for index, length in enumerate(ne)}
    return Switch(this._index, dimensions, default=Int32ul) if dimensions else Int32ul


def declared_shape(record: Construct) -> tuple[Any, ...] | None:
    """Return the expressions of a tensor record's shape, in ggml order; None if the construct is not such a record."""
    ne = dict(record.fields).get("ne") if isinstance(record, Struct) else None
    dimensions = getattr(getattr(ne, "subcon", None), "cases", None)
    return tuple(field.value for field in dimensions.values()) if dimensions else None


TENSOR = Tensor()
