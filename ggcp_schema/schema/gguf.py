"""The GGUF file, versions 2 and 3, in either byte order. The fields are named as in GGUF's specification."""

from ggcp_schema.constructs import (
    Array,
    Computed,
    Const,
    EitherOrder,
    Error,
    Flag,
    If,
    LazyArray,
    OneOf,
    Padding,
    PascalString,
    Payload,
    Struct,
    Switch,
    Terminated,
    number,
    this,
)
from ggcp_schema.schema.ggml import GGML_TYPES, data_size, names_of

LITTLE, BIG = "little", "big"
NUMBERS = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "u64", "i64", "f64")
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_NESTING = 4  # arrays in arrays

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


def alignment(gguf):
    """Return the value of the key general.alignment, or 32 if the file does not have it."""
    values = (item["value"] for item in gguf["metadata_kv"] if item["key"] == "general.alignment")
    value = next(values, DEFAULT_ALIGNMENT)
    return value if isinstance(value, int) and value > 0 else DEFAULT_ALIGNMENT


def data_start(gguf):
    """Return the offset in the file of the first byte after the padding, from which the offsets of tensors count."""
    return gguf["_io"].tell()


def tensor_offset(tensor):
    """Return the offset of a tensor's data in the file: data_start + tensor_infos[i].offset, i being its index."""
    root = tensor["_root"]
    return root["data_start"] + root["tensor_infos"][tensor["_index"]]["offset"]


def tensor_nbytes(tensor):
    """Return the size of the data of the tensor with the index i, whose dimensions and type are in tensor_infos[i].

    With blocks of block_size elements that take type_size bytes each, and the dimensions ne, it is `ceil(ne[0] /
    block_size) * type_size * prod(ne[1:])`. A tensor without dimensions is a single number.
    """
    info = tensor["_root"]["tensor_infos"][tensor["_index"]]
    return data_size(GGML_TYPES[info["type"]], info["dimensions"] or [1])


def gguf(order, size="u64", versions=VERSIONS):
    """Return the page of a file whose numbers have a byte order, `LITTLE` or `BIG`.

    Counts, lengths and dimensions are of type `size`.
    """
    u8, i8, u16, i16, u32, i32, f32, u64, i64, f64 = (number(kind, order) for kind in NUMBERS)
    count = number(size, order)
    key, string = PascalString(count, longest=(1 << 16) - 1), PascalString(count, longest=1 << 24)
    scalars = {0: u8, 1: i8, 2: u16, 3: i16, 4: u32, 5: i32, 6: f32, 7: Flag, 8: string, 10: u64, 11: i64, 12: f64}

    def byte_order(gguf):
        """Return the byte order of all numbers of the file, and of the elements of its tensors.

        It is big if the low half of the version, the 4 bytes that follow, is zero when it is read as a little-endian
        number, else little.
        """
        return order

    def array(nesting):
        """Return an array whose elements may be arrays, to that depth."""
        arrays = {9: array(nesting - 1)} if nesting > 1 else {}
        return Struct(
            "type" / OneOf(u32, VALUE_TYPES),
            "len" / count,
            "array" / LazyArray(this.len, Switch(this.type, {**scalars, **arrays}, default=Error)),
            type_name="array",
        )

    metadata_kv = Struct(
        "key" / key,
        "value_type" / OneOf(u32, VALUE_TYPES),
        "value" / Switch(this.value_type, {**scalars, 9: array(MAX_NESTING)}, default=Error),
        type_name="metadata_kv",
    )

    tensor_info = Struct(
        "name" / key,
        "n_dimensions" / OneOf(u32, range(MAX_DIMS + 1)),
        "dimensions" / Array(this.n_dimensions, count) * "in ggml order: the first is the fastest-varying",
        "type" / OneOf(u32, names_of(GGML_TYPES)) * "ggml type",
        "offset" / u64 * "of the data, from the end of the padding; a multiple of the alignment",
        type_name="tensor_info",
    )

    tensor_data = Struct(
        "padding" / Padding(until=tensor_offset),
        "data" / Payload(tensor_nbytes, types=GGML_TYPES),
        type_name="tensor_data",
    )

    return Struct(
        "magic" / Const(b"GGUF"),
        "byte_order" / Computed(byte_order),
        "version" / OneOf(u32, versions),
        "tensor_count" / count,
        "metadata_kv_count" / count,
        "metadata_kv" / Array(this.metadata_kv_count, metadata_kv),
        "tensor_infos" / Array(this.tensor_count, tensor_info),
        "alignment" / Computed(alignment) * "general.alignment, or 32",
        "padding" / If(this.tensor_count != 0, Padding(multiple_of=this.alignment)),
        "data_start" / Computed(data_start),
        "tensor_data" / Array(this.tensor_count, tensor_data) * "in the order of tensor_infos",
        "end_padding" / Padding(multiple_of=this.alignment, optional=True),
        Terminated,
        root=True,
        type_name="gguf",
    )


def is_big_endian(head):
    """Return True if the low half of the version, the number after the magic, is zero when read as little-endian."""
    low, high = head[4:6], head[6:8]
    return low == b"\0\0" and high != b"\0\0"


class Gguf(EitherOrder):
    """The page of a file in its byte order. Version 1, of 22 to 27 August 2023, has counts of 4 bytes.

    `reference` describes versions 2 and 3.
    """

    FIRST = gguf(LITTLE, "u32", (1,))

    def of(self, value):
        """Return the Struct that parsed or builds a value."""
        return self.FIRST if value.get("version") == 1 else super().of(value)

    def at(self, head):
        """Return the Struct of a file that begins with these bytes."""
        return self.FIRST if head[4:8] == b"\1\0\0\0" else super().at(head)


GGUF = Gguf(gguf(LITTLE), gguf(BIG), is_big_endian)
