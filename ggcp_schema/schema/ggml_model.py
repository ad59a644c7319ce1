"""llama.cpp's model and vocabulary files before GGUF: ggml, ggmf and ggjt (March to August 2023).

The trainer took such a file as its `--vocab-model`, and wrote its models as ggjt version 3. A vocabulary file ends
after the tokens. All numbers are little-endian.
"""

from ggcp_schema.constructs import (
    Array,
    Chars,
    Const,
    Float32l,
    GreedyRange,
    IfThenElse,
    Int32ul,
    OneOf,
    Padding,
    Payload,
    Struct,
    kaitai,
    this,
)
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2, LATER_VERSION, data_size, kaitai_size, names_of
from ggcp_schema.schema.model import HPARAMS, N_VOCAB
from ggcp_schema.schema.tensor import ALIGNMENT, MAX_DIMS, NAME_LENGTHS, Placed
from ggcp_schema.schema.trailing import TRAILING

LEAST_RECORD = 16  # bytes of the header of a tensor with one dimension and no name
TO_END = (
    "to the end: fewer than 16 bytes are no record, unless the first of them is 1 to 4, and so n_dims, cut off; nor "
    "are zeros"
)
TEXT = (
    "len" / OneOf(Int32ul, NAME_LENGTHS),
    "text" / Chars(this.len) * "no terminator; a space stands for sentencepiece's ▁",
)
TOKEN = Struct(*TEXT, "score" / Float32l * "of sentencepiece: the highest is merged first", type_name="token")
UNSCORED_TOKEN = Struct(*TEXT, type_name="unscored_token")


def tensor(types, *, aligned):
    """Return the record of a tensor whose element type is one of `types`; `aligned` if padding precedes the data."""

    @kaitai(**kaitai_size(types, "ne", "n_dims", MAX_DIMS))
    def nbytes(record):
        """Return the size of a tensor's data, from its element type and its dimensions ne.

        With blocks of block_size elements that take type_size bytes each, it is `ceil(ne[0] / block_size) * type_size *
        prod(ne[1:])`.
        """
        return data_size(types[record["type"]], record["ne"])

    return Placed(
        "n_dims" / OneOf(Int32ul, range(1, MAX_DIMS + 1)),
        "name_len" / OneOf(Int32ul, NAME_LENGTHS),
        "type" / OneOf(Int32ul, names_of(types)) * "ggml type",
        "ne" / Array(this.n_dims, Int32ul) * "shape in ggml order: the first number is the fastest-varying",
        "name" / Chars(this.name_len) * "no terminator",
        *(["padding" / Padding(multiple_of=ALIGNMENT)] if aligned else []),
        "data" / Payload(nbytes, types=types) * "little-endian",
        type_name="tensor_until_v2" if types is GGML_TYPES_UNTIL_V2 else "tensor",
    )


def tensors(types, *, aligned):
    """Return the records of tensors, whose number no field tells."""
    return GreedyRange(tensor(types, aligned=aligned), least=LEAST_RECORD, first=range(1, MAX_DIMS + 1))


def page(name, magic, token, records, *version):
    """Return the page of a format, whose files have the field of a version, or none, after the magic."""
    letters = magic.to_bytes(4, "little").decode()
    return Struct(
        "magic" / Const(magic, Int32ul) * f"on disk the bytes {letters!r}",
        *version,
        "hparams" / HPARAMS,
        "ftype" / Int32ul * "type of most weights",
        "tokens" / Array(N_VOCAB, token),
        "tensors" / records * TO_END,
        TRAILING,
        root=True,
        type_name=name,
    )


UNALIGNED = tensors(GGML_TYPES_UNTIL_V2, aligned=False)
UNTIL_V2 = tensors(GGML_TYPES_UNTIL_V2, aligned=True)
ALIGNED = tensors(GGML_TYPES, aligned=True)

GGML = page("ggml", 0x67676D6C, UNSCORED_TOKEN, UNALIGNED)
GGMF = page("ggmf", 0x67676D66, TOKEN, UNALIGNED, "version" / Const(1, Int32ul, above=LATER_VERSION))
GGJT = page(
    "ggjt",
    0x67676A74,
    TOKEN,
    IfThenElse(this.version == 3, ALIGNED, UNTIL_V2),
    "version"
    / OneOf(Int32ul, (1, 2, 3), above=LATER_VERSION)
    * "2 changed the order of quantized bits, 3 the width of their scales",
)
