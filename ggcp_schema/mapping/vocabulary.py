"""A vocabulary as GGUF's tokenizer keys: from a llama GGUF, a ggjt, ggmf or ggml file, or a sentencepiece model."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ggcp_schema.checkpoint import names
from ggcp_schema.checkpoint.formats import open_file
from ggcp_schema.checkpoint.ggml import GgmlFile
from ggcp_schema.constructs import FieldError, LazyList
from ggcp_schema.errors import FileError, MalformedError, NotACheckpointError, UsageError
from ggcp_schema.files.file import File, malformed
from ggcp_schema.files.magic import HEAD, describe_head
from ggcp_schema.files.source import Source
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.gguf.reader import GgufFile

UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(7)  # llama.cpp's token types
TOKEN_TYPES = range(UNDEFINED, BYTE + 1)
SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))  # the first tokens of a file before GGUF
SPECIAL_IDS = {"bos": 1, "eos": 2, "unknown": 0}
N_BYTES = 256  # tokens that follow the special ones: the single bytes
NO_TOKEN = 0xFFFFFFFF  # the id by which the trainers say that there is no such token
MAX_BYTES = 1 << 25  # of a list in the file; the largest vocabularies in use have about a tenth of it
MAX_SHOWN = 40  # characters of a token in a message

# Fields that follow the vocabulary; `file` is the end of the file.
AFTER_VOCABULARY = {"tensors", "tensor_infos", "alignment", "padding", "tensor_data", "end_padding", "file"}
ACCEPTED = "Use a llama GGUF, a ggjt file such as ggml-vocab.bin, or a sentencepiece tokenizer.model."
ANOTHER = "Copy the vocabulary file again, or use another file with the same vocabulary."
NO_SCORES = (
    "the file has no scores, which are needed to tokenize text correctly; a sentencepiece tokenizer.model has them"
)
NO_TYPES = "the file has no token types, so llama.cpp takes every token for normal text"

Locate = Callable[[str, int | None], tuple[str, int]]
"""Return the path and the offset of the value of a tokenizer key, or of its element of that index."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer keys of a vocabulary: their names begin with `tokenizer.`.

    `path` is that of the file, `kind` says what kind of file it is, and `note` is an optional warning to show the user.
    """

    path: str
    kind: str
    keys: list[KeyValue]
    note: str = ""

    @property
    def n_tokens(self) -> int:
        """The number of tokens."""
        return n_tokens(self.keys)


class Token(NamedTuple):
    """A token: its text as in GGUF, with `▁` for a space; sentencepiece's score; llama.cpp's type."""

    text: str
    score: float
    type: int


def n_tokens(keys: Sequence[KeyValue]) -> int:
    """Return the number of tokens that these tokenizer keys describe."""
    return next((len(entry.value) for entry in keys if entry.key == names.TOKENS), 0)


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read the vocabulary in a file, whose format is recognised by its first bytes. Weights are not read.

    Raises `FileError` if the file cannot be read, `MalformedError` if the vocabulary is damaged or llama.cpp would
    refuse it, and `UsageError` if the file contains no llama vocabulary or a package that it needs is not installed.
    """
    with closing(Source(path)) as source:
        if _begins_like_sentencepiece(source):
            return _of_sentencepiece(source)
        head = source.read(0, min(HEAD, source.size))
    try:
        file = open_file(path, partial=True)
    except NotACheckpointError as error:
        raise _not_a_vocabulary(os.fsdecode(path), head) from error
    with file:
        if file.damage is not None:
            file.damage.hint = ANOTHER
        vocabulary = vocabulary_of(file)
        file.source.check_unchanged()
        return vocabulary


def vocabulary_of(file: File) -> Vocabulary:
    """Return the vocabulary in an open file: a vocabulary or model file, or a GGUF checkpoint saved by a trainer.

    Damage after the vocabulary, in the tensors, is ignored. Raises `MalformedError` if the vocabulary is damaged or
    llama.cpp would refuse it, and `UsageError` if the file contains no llama vocabulary.
    """
    read = READERS.get(file.format.name)
    if read is None:
        raise UsageError(f"{file.path} is a {file.format.title}, which contains no vocabulary", ACCEPTED)
    if file.damage is not None and file.damage.path.partition("[")[0] not in AFTER_VOCABULARY:
        raise file.damage
    return read(file)


