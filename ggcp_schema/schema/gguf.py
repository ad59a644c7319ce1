"""The GGUF file, versions 1 to 3, in either byte order. The fields are named as in GGUF's specification."""

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from math import inf
from operator import lt
from typing import Any

from ggcp_schema.constructs import (
    Array,
    Computed,
    Const,
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
    Variants,
    column,
    each,
    kaitai,
    number,
    stream_end,
    this,
)
from ggcp_schema.schema import at_once
from ggcp_schema.schema.ggml import GGML_TYPES, LATER_VERSION, data_size, kaitai_size, names_of
from ggcp_schema.schema.trailing import TRAILING, given_size

LITTLE, BIG = "little", "big"
NUMBERS = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "u64", "i64", "f64")
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 24  # bytes, more than any page of memory that a file is mapped by
MAX_DIMS = 8  # llama.cpp refuses more than 4
MAX_NESTING = 4  # arrays in arrays

TYPES = "UINT8 INT8 UINT16 INT16 UINT32 INT32 FLOAT32 BOOL STRING ARRAY UINT64 INT64 FLOAT64"
VALUE_TYPES = dict(enumerate(TYPES.split()))
UNKNOWN_TYPE = ", a type that this program does not know: nothing tells where its value ends"


@kaitai(
    "metadata_kv_count > 0 and alignment_ahead.last.value > 0 and "
    f"alignment_ahead.last.value <= {MAX_ALIGNMENT} ? alignment_ahead.last.value : {DEFAULT_ALIGNMENT}",
    seq={
        "type": "alignment_of(metadata_kv[_index], _index == 0 ? 0 : alignment_ahead[_index - 1].value)",
        "repeat": "expr",
        "repeat-expr": "metadata_kv_count",
    },
    types={
        "alignment_of": {
            "doc": "The alignment that a key or one before it states; 0 if none does.",
            "params": [{"id": "kv", "type": "metadata_kv"}, {"id": "before", "type": "u4"}],
            "instances": {
                "is_stated": {"value": 'kv.key.text == "general.alignment" and kv.value_type == value_type::uint32'},
                "value": {"value": "before == 0 and is_stated ? kv.value.as<u4> : before"},
            },
        },
    },
)
def alignment(gguf):
    """Return the value of the key general.alignment, or 32 if the file does not have it, or a value that none has.

    Such a value is 0, more than 2**24, or no integer.
    """
    values = (item["value"] for item in gguf["metadata_kv"] if item["key"] == "general.alignment")
    value = next(values, DEFAULT_ALIGNMENT)
    return value if isinstance(value, int) and 0 < value <= MAX_ALIGNMENT else DEFAULT_ALIGNMENT


@kaitai(
    "data_start_ahead.offset",
    seq={"type": "place(_io.pos)"},
    types={"place": {"params": [{"id": "offset", "type": "u8"}]}},
)
def data_start(gguf):
    """Return the offset in the file of the first byte after the padding, from which the offsets of tensors count."""
    return gguf["_io"].tell()


class Extents(Sequence[tuple[int, Any]]):
    """Where the data of each tensor begins and ends in the file, in the order of `tensor_infos`.

    The type and the dimensions tell the size. The data of a type that is not known is all that lies before the next
    tensor, or before `end`; without it the end of such data at the end of the file is None.
    `_begins` of a damaged file are the places at which they are found.
    """

    def __init__(self, gguf: Mapping[str, Any], end: int | None = None) -> None:
        start, infos = gguf["data_start"], gguf["tensor_infos"]
        self.begins = column(gguf.get("_begins") or [start + offset for offset in each(infos, "offset")])
        kinds = zip(each(infos, "type"), each(infos, "dimensions"))
        self._sizes = column([_size(number, *lengths) for number, lengths in kinds])
        self._end = end

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, index: Any) -> Any:
        begin, size = self.begins[index], self._sizes[index]
        if size >= 0:
            return begin, begin + size
        later = bisect_right(self._starts, begin)
        stop = self._starts[later] if later < len(self._starts) else self._end
        return begin, None if stop is None else max(begin, stop)

    @cached_property
    def _starts(self) -> list[int]:
        return sorted(self.begins)


