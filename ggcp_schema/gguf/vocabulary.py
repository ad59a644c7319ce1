"""A vocabulary as GGUF's tokenizer keys: from a llama GGUF, a model file of 2023, or a sentencepiece model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

from ggcp_schema.constructs import FieldError, Record, Trace
from ggcp_schema.errors import MalformedError, UsageError
from ggcp_schema.filetype import GGUF, describe_magic, sniff
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.gguf.reader import GgufFile, open_gguf
from ggcp_schema.reader import malformed
from ggcp_schema.schema.ggjt import VOCABULARIES
from ggcp_schema.source import Source

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # llama.cpp's token types
SPECIAL = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))  # the first tokens of every file before GGUF
NO_TOKEN = 0xFFFFFFFF
SENTENCEPIECE = b"\n"  # the tag of a ModelProto's first field, its pieces
ACCEPTED = "Give a llama GGUF, a ggjt file such as ggml-vocab.bin, or a sentencepiece tokenizer.model."


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's keys, all with the prefix `tokenizer.`; `kind` says in words what file they come from and
    `note` what is to be known about it, if anything."""

    path: str
    kind: str
    keys: list[KeyValue]
    note: str = ""

    @property
    def n_tokens(self) -> int:
        return n_tokens(self.keys)


class Token(NamedTuple):
    """Its text as GGUF has it, with `▁` for a space; sentencepiece's score; llama.cpp's type."""

    text: str
    score: float
    type: int


def n_tokens(vocabulary: Sequence[KeyValue]) -> int:
    """The number of tokens that these tokenizer keys describe."""
    return next(len(entry.value) for entry in vocabulary if entry.key == keys.TOKENS)


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Reads a vocabulary; what kind of file it is shows in its first bytes. Weights in the file are not read.

    Raises `FileError` if the file cannot be read, `MalformedError` if it is damaged, and `UsageError` if it is of
    another kind, holds no llama vocabulary, or needs a package that is not installed.
    """
    kind = sniff(path)
    if kind == GGUF:
        with open_gguf(path) as gguf:
            return _checked(Vocabulary(gguf.path, "GGUF", _gguf_keys(gguf)))
    with closing(Source(path)) as source:
        if kind in VOCABULARIES:
            return _checked(_of_ggml(source, kind))
        head = source.file.read(4)
    if head.startswith(SENTENCEPIECE):
        return _checked(Vocabulary(os.fspath(path), "sentencepiece model", _sentencepiece_keys(os.fspath(path))))
    what = describe_magic(head) or (f"a file that begins with the bytes {head.hex(' ')}" if head else "empty")
    raise UsageError(f"{os.fspath(path)}: is {what}, not a vocabulary", ACCEPTED)


def _checked(vocabulary: Vocabulary) -> Vocabulary:
    """Insists on what llama.cpp insists on: an entry for each token, and no text twice."""
    count = vocabulary.n_tokens
    for entry in vocabulary.keys:
        if entry.key in (keys.TOKEN_SCORES, keys.TOKEN_TYPES) and len(entry.value) != count:
            raise UsageError(f"{vocabulary.path}: {entry.key} has {len(entry.value)} entries for {count} tokens")
        if entry.key == keys.TOKENS and len(set(entry.value)) != count:
            first: dict[str, int] = {}
            for index, text in enumerate(entry.value):
                if text and first.setdefault(text, index) != index:  # empty ones get names of their own
                    twins = f"tokens {first[text]} and {index} are both {text!r}"
                    raise UsageError(f"{vocabulary.path}: {twins}", "llama.cpp insists on a text of its own for each.")
    return vocabulary


# A GGUF file -----------------------------------------------------------------------------------------------


def _gguf_keys(gguf: GgufFile) -> list[KeyValue]:
    """The tokenizer's keys with their types; ids that say "no such token" and empty lists are left out."""
    model, tokens = gguf.keys.get(keys.TOKENIZER_MODEL), gguf.keys.get(keys.TOKENS)
    if model is None or tokens is None or tokens.type != "ARRAY/STRING":
        raise UsageError(f"{gguf.path}: is a GGUF file without a vocabulary", ACCEPTED)
    if model.value != "llama":
        raise UsageError(
            f"{gguf.path}: its tokenizer is {model.value!r}; the trainer knew llama's (sentencepiece) alone", ACCEPTED
        )
    return [
        entry
        for key, entry in gguf.keys.items()
        if key.startswith(keys.TOKENIZER) and entry.value not in ([], NO_TOKEN)
    ]


