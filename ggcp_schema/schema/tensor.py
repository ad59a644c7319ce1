"""The tensor record: a header, padding up to a multiple of 32 of the file offset, and the data."""

from functools import cache
from math import prod

from construct import Subconstruct

from ggcp_schema.constructs import (
    Expr,
    FieldError,
    Items,
    Name,
    OneOf,
    PaddingTo,
    Payload,
    Record,
    Ref,
    UInt32,
    insist,
)

ALIGNMENT = 32
ELEMENT_SIZE = 4
GGML_TYPES = {0: "F32"}
MAX_DIMS = 4
MIN_HEADER = 12


class TensorRecord(Record):
    """A tensor record of a given shape."""

    def __init__(self, shape: tuple[Expr, ...], null_if_zero: bool):
        self.shape, self.null_if_zero = shape, null_if_zero
        super().__init__(
            "n_dims" / Rank(shape, null_if_zero) * "0 for a tensor that the trainer did not have: a NULL",
            "name_len" / UInt32 * "0 for the optimizer's tensors",
            "type" / OneOf(UInt32, GGML_TYPES) * "ggml type",
            "ne" / Shape(shape) * "ggml order: the first is the fastest-varying",
            "name" / Name(Ref("name_len")) * "no terminator",
            "padding" / PaddingTo(ALIGNMENT) * "the trainer wrote zeros",
            "data" / Payload(Expr("4 * prod(ne)", data_size)) * "little-endian F32",
        )


@cache
def Tensor(*shape: Expr, null_if_zero: bool = False) -> TensorRecord:  # noqa: N802 - a construct, in a declaration
    """A tensor record that must have this shape; or any shape, if none is given.

    Shapes are in ggml order: the first number is the fastest-varying. With `null_if_zero` a tensor whose
    length would be 0 is a NULL instead: a record without dimensions and without data.
    """
    return TensorRecord(shape, null_if_zero)


def data_size(tensor) -> int:
    """Bytes of the data of a record whose `ne` is known; a NULL has none."""
    return ELEMENT_SIZE * prod(tensor["ne"]) if tensor["ne"] else 0


class Rank(Subconstruct):
    """`n_dims`: that of the shape."""

    kind = "u32"

    def __init__(self, shape: tuple[Expr, ...], null_if_zero: bool):
        super().__init__(UInt32)
        self.shape, self.null_if_zero = shape, null_if_zero

    def __str__(self):
        if not self.shape:
            return f"0 to {MAX_DIMS}"
        return f"{len(self.shape)}" + (f", or 0 where {self.shape[0]} = 0" if self.null_if_zero else "")

    def _parse(self, stream, context, path):
        return self._checked(self.subcon._parse(stream, context, path), stream, context)

    def _build(self, obj, stream, context, path):
        return self._checked(self.subcon._build(obj, stream, context, path), stream, context)

    def _checked(self, n_dims: int, stream, context) -> int:
        rank = len(self.shape)
        if rank and self.null_if_zero and self.shape[0](context) == 0:
            rank, wanted = 0, n_dims == 0
        else:
            wanted = n_dims == rank if rank else n_dims <= MAX_DIMS
        if wanted:
            return n_dims
        error = FieldError(stream.tell() - UInt32.length, str(rank) if self.shape else str(self), str(n_dims))
        return insist(error, context, found=n_dims if n_dims <= MAX_DIMS else None, expected=rank)


class Shape(Items):
    """`ne`: the numbers of the shape, which are expressions of earlier fields."""

    def __init__(self, shape: tuple[Expr, ...]):
        super().__init__(Ref("n_dims"), UInt32, floor=UInt32.length)
        self.shape = shape

    def __str__(self):
        return "[" + ", ".join(map(str, self.shape)) + "]" if self.shape else "any"

    def _parse(self, stream, context, path):
        return self._checked(super()._parse(stream, context, path), stream, context)

    def _build(self, obj, stream, context, path):
        return self._checked(super()._build(obj, stream, context, path), stream, context)

    def _checked(self, ne: list[int], stream, context) -> list[int]:
        for index, (dim, found) in enumerate(zip(self.shape, ne)):
            expected = dim.expected(context, found)
            if found != expected:
                offset = stream.tell() - UInt32.length * (len(ne) - index)
                error = FieldError(offset, f"{expected} ({dim})", str(found), step=index)
                ne[index] = insist(error, context, found=found, expected=expected)
        return ne


TENSOR = Tensor()
