"""The vocabulary in llama.cpp's model files before GGUF (March to August 2023): ggjt, ggmf and unversioned ggml.

The trainer took such a file as its `--vocab-model`. The weights, which may follow, are not described here.
"""

from ggcp_schema.constructs import F32, Items, Name, OneOf, Record, Ref, UInt32
from ggcp_schema.schema.model import HPARAMS, N_VOCAB

TOKEN = Record(
    "length" / UInt32,
    "text" / Name(Ref("length")) * "no terminator; a space stands for sentencepiece's ▁",
    "score" / F32 * "of sentencepiece: the highest is merged first",
)
UNSCORED_TOKEN = Record(*TOKEN.subcons[:2])


def _file(magic: int, name: str, versions: dict[int, str], token: Record, floor: int) -> Record:
    version = ["version" / OneOf(UInt32, versions)] if versions else []
    return Record(
        "magic" / OneOf(UInt32, {magic: name}),
        *version,
        "hparams" / HPARAMS,
        "ftype" / UInt32 * "of the weights",
        "tokens" / Items(N_VOCAB, token, floor),
    )


VOCABULARIES = {
    "ggjt": _file(0x67676A74, "'ggjt'", {1: "", 2: "", 3: ""}, TOKEN, floor=8),
    "ggmf": _file(0x67676D66, "'ggmf'", {1: ""}, TOKEN, floor=8),
    "ggml": _file(0x67676D6C, "'ggml'", {}, UNSCORED_TOKEN, floor=4),
}