def _not_a_vocabulary(path: str, head: bytes) -> UsageError:
    what, remedy = describe_head(head)
    if not head:
        message = f"{path} is empty"
    elif what:
        message = f"{path} is {what}, not a vocabulary"
    else:
        message = f"{path} is not a vocabulary of a known format; it begins with the bytes {head[:4].hex(' ')}"
    return UsageError(message, f"{remedy} {ACCEPTED}".strip())


# Checks for every format -----------------------------------------------------------------------------------


def _checked(vocabulary: Vocabulary, locate: Locate) -> Vocabulary:
    """Check the tokenizer keys, and return the vocabulary.

    Raises `MalformedError` unless there are as many scores and types as tokens, scores are finite, types are those of
    llama.cpp, all text is UTF-8, each token's text is unique, and each id is that of a token.
    """
    count = vocabulary.n_tokens

    def wrong(key: str, index: int | None, expected: str, found: str) -> MalformedError:
        return _malformed(vocabulary.path, *locate(key, index), expected, found)

    if not count:
        raise wrong(names.TOKENS, None, "at least 1 token", "none")
    for key, kind, value in ((entry.key, entry.type, entry.value) for entry in vocabulary.keys):
        if not _is_utf8(key):
            raise wrong(key, None, "a key in UTF-8", _hex(key))
        if key in (names.TOKEN_SCORES, names.TOKEN_TYPES) and len(value) != count:
            raise wrong(key, None, f"{count} elements, one for each token", str(len(value)))
        if key == names.TOKEN_SCORES and not all(map(math.isfinite, value)):
            index = next(index for index, score in enumerate(value) if not math.isfinite(score))
            raise wrong(key, index, "a finite score", f"{float(value[index])}")
        if key == names.TOKEN_TYPES and not set(value).issubset(TOKEN_TYPES):
            index = next(index for index, type_ in enumerate(value) if type_ not in TOKEN_TYPES)
            raise wrong(key, index, f"a token type from {TOKEN_TYPES[0]} to {TOKEN_TYPES[-1]}", str(value[index]))
        if kind == "STRING" and not _is_utf8(value):
            raise wrong(key, None, "UTF-8", _hex(value))
        if kind == "ARRAY/STRING" and not _is_utf8("".join(value)):
            index = next(index for index, text in enumerate(value) if not _is_utf8(text))
            raise wrong(key, index, "UTF-8", _hex(value[index]))
        if key == names.TOKENS and len(set(value)) != count:
            twins = _duplicate(value)
            if twins:
                first, index = twins
                same = f"{_shown(value[index])}, which is the text of token {first} too"
                raise wrong(key, index, "a text that no other token has, as llama.cpp requires", same)
        if _is_id(key) and value >= count:
            raise wrong(key, None, f"an id below {count}, the number of tokens", str(value))
    return vocabulary


def _malformed(path: str, field: str, offset: int, expected: str, found: str) -> MalformedError:
    message = f"{path}: {field} at offset {offset} ({offset:#x}): expected {expected}, found {found}"
    return MalformedError(message, ANOTHER, path=field, offset=offset, expected=expected, found=found)


def _duplicate(texts: Sequence[str]) -> tuple[int, int] | None:
    """Return the ids of two tokens with the same text, if there are any. llama.cpp renames tokens that have none."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if text and first.setdefault(text, index) != index:
            return first[text], index
    return None


def _is_id(key: str) -> bool:
    """Return True if the key is that of a token id, as `tokenizer.ggml.bos_token_id`."""
    prefix, suffix = names.TOKEN_ID.split("{}")
    return key.startswith(prefix) and key.endswith(suffix)


def _is_utf8(text: str) -> bool:
    """Return True if the text was valid UTF-8: bytes that are not were read as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    return repr(text[:MAX_SHOWN]) + (" …" if len(text) > MAX_SHOWN else "")


