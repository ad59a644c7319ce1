"""A vocabulary as GGUF's tokenizer keys: from a llama GGUF, a ggjt, ggmf or ggml file, or a sentencepiece model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ggcp_schema.constructs import FieldError
from ggcp_schema.errors import MalformedError, NotACheckpointError, UsageError
from ggcp_schema.files.magic import HEAD, describe_head
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File, malformed
from ggcp_schema.formats.ggml.file import GgmlFile
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.formats.sentencepiece.model import begins_like_a_model, read_model
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.llama import names
from ggcp_schema.llama.tokenizer import (
    ANOTHER,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    Locate,
    Token,
    check,
    damaged,
    is_id,
    n_tokens,
    shown,
    tokenizer_keys,
)

# The first tokens of a file before GGUF, and the texts by which they are recognised; sentencepiece decodes <unk> to
# " ⁇ ". A vocabulary of single characters has other tokens there; each sample began with token 1 all the same.
SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
SPECIAL_TEXTS = ((b"<unk>", " ⁇ ".encode(), b""), (b"<s>", b""), (b"</s>", b""))
SPECIAL_IDS = {"bos": 1, "eos": 2, "unknown": 0}
MODELS = {"llama", "gpt2"}  # the tokenizers whose checkpoints the trainers saved
N_BYTES = 256  # tokens that follow the special ones: the single bytes
NO_TOKEN = 0xFFFFFFFF  # the id by which the trainers say that there is no such token
MAX_BYTES = 1 << 25  # of a list in the file; the largest vocabularies in use have about a tenth of it

# Fields that follow the vocabulary; `file` is the end of the file.
AFTER_VOCABULARY = {"tensors", "tensor_infos", "alignment", "padding", "tensor_data", "end_padding", "file"}
ACCEPTED = "Use a llama GGUF, a ggjt file such as ggml-vocab.bin, or a sentencepiece tokenizer.model."
NO_SCORES = (
    "the file has no scores, which are needed to tokenize text correctly; a sentencepiece tokenizer.model has them"
)
NO_TYPES = "the file has no token types, so llama.cpp takes every token for normal text"


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


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read the vocabulary in a file, whose format is recognised by its first bytes. Weights are not read.

    Raises `FileError` if the file cannot be read, `MalformedError` if the vocabulary is damaged or llama.cpp would
    refuse it, and `UsageError` if the file contains no llama vocabulary or a package that it needs is not installed.
    """
    with closing(Source(path)) as source:
        if begins_like_a_model(source):
            return _of_sentencepiece(source)
        head = source.read(0, min(HEAD, source.size))
    try:
        file = open_file(path, partial=True)
    except NotACheckpointError as error:
        raise _not_a_vocabulary(os.fsdecode(path), head) from error
    with file:
        try:
            vocabulary = vocabulary_of(file)
        except MalformedError as error:
            raise error.with_hint(ANOTHER) from error
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
        raise file.damage.again()
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


def _checked(vocabulary: Vocabulary, locate: Locate) -> Vocabulary:
    """Check the tokenizer keys, and return the vocabulary. Raises `MalformedError`."""
    check(vocabulary.path, vocabulary.keys, vocabulary.n_tokens, locate)
    return vocabulary


def _items(file: File, path: str, values: Sequence[Any]) -> list[Any]:
    """Return the elements of a list in the file. Raises `MalformedError` if they would need too much memory."""
    field = file.find(path)
    if field.size > MAX_BYTES:
        expected = f"at most {MAX_BYTES:,} bytes, more than any vocabulary needs"
        raise damaged(file.path, path, field.offset, expected, f"{field.size:,}")
    try:
        with file.source.reading():
            return list(values)
    except FieldError as error:  # the file has changed since it was opened
        raise malformed(error, file.source, file.format) from error


# A GGUF file -----------------------------------------------------------------------------------------------


