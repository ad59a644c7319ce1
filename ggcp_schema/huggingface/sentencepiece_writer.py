"""Write tokenizer.model: a sentencepiece model, the protobuf message ModelProto of sentencepiece_model.proto.

llama.cpp's converter takes tokens, scores and types from it; without it every score becomes -1000. The model tokenizes
text as llama.cpp does: BPE by score, unknown characters as bytes, a space before the text, no normalization.
"""

from __future__ import annotations

import struct
from collections import Counter

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.sentencepiece import model as proto
from ggcp_schema.llama import names
from ggcp_schema.llama.vocabulary import ANOTHER, BYTE, NORMAL, UNDEFINED, UNKNOWN, Token, Vocabulary

VOCAB_SIZE, BYTE_FALLBACK = 4, 35  # fields of the trainer_spec, as the next two
SPECIAL_IDS = {"unknown": 40, "bos": 41, "eos": 42, "padding": 43}
SPECIAL_PIECES = {"unknown": 45, "bos": 46, "eos": 47, "padding": 48}
N_BYTES = 256
NAME, ESCAPE_WHITESPACES = 1, 5  # fields of the normalizer_spec


def sentencepiece_model(vocabulary: Vocabulary) -> bytes:
    """Return tokenizer.model. A token of llama.cpp's type UNDEFINED becomes a normal one.

    Raises `UsageError` if sentencepiece could not load the model.
    """
    counts = checked_types(vocabulary)
    trainer = [
        _number(proto.MODEL_TYPE, next(number for number, name in proto.MODEL_TYPES.items() if name == "bpe")),
        _number(VOCAB_SIZE, len(vocabulary.tokens)),
        _number(BYTE_FALLBACK, counts[BYTE] > 0),
        *(_number(field, vocabulary.ids.get(name, -1)) for name, field in SPECIAL_IDS.items()),
        *(
            _bytes(field, vocabulary.texts[vocabulary.ids[name]].encode())
            for name, field in SPECIAL_PIECES.items()
            if name in vocabulary.ids
        ),
    ]
    normalizer = [
        _bytes(NAME, b"identity"),
        _number(proto.ADD_DUMMY_PREFIX, vocabulary.adds_space),
        _number(proto.REMOVE_EXTRA_WHITESPACES, 0),
        _number(ESCAPE_WHITESPACES, 1),
    ]
    out = bytearray()
    for text, token in zip(vocabulary.texts, vocabulary.tokens):
        out += _bytes(proto.PIECES, _piece(text, token))
    out += _bytes(proto.TRAINER_SPEC, b"".join(trainer)) + _bytes(proto.NORMALIZER_SPEC, b"".join(normalizer))
    return bytes(out)


def checked_types(vocabulary: Vocabulary) -> Counter[int]:
    """Return how many tokens there are of each type.

    Raises `UsageError` if llama.cpp does not tokenize with it as sentencepiece does, or no model of that has so many.
    """
    kind = vocabulary.values[names.TOKENIZER_MODEL]
    if kind != "llama":
        found = f"{vocabulary.path}: its tokenizer is {kind}, which no tokenizer.model can express"
        raise UsageError(found, "Export to GGUF instead.")
    counts = Counter(token.type for token in vocabulary.tokens)
    if counts[BYTE] not in (0, N_BYTES):
        found = f"{counts[BYTE]} tokens of the type byte, but a sentencepiece model has all {N_BYTES} or none"
        raise UsageError(f"the vocabulary has {found}", ANOTHER)
    if counts[UNKNOWN] > 1 or counts[UNKNOWN] + counts[BYTE] == 0:
        found = f"{counts[UNKNOWN]} tokens of the type unknown, but a sentencepiece model has 1"
        raise UsageError(f"the vocabulary has {found}", ANOTHER)
    return counts


def _piece(text: str, token: Token) -> bytes:
    kind = NORMAL if token.type == UNDEFINED else token.type
    score = _varint(proto.SCORE << 3 | proto.FIXED32) + struct.pack("<f", token.score)
    return _bytes(proto.PIECE, text.encode()) + score + _number(proto.TYPE, kind)


def _bytes(field: int, data: bytes) -> bytes:
    """Return a protobuf field of text, bytes, or a message."""
    return _varint(field << 3 | proto.BYTES) + _varint(len(data)) + data


def _number(field: int, value: int) -> bytes:
    """Return a protobuf field of an integer."""
    return _varint(field << 3 | proto.VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Return a protobuf varint; a negative number is one of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