def _hex(text: str) -> str:
    data = text.encode("utf-8", "surrogateescape")
    return f"the bytes {data[:MAX_SHOWN].hex(' ')}" + (" …" if len(data) > MAX_SHOWN else "")


def _items(file: File, path: str, values: LazyList) -> list[Any]:
    """Return the elements of a list in the file. Raises `MalformedError` if they would need too much memory."""
    if values.nbytes > MAX_BYTES:
        expected = f"at most {MAX_BYTES:,} bytes, more than any vocabulary needs"
        raise _malformed(file.path, path, values.offset, expected, f"{values.nbytes:,}")
    try:
        with file.source.reading():
            return list(values)
    except FieldError as error:  # the file has changed since it was opened
        raise malformed(error, file.source, file.format) from error


# A GGUF file -----------------------------------------------------------------------------------------------


def _of_gguf(gguf: GgufFile) -> Vocabulary:
    """Return the tokenizer keys with their types; without empty lists, and ids that stand for "no such token"."""
    model = gguf.keys.get(names.TOKENIZER_MODEL)
    if model is None or names.TOKENS not in gguf.keys:
        raise UsageError(f"{gguf.path} is a GGUF file without a vocabulary", ACCEPTED)
    if model.type == "STRING" and model.value != "llama":
        message = f"its tokenizer is {_shown(model.value)}; the trainer only supported llama (sentencepiece) tokenizers"
        raise UsageError(f"{gguf.path}: {message}", ACCEPTED)

    def locate(key: str, index: int | None) -> tuple[str, int]:
        path = key if index is None else f"{key}[{index}]"
        return path, gguf.find(path).offset

    keys = []
    for key, entry in gguf.keys.items():
        if key.startswith(names.TOKENIZER):
            expected = _type_of(key)
            if expected and entry.type != expected:
                raise _malformed(gguf.path, *locate(key, None), f"a value of type {expected}", entry.type)
            if entry.type == "ARRAY/ARRAY":
                raise _malformed(gguf.path, *locate(key, None), "an array of numbers or strings", "one of arrays")
            value = _items(gguf, key, entry.value) if entry.type.startswith("ARRAY/") else entry.value
            if value != [] and not (_is_id(key) and value == NO_TOKEN):
                keys.append(KeyValue(key, entry.type, value))
    found = {entry.key for entry in keys}
    notes = [note for key, note in ((names.TOKEN_SCORES, NO_SCORES), (names.TOKEN_TYPES, NO_TYPES)) if key not in found]
    return _checked(Vocabulary(gguf.path, "GGUF", keys, "; ".join(notes)), locate)


def _type_of(key: str) -> str | None:
    """Return the type that llama.cpp requires of a tokenizer key; None if it may have any."""
    if _is_id(key):
        return "UINT32"
    return "BOOL" if key.startswith("tokenizer.ggml.add_") else KEY_TYPES.get(key)


KEY_TYPES = {
    names.TOKENIZER_MODEL: "STRING",
    names.TOKENS: "ARRAY/STRING",
    names.TOKEN_SCORES: "ARRAY/FLOAT32",
    names.TOKEN_TYPES: "ARRAY/INT32",
}


# A file before GGUF ----------------------------------------------------------------------------------------


def _of_ggml(file: GgmlFile) -> Vocabulary:
    root = file.container
    tokens = [_ggml_token(index, token) for index, token in enumerate(_items(file, "tokens", root["tokens"]))]

    def locate(key: str, index: int | None) -> tuple[str, int]:
        column = "score" if key == names.TOKEN_SCORES else "text"
        path = "hparams.n_vocab" if index is None else f"tokens[{index}].{column}"
        return path, file.find(path).offset

    keys = _keys(tokens, {name: index for name, index in SPECIAL_IDS.items() if index < len(tokens)})
    if "version" in root:
        vocabulary = Vocabulary(file.path, f"{file.format.name} version {root['version']}", keys)
    else:
        vocabulary = Vocabulary(file.path, f"unversioned {file.format.name}", keys, NO_SCORES)
    return _checked(vocabulary, locate)