def _of_gguf(gguf: GgufFile) -> Vocabulary:
    """Return the tokenizer keys with their types; without empty lists, and ids that stand for "no such token"."""
    model = gguf.key_values.get(names.TOKENIZER_MODEL)
    if model is None or names.TOKENS not in gguf.key_values:
        raise UsageError(f"{gguf.path} is a GGUF file without a vocabulary", ACCEPTED)
    if model.type == "STRING" and model.value not in MODELS:
        message = f"its tokenizer is {shown(model.value)}; the trainers supported llama (sentencepiece) and gpt2"
        raise UsageError(f"{gguf.path}: {message}", ACCEPTED)

    def locate(key: str, index: int | None) -> tuple[str, int]:
        path = key if index is None else f"{key}[{index}]"
        return path, gguf.find(path).offset

    keys = []
    for key, entry in gguf.key_values.items():
        if key.startswith(names.TOKENIZER):
            expected = _type_of(key)
            if expected and entry.type != expected:
                raise damaged(gguf.path, *locate(key, None), f"a value of type {expected}", entry.type)
            if entry.type == "ARRAY/ARRAY":
                raise damaged(gguf.path, *locate(key, None), "an array of numbers or strings", "one of arrays")
            value = _items(gguf, key, entry.value) if entry.type.startswith("ARRAY/") else entry.value
            if value != [] and not (is_id(key) and value == NO_TOKEN):
                keys.append(KeyValue(key, entry.type, value))
    found = {entry.key for entry in keys}
    notes = [note for key, note in ((names.TOKEN_SCORES, NO_SCORES), (names.TOKEN_TYPES, NO_TYPES)) if key not in found]
    return _checked(Vocabulary(gguf.path, "GGUF", keys, "; ".join(notes)), locate)


def _type_of(key: str) -> str | None:
    """Return the type that llama.cpp requires of a tokenizer key; None if it may have any."""
    if is_id(key):
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

    ids = {name: index for name, index in SPECIAL_IDS.items() if index < len(tokens)}
    if tokens and tokens[0].type != UNKNOWN:
        del ids["unknown"]
    keys = tokenizer_keys(tokens, ids)
    if "version" in root:
        vocabulary = Vocabulary(file.path, f"{file.format.name} version {root['version']}", keys)
    else:
        vocabulary = Vocabulary(file.path, f"unversioned {file.format.name}", keys, NO_SCORES)
    return _checked(vocabulary, locate)


def _ggml_token(index: int, token: dict[str, Any]) -> Token:
    """Return a token: the first three may be special ones, 3 to 258 single bytes; spaces stand for `▁`."""
    text, score = token["text"], token.get("score", 0.0)
    if index < len(SPECIAL) and text in SPECIAL_TEXTS[index]:
        name, kind = SPECIAL[index]
        return Token(name, score, kind)
    byte = index - len(SPECIAL)
    if 0 <= byte < N_BYTES and text == bytes([byte]):
        return Token(f"<0x{byte:02X}>", score, BYTE)
    return Token(text.decode("utf-8", "surrogateescape").replace(" ", "▁"), score, NORMAL if text else CONTROL)


READERS: dict[str, Callable[[Any], Vocabulary]] = {
    "gguf": _of_gguf,
    "ggjt": _of_ggml,
    "ggmf": _of_ggml,
    "ggml": _of_ggml,
}
"""What reads the vocabulary in an open file, by the name of its format."""


# A sentencepiece model -------------------------------------------------------------------------------------


def _of_sentencepiece(source: Source) -> Vocabulary:
    path = os.fsdecode(source.path)
    if source.size > MAX_BYTES:
        raise damaged(path, "file", 0, f"a sentencepiece model of at most {MAX_BYTES:,} bytes", f"{source.size:,}")
    model = read_model(source)
    source.check_unchanged()

    def locate(key: str, index: int | None) -> tuple[str, int]:
        return ("pieces", 0) if index is None else (f"pieces[{index}]", model.pieces[index].start)

    keys = tokenizer_keys(model.tokens, model.ids)
    return _checked(Vocabulary(path, "sentencepiece model", keys, model.note), locate)