def size_of(info: Mapping[str, Any]) -> int:
    """Return the size of a tensor's data; -1 if its type is not known."""
    return _size(info["type"], *info["dimensions"])


@lru_cache
def _size(number: int, *dimensions: int) -> int:
    kind = GGML_TYPES.get(number)
    return -1 if kind is None else data_size(kind, [*dimensions] or [1])


def in_order(found: Extents) -> Sequence[int]:
    """Return the indices of tensors in the order of their data. Of two that begin at one place the shorter is first.

    Data whose end is not known reaches to the end of the file.
    """

    def key(place):
        begin, end = place
        return begin, inf if end is None else end

    later = islice(found.begins, 1, None)
    if all(map(lt, found.begins, later)) or all(one <= two for one, two in pairwise(map(key, found))):
        return range(len(found))
    return array("Q", sorted(range(len(found)), key=lambda index: key(found[index])))


def extent_of(tensor):
    """Return where the data of the tensor begins and ends; None for an end that is not known when building."""
    root, index = tensor["_root"], tensor["_index"]
    if "_extents" not in root:  # all at once: the next tensor is found by sorting
        found = Extents(root, None if tensor["_building"] else stream_end(tensor["_io"], tensor))
        root["_extents"], root["_order"], root["_extent"] = found, in_order(found), (None, None)
    if root["_extent"][0] != index:
        root["_extent"] = index, root["_extents"][root["_order"][index]]
    return root["_extent"][1]


def tensor_offset(tensor):
    """Return the offset in the file of the data with the index i, in the order of the tensors' offsets.

    It is data_start + offset, or the end of the data before if that is greater, as in files whose tensors share data.
    """
    return max(extent_of(tensor)[0], tensor["_io"].tell())


SIZE_IN_KAITAI = kaitai_size(GGML_TYPES, "dimensions", "n_dimensions", MAX_DIMS)


@kaitai(
    types={
        "tensor_info": {
            "instances": {
                "data": {"pos": "_root.data_start + offset", "size": "nbytes", "if": "is_known"},
                "is_known": {"value": f"type.to_i <= {max(GGML_TYPES)}"},
                "nbytes": {"value": f"n_dimensions == 0 ? type_size : {SIZE_IN_KAITAI['value']}"},
                **SIZE_IN_KAITAI["instances"],
            }
        }
    }
)
def tensor_nbytes(tensor):
    """Return the size of the data with the index i, in the order of the tensors' offsets.

    With blocks of block_size elements that take type_size bytes each, and the dimensions ne, it is `ceil(ne[0] /
    block_size) * type_size * prod(ne[1:])`. A tensor without dimensions is a single number. The data of an unknown type
    reaches up to that of the next tensor, or to the end of the file. What an earlier tensor has of it is left out.
    """
    end = extent_of(tensor)[1]
    return given_size(tensor["data"]) if end is None else max(0, end - tensor["_io"].tell())


