"""Read a sentencepiece model: a protobuf message of the type ModelProto in sentencepiece_model.proto.

gguf's SentencePieceVocab reads the tokens. This module reads what is missing there: whether a file, which has no magic
number, is such a model, whether it is whole, and how it treats text otherwise than llama.cpp.
"""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ggcp_schema.constructs import FieldError
from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.llama.vocabulary import MAX_BYTES, Token, Vocabulary, bytes_text, damaged, is_utf8

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
PIECES, TRAINER_SPEC, NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
PIECE, SCORE, TYPE = 1, 2, 3  # fields of a piece
MODEL_TYPE = 3  # field of the trainer_spec
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES = 2, 3, 4  # fields of the normalizer_spec
MAX_VARINT = 10  # bytes
MAX_PIECES = 1 << 20  # the largest models in use have a quarter; sentencepiece takes 60 bytes and more for each


class ProtobufField(NamedTuple):
    """A field of a protobuf message: its number and wire type, and where its value lies."""

    number: int
    wire_type: int
    start: int
    end: int


def begins_like_a_model(source: Source) -> bool:
    """Return True if the file begins with a piece, and the piece with its text; a newline alone is no evidence."""
    head = source.read(0, min(4 * MAX_VARINT, source.size))
    try:
        piece = _field_at(head, 0)
        text = _field_at(head, piece.start)
    except (IndexError, KeyError):
        return False
    if (piece[:2], text[:2]) != ((PIECES, BYTES), (PIECE, BYTES)) or not text.end <= piece.end <= source.size:
        return False
    tags = (bytes([SCORE << 3 | FIXED32]), bytes([TYPE << 3 | VARINT]))
    return text.end == piece.end or source.read(text.end, 1) in tags


def vocabulary_of_model(source: Source) -> Vocabulary:
    """Return the vocabulary in a sentencepiece model, which gguf's SentencePieceVocab opens by its path.

    Its note says how the model treats text otherwise than llama.cpp. Raises `FileError` if the file cannot be read,
    `MalformedError` if the model is damaged, and `UsageError` if the package sentencepiece is not installed.
    """
    path = source.path
    if source.size > MAX_BYTES:
        raise damaged(path, "file", 0, f"a sentencepiece model of at most {MAX_BYTES:,} bytes", f"{source.size:,}")
    data = source.read(0, source.size)
    pieces, others = array("Q"), []  # there may be very many pieces
    try:
        for field in _fields(data, 0, len(data)):
            if field.number == PIECES:
                pieces.append(field.start)
                if len(pieces) > MAX_PIECES:
                    raise FieldError(field.start, f"at most {MAX_PIECES:,} pieces", "more")
            elif field.number in (TRAINER_SPEC, NORMALIZER_SPEC):
                others.append(field)
        trainer = _values(data, others, TRAINER_SPEC)
        normalizer = _values(data, others, NORMALIZER_SPEC)
    except FieldError as error:
        expected = f"a whole sentencepiece model, with {error.expected}"
        raise damaged(path, "file", error.offset, expected, error.found) from error
    del data  # the package holds the file too
    try:
        tokens, ids = _tokens_by_gguf(path)
    except UnicodeError as error:
        index, found = next(_invalid_texts(source.read(0, source.size)), (0, str(error)))
        raise damaged(path, f"pieces[{index}]", pieces[index], "UTF-8", found) from error
    source.check_unchanged()

    def locate(key: str, index: int | None) -> tuple[str, int]:
        return ("pieces", 0) if index is None else (f"pieces[{index}]", pieces[index])

    note = _differences(trainer, normalizer, ids)
    return Vocabulary.of(path, "sentencepiece model", tokens, ids, note).checked(locate)