# A model file before GGUF ----------------------------------------------------------------------------------


def _of_ggml(source: Source, kind: str) -> Vocabulary:
    schema = VOCABULARIES[kind]
    try:
        root = schema.parse_stream(source.file)
        tokens = [_ggml_token(schema, source, index, token) for index, token in enumerate(root["tokens"])]
    except FieldError as error:
        damage = malformed(error, source)
        damage.hint = "The vocabulary file is damaged: fetch it again."
        raise damage from error
    vocabulary = _keys(tokens, bos=1, eos=2, unknown=0)
    if "version" in root:
        return Vocabulary(source.path, f"{kind} version {root['version']}", vocabulary)
    note = "the file has no scores, by which text is split into tokens; a sentencepiece tokenizer.model has them"
    return Vocabulary(source.path, "unversioned ggml", vocabulary, note)


def _ggml_token(schema: Record, source: Source, index: int, token: Mapping[str, Any]) -> Token:
    """Tokens 0 to 2 are special whatever their text, 3 to 258 single bytes; a space stands for `▁`."""
    text, score = token["text"], token.get("score", 0.0)
    if index < len(SPECIAL):
        name, kind = SPECIAL[index]
        return Token(name, score, kind)
    byte = index - len(SPECIAL)
    if byte < 256 and text == bytes([byte]):
        return Token(f"<0x{byte:02X}>", score, BYTE)
    try:
        return Token(text.decode("utf-8").replace(" ", "▁"), score, NORMAL if text else CONTROL)
    except UnicodeDecodeError:
        raise _not_utf8(schema, source, index) from None


def _not_utf8(schema: Record, source: Source, index: int) -> FieldError:
    trace = Trace()
    source.file.seek(0)
    schema.parse_stream(source.file, trace=trace)
    span = next(span for span in trace.spans if span.steps == ("tokens", index, "text"))
    error = FieldError(span.offset, "UTF-8", span.value.hex(" "))
    error.steps = list(span.steps)
    return error


# A sentencepiece model -------------------------------------------------------------------------------------


def _sentencepiece_keys(path: str) -> list[KeyValue]:
    try:
        import sentencepiece  # noqa: F401 - gguf needs it, and says nothing if it is not there
    except ImportError as error:
        raise UsageError(
            f"{path}: looks like a sentencepiece model, for which a package is missing: {error}",
            "Install it with `pip install sentencepiece`, or give a GGUF or ggjt file with the same vocabulary.",
        ) from error
    import shutil
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from gguf.vocab import SentencePieceVocab

    with TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder, "tokenizer.model"))  # the one name by which gguf finds it
        try:
            vocabulary = SentencePieceVocab(Path(folder))
        except (RuntimeError, ValueError) as error:
            raise MalformedError(
                f"{path}: is neither a vocabulary of a known kind nor a whole sentencepiece model",
                ACCEPTED,
                path="file",
                offset=0,
                expected="a vocabulary",
                found=str(error),
            ) from error
        tokens = [Token(text.decode("utf-8"), score, int(kind)) for text, score, kind in vocabulary.all_tokens()]
        model = vocabulary.sentencepiece_tokenizer
        ids = {"bos": model.bos_id(), "eos": model.eos_id(), "unknown": model.unk_id(), "padding": model.pad_id()}
    return _keys(tokens, **{name: index for name, index in ids.items() if index >= 0})


def _keys(tokens: Sequence[Token], **ids: int) -> list[KeyValue]:
    columns: list[tuple[str, str, Callable[[Token], Any]]] = [
        (keys.TOKENS, "ARRAY/STRING", lambda token: token.text),
        (keys.TOKEN_SCORES, "ARRAY/FLOAT32", lambda token: token.score),
        (keys.TOKEN_TYPES, "ARRAY/INT32", lambda token: token.type),
    ]
    return [
        KeyValue(keys.TOKENIZER_MODEL, "STRING", "llama"),
        *(KeyValue(key, kind, [value(token) for token in tokens]) for key, kind, value in columns),
        *(KeyValue(keys.TOKEN_ID.format(name), "UINT32", index) for name, index in ids.items()),
    ]