def gguf(order, size="u64", versions=VERSIONS):
    """Return the page of a file whose numbers have a byte order, `LITTLE` or `BIG`.

    Counts, lengths and dimensions are of type `size`.
    """
    u8, i8, u16, i16, u32, i32, f32, u64, i64, f64 = (number(kind, order) for kind in NUMBERS)
    count = number(size, order)
    key, string = PascalString(count, longest=(1 << 16) - 1), PascalString(count, longest=1 << 24)
    scalars = {0: u8, 1: i8, 2: u16, 3: i16, 4: u32, 5: i32, 6: f32, 7: Flag, 8: string, 10: u64, 11: i64, 12: f64}

    @kaitai(
        'low == 0 and high != 0 ? "big" : "little"',
        instances={"low": {"pos": 4, "type": "u2le"}, "high": {"pos": 6, "type": "u2le"}},
    )
    def byte_order(gguf):
        """Return the byte order of all numbers of the file, and of the elements of its tensors.

        It is big if the low half of the version, the 4 bytes that follow, is zero when it is read as a little-endian
        number, else little.
        """
        return order

    value_type = OneOf(u32, VALUE_TYPES, above=UNKNOWN_TYPE, near=1 << 32)

    def array(nesting):
        """Return an array whose elements may be arrays, to that depth."""
        arrays = {9: array(nesting - 1)} if nesting > 1 else {}
        return Struct(
            "type" / value_type,
            "len" / count * "number of elements",
            "array" / LazyArray(this.len, Switch(this.type, {**scalars, **arrays}, default=Error)),
            type_name="array",
        )

    metadata_kv = Struct(
        "key" / key * "name of the key: general.architecture",
        "value_type" / value_type,
        "value" / Switch(this.value_type, {**scalars, 9: array(MAX_NESTING)}, default=Error),
        type_name="metadata_kv",
    )

    tensor_info = Struct(
        "name" / key * "name of the tensor: blk.0.attn_q.weight",
        "n_dimensions" / OneOf(u32, range(MAX_DIMS + 1)),
        "dimensions" / Array(this.n_dimensions, count) * "in ggml order: the first is the fastest-varying",
        "type" / OneOf(u32, names_of(GGML_TYPES), others=True) * "ggml type",
        "offset" / u64 * "of the data, from the end of the padding; a multiple of the alignment",
        type_name="tensor_info",
        at_once=at_once.tensor_info(count.fmtstr, MAX_DIMS),
    )

    tensor_data = Struct(
        "padding" / Padding(until=tensor_offset),
        "data" / Payload(tensor_nbytes, types=GGML_TYPES),
        type_name="tensor_data",
        at_once=at_once.tensor_data,
    )

    return Struct(
        "magic" / Const(b"GGUF"),
        "byte_order" / Computed(byte_order),
        "version" / OneOf(u32, versions, above=LATER_VERSION),
        "tensor_count" / count * "number of tensors",
        "metadata_kv_count" / count * "number of keys",
        "metadata_kv" / Array(this.metadata_kv_count, metadata_kv, unchecked=True),
        "tensor_infos" / Array(this.tensor_count, tensor_info, unchecked=True),
        "alignment" / Computed(alignment) * "general.alignment, or 32",
        "padding" / If(this.tensor_count != 0, Padding(multiple_of=this.alignment)),
        "data_start" / Computed(data_start),
        "tensor_data" / Array(this.tensor_count, tensor_data) * "in the order of their data",
        "end_padding" / Padding(multiple_of=this.alignment, optional=True),
        TRAILING,
        root=True,
        type_name="gguf",
    )


def described(little, big, first):
    """Return the description of all pages, from those of versions 2 and 3 and that of version 1."""
    if isinstance(little, list):
        return [described(*each) for each in zip(little, big, first, strict=True)]
    if not isinstance(little, dict):
        return little if little == big else {"field": "_root.byte_order"}
    if little.get("kind") != first.get("kind"):
        condition = {"op": "==", "args": [{"field": "_root.version"}, 1]}
        return {"kind": "if", "condition": condition, "then": first, "else": described(little, big, little)}
    if little.get("one_of") != first.get("one_of"):
        return described(little, big, little) | {"one_of": [*first["one_of"], *little["one_of"]]}
    return {key: described(value, big[key], first[key]) for key, value in little.items()}


class Gguf(Variants):
    """The page of a file in its byte order. Version 1, of 22 to 27 August 2023, has counts of 4 bytes.

    Version 1 in big-endian order never existed. The order is big if the low half of the version, the number after the
    magic, is zero when it is read as little-endian, and the high half is not.
    """

    little, big, first = gguf(LITTLE), gguf(BIG), gguf(LITTLE, "u32", (1,))

    def reference(self):
        return described(self.little.reference(), self.big.reference(), self.first.reference())

    def of(self, value):
        return self.first if value.get("version") == 1 else self.big if value.get("byte_order") == BIG else self.little

    def at(self, head):
        low, high = head[4:6], head[6:8]
        return self.first if head[4:8] == b"\1\0\0\0" else self.big if low == b"\0\0" != high else self.little


GGUF = Gguf(*Gguf.little.subcons, root=True, type_name="gguf")