def _tokens_by_gguf(path: str) -> tuple[list[Token], dict[str, int]]:
    """Return the tokens and the special ids as gguf's SentencePieceVocab reads them. Raises `UnicodeError`."""
    try:
        import sentencepiece  # noqa: F401 - without it, gguf's own error does not say what to install
        from gguf.vocab import SentencePieceVocab
    except ImportError as error:
        raise UsageError(
            f"{path} is a sentencepiece model, which needs a package that is missing: {error}",
            "Install it with `pip install sentencepiece`, or use a GGUF or ggjt file with the same vocabulary.",
        ) from error
    try:
        with TemporaryDirectory() as folder:
            link = Path(folder, "tokenizer.model")  # gguf only accepts this file name
            try:
                link.symlink_to(os.path.abspath(path))
            except (OSError, NotImplementedError):  # Windows allows symbolic links to few users
                shutil.copyfile(path, link)
            vocabulary = SentencePieceVocab(Path(folder))
            tokens = [Token(text.decode("utf-8"), score, int(kind)) for text, score, kind in vocabulary.all_tokens()]
    except UnicodeError:
        raise
    except (RuntimeError, ValueError) as error:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise damaged(path, "file", 0, "a model that sentencepiece can load", f"its error {found!r}") from error
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    model = vocabulary.sentencepiece_tokenizer
    ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unknown": model.unk_id(), "padding": model.pad_id()}
    return tokens, {name: index for name, index in ids.items() if index >= 0}


def _differences(trainer: dict[int, int], normalizer: dict[int, int], ids: dict[str, int]) -> str:
    """Return a note on how the model treats text otherwise than llama.cpp; empty if it does not."""
    kind = trainer.get(MODEL_TYPE, 1)
    reasons = {
        f"is of type {MODEL_TYPES.get(kind, kind)} instead of bpe": MODEL_TYPES.get(kind) != "bpe",
        "normalizes characters": normalizer.get(CHARSMAP, 0) > 0,
        "removes extra spaces": bool(normalizer.get(REMOVE_EXTRA_WHITESPACES, 1)),
        "adds no space before the text": not normalizer.get(ADD_DUMMY_PREFIX, 1),
        "has no BOS token": "bos" not in ids,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if not found:
        return ""
    listed = " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    return f"llama.cpp tokenizes text differently from this sentencepiece model, which {listed}"


def _invalid_texts(data: bytes) -> Iterator[tuple[int, str]]:
    """Yield the index of each piece whose text is not UTF-8, and its bytes in words."""
    for index, piece in enumerate(field for field in _fields(data, 0, len(data)) if field.number == PIECES):
        for field in _fields(data, piece.start, piece.end):
            text = data[field.start : field.end].decode("utf-8", "surrogateescape")
            if field.number == PIECE and not is_utf8(text):
                yield index, bytes_text(text)


def _values(data: bytes, fields: Sequence[ProtobufField], number: int) -> dict[int, int]:
    """Return the numbers in the message in a field, by field number; of text and bytes, their length."""
    return {
        field.number: _varint(data, field.start)[0] if field.wire_type == VARINT else field.end - field.start
        for message in fields
        if message.number == number
        for field in _fields(data, message.start, message.end)
    }


def _fields(data: bytes, start: int, end: int) -> Iterator[ProtobufField]:
    """Yield the fields of the protobuf message in data[start:end]. Raises `FieldError` if they do not fill it."""
    at = start
    while at < end:
        try:
            field = _field_at(data, at)
        except (IndexError, KeyError):
            raise FieldError(at, "a protobuf field", f"the bytes {data[at : min(at + 4, end)].hex(' ')}") from None
        if field.end > end:
            raise FieldError(at, f"a protobuf field of at most {end - at:,} bytes", f"{field.end - at:,}")
        yield field
        at = field.end


def _field_at(data: bytes, at: int) -> ProtobufField:
    """Return the protobuf field at an offset. Raises `IndexError` or `KeyError` if there is none."""
    tag, start = _varint(data, at)
    wire_type = tag & 7
    if wire_type == BYTES:
        size, start = _varint(data, start)
    else:
        size = _varint(data, start)[1] - start if wire_type == VARINT else {FIXED64: 8, FIXED32: 4}[wire_type]
    return ProtobufField(tag >> 3, wire_type, start, start + size)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the protobuf varint at an offset, and the offset after it. Raises `IndexError` if it does not end."""
    value = 0
    for shift in range(0, 7 * MAX_VARINT, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError(at)
