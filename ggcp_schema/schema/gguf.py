"""The GGUF file, versions 2 and 3, in either byte order. The fields are named as in GGUF's specification."""

from ggcp_schema.constructs import (
    Array,
    Computed,
    Const,
    Error,
    Flag,
    Float32b,
    Float32l,
    Float64b,
    Float64l,
    If,
    IfThenElse,
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
    LazyArray,
    OneOf,
    PaddingTo,
    PaddingUntil,
    PascalString,
    Payload,
    Struct,
    Switch,
    Terminated,
    this,
)
from ggcp_schema.schema.ggml import GGML_TYPES, data_size, names_of

LITTLE, BIG = "little", "big"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NESTING = 4  # arrays in arrays


def byte_order(gguf):
    """Return `big` if the low half of the version, which follows, is zero when read as little-endian; else `little`."""
    if gguf["_building"]:
        return gguf.get("byte_order", LITTLE)
    low, high = gguf["_io"].read(2), gguf["_io"].read(2)
    return BIG if low == b"\0\0" and high != b"\0\0" else LITTLE


def ordered(little, big):
    """Return a number in the byte order of the file."""
    return IfThenElse(this._root.byte_order == LITTLE, little, big)


UInt16, SInt16 = ordered(Int16ul, Int16ub), ordered(Int16sl, Int16sb)
UInt32, SInt32 = ordered(Int32ul, Int32ub), ordered(Int32sl, Int32sb)
UInt64, SInt64 = ordered(Int64ul, Int64ub), ordered(Int64sl, Int64sb)
Float32, Float64 = ordered(Float32l, Float32b), ordered(Float64l, Float64b)
Key = PascalString(UInt64, longest=(1 << 16) - 1)
String = PascalString(UInt64, longest=1 << 24)

VALUE_TYPES = {
    0: "UINT8",
    1: "INT8",
    2: "UINT16",
    3: "INT16",
    4: "UINT32",
    5: "INT32",
    6: "FLOAT32",
    7: "BOOL",
    8: "STRING",
    9: "ARRAY",
    10: "UINT64",
    11: "INT64",
    12: "FLOAT64",
}

SCALARS = {
    0: Int8ul,
    1: Int8sl,
    2: UInt16,
    3: SInt16,
    4: UInt32,
    5: SInt32,
    6: Float32,
    7: Flag,
    8: String,
    10: UInt64,
    11: SInt64,
    12: Float64,
}


def array(nesting):
    """Return an array whose elements may be arrays, to that depth."""
    arrays = {9: array(nesting - 1)} if nesting > 1 else {}
    return Struct(
        "type" / OneOf(UInt32, VALUE_TYPES),
        "len" / UInt64,
        "array" / LazyArray(this.len, Switch(this.type, {**SCALARS, **arrays}, default=Error)),
    )


METADATA_KV = Struct(
    "key" / Key,
    "value_type" / OneOf(UInt32, VALUE_TYPES),
    "value" / Switch(this.value_type, {**SCALARS, 9: array(MAX_NESTING)}, default=Error),
)

TENSOR_INFO = Struct(
    "name" / Key,
    "n_dimensions" / OneOf(UInt32, range(MAX_DIMS + 1)),
    "dimensions" / Array(this.n_dimensions, UInt64) * "in ggml order: the first is the fastest-varying",
    "type" / OneOf(UInt32, names_of(GGML_TYPES)) * "ggml type",
    "offset" / UInt64 * "of the data, from the end of the padding; a multiple of the alignment",
)


def alignment(gguf):
    """Return the value of `general.alignment`, or 32."""
    values = (item["value"] for item in gguf["metadata_kv"] if item["key"] == "general.alignment")
    value = next(values, DEFAULT_ALIGNMENT)
    return value if isinstance(value, int) and value > 0 else DEFAULT_ALIGNMENT


def data_start(gguf):
    """Return the offset of the first byte after the padding, from which the offsets of tensors count."""
    return gguf["_io"].tell()


def tensor_offset(tensor):
    """Return the offset of the tensor's data in the file."""
    root = tensor["_root"]
    return root["data_start"] + root["tensor_infos"][tensor["_index"]]["offset"]


def tensor_nbytes(tensor):
    """Return the size of the tensor's data, from its type and dimensions."""
    info = tensor["_root"]["tensor_infos"][tensor["_index"]]
    return data_size(GGML_TYPES[info["type"]], info["dimensions"] or [1])


TENSOR_DATA = Struct(
    "padding" / PaddingUntil(tensor_offset),
    "data" / Payload(tensor_nbytes),
)

GGUF = Struct(
    "magic" / Const(b"GGUF"),
    "byte_order" / Computed(byte_order),
    "version" / OneOf(UInt32, VERSIONS),
    "tensor_count" / UInt64,
    "metadata_kv_count" / UInt64,
    "metadata_kv" / Array(this.metadata_kv_count, METADATA_KV),
    "tensor_infos" / Array(this.tensor_count, TENSOR_INFO),
    "alignment" / Computed(alignment) * "general.alignment, or 32",
    "padding" / If(this.tensor_count != 0, PaddingTo(this.alignment)),
    "data_start" / Computed(data_start),
    "tensor_data" / Array(this.tensor_count, TENSOR_DATA) * "in the order of tensor_infos",
    "end_padding" / PaddingTo(this.alignment, optional=True),
    Terminated,
)