def _ggml_token(index: int, token: dict[str, Any]) -> Token:
    """Return a token. Tokens 0 to 2 are special whatever their text, 3 to 258 single bytes; spaces stand for `▁`."""
    text, score = token["text"], token.get("score", 0.0)
    if index < len(SPECIAL):
        name, kind = SPECIAL[index]
        return Token(name, score, kind)
    byte = index - len(SPECIAL)
    if byte < N_BYTES and text == bytes([byte]):
        return Token(f"<0x{byte:02X}>", score, BYTE)
    return Token(text.decode("utf-8", "surrogateescape").replace(" ", "▁"), score, NORMAL if text else CONTROL)


def _keys(tokens: Sequence[Token], ids: dict[str, int]) -> list[KeyValue]:
    return [
        KeyValue(names.TOKENIZER_MODEL, "STRING", "llama"),
        KeyValue(names.TOKENS, "ARRAY/STRING", [token.text for token in tokens]),
        KeyValue(names.TOKEN_SCORES, "ARRAY/FLOAT32", [token.score for token in tokens]),
        KeyValue(names.TOKEN_TYPES, "ARRAY/INT32", [token.type for token in tokens]),
        *(KeyValue(names.TOKEN_ID.format(name), "UINT32", index) for name, index in ids.items()),
    ]


READERS: dict[str, Callable[[Any], Vocabulary]] = {
    "gguf": _of_gguf,
    "ggjt": _of_ggml,
    "ggmf": _of_ggml,
    "ggml": _of_ggml,
}
"""What reads the vocabulary in an open file, by the name of its format."""


# A sentencepiece model -------------------------------------------------------------------------------------
# A protobuf message of the type ModelProto in sentencepiece's sentencepiece_model.proto, without a magic number.

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types
PIECES, TRAINER_SPEC, NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
PIECE, SCORE, TYPE = 1, 2, 3  # fields of a piece
MODEL_TYPE = 3  # field of the trainer_spec
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES = 2, 3, 4  # fields of the normalizer_spec
MAX_VARINT = 10  # bytes


class ProtobufField(NamedTuple):
    """A field of a protobuf message: its number and wire type, and where its value lies."""

    number: int
    wire_type: int
    start: int
    end: int


def _begins_like_sentencepiece(source: Source) -> bool:
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


def _of_sentencepiece(source: Source) -> Vocabulary:
    path = os.fsdecode(source.path)
    if source.size > MAX_BYTES:
        raise _malformed(path, "file", 0, f"a sentencepiece model of at most {MAX_BYTES:,} bytes", f"{source.size:,}")
    data = source.read(0, source.size)
    try:
        fields = list(_fields(data, 0, len(data)))
        trainer = _values(data, fields, TRAINER_SPEC)
        normalizer = _values(data, fields, NORMALIZER_SPEC)
    except FieldError as error:
        expected = f"a whole sentencepiece model, with {error.expected}"
        raise _malformed(path, "file", error.offset, expected, error.found) from error
    pieces = [field for field in fields if field.number == PIECES]

    def locate(key: str, index: int | None) -> tuple[str, int]:
        return ("pieces", 0) if index is None else (f"pieces[{index}]", pieces[index].start)

    try:
        tokens, ids = _tokens_by_gguf(path)
    except UnicodeError as error:
        index, found = next(_invalid_texts(data, pieces), (0, str(error)))
        raise _malformed(path, *locate(names.TOKENS, index), "UTF-8", found) from error
    source.check_unchanged()
    vocabulary = Vocabulary(path, "sentencepiece model", _keys(tokens, ids), _differences(trainer, normalizer, ids))
    return _checked(vocabulary, locate)


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
        raise _malformed(path, "file", 0, "a model that sentencepiece can load", f"its error {found!r}") from error
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


def _invalid_texts(data: bytes, pieces: Sequence[ProtobufField]) -> Iterator[tuple[int, str]]:
    """Yield the index of each piece whose text is not UTF-8, and its bytes in words."""
    for index, piece in enumerate(pieces):
        for field in _fields(data, piece.start, piece.end):
            text = data[field.start : field.end].decode("utf-8", "surrogateescape")
            if field.number == PIECE and not _is_utf8(text):
                yield index, _hex(text)


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
