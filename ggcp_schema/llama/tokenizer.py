"""The tokenizer keys of GGUF: made from tokens, and checked as llama.cpp checks them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ggcp_schema.errors import MalformedError
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.llama import names

UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(7)  # llama.cpp's token types
TOKEN_TYPES = range(UNDEFINED, BYTE + 1)
MAX_SHOWN = 40  # characters of a token in a message
ANOTHER = "Copy the vocabulary file again, or use another file with the same vocabulary."

Locate = Callable[[str, int | None], tuple[str, int]]
"""Return the path and the offset of the value of a tokenizer key, or of its element of that index."""


class Token(NamedTuple):
    """A token: its text as in GGUF, with `▁` for a space; sentencepiece's score; llama.cpp's type."""

    text: str
    score: float
    type: int


def tokenizer_keys(tokens: Sequence[Token], ids: dict[str, int]) -> list[KeyValue]:
    """Return the keys that describe these tokens; `ids` are those of the special tokens, as `bos`."""
    return [
        KeyValue(names.TOKENIZER_MODEL, "STRING", "llama"),
        KeyValue(names.TOKENS, "ARRAY/STRING", [token.text for token in tokens]),
        KeyValue(names.TOKEN_SCORES, "ARRAY/FLOAT32", [token.score for token in tokens]),
        KeyValue(names.TOKEN_TYPES, "ARRAY/INT32", [token.type for token in tokens]),
        *(KeyValue(names.TOKEN_ID.format(name), "UINT32", index) for name, index in ids.items()),
    ]


class SpmTokenizer(NamedTuple):
    """How llama.cpp tokenizes text: the tokens by id, the ids of special ones (as `bos`), what is added to a text."""

    tokens: list[Token]
    ids: dict[str, int]
    add_bos: bool = True
    add_eos: bool = False
    add_space_prefix: bool = True

    @property
    def texts(self) -> list[str]:
        """The texts by id. As in llama.cpp, tokens without a text have one made up."""
        return [token.text or f"[EMPTY_{index}]" for index, token in enumerate(self.tokens)]


def spm_tokenizer(keys: Sequence[KeyValue]) -> SpmTokenizer:
    """Return what llama.cpp reads from these keys.

    Without scores all are 0, and without types all tokens are normal. Where the ids of unknown, bos and eos are not
    stated they are 0, 1 and 2, if there are so many tokens.
    """
    values = {entry.key: entry.value for entry in keys}
    added = {name: values[key] for name, key in names.ADDED.items() if key in values}
    texts = values.get(names.TOKENS, [])
    scores = values.get(names.TOKEN_SCORES, [0.0] * len(texts))
    types = values.get(names.TOKEN_TYPES, [NORMAL] * len(texts))
    ids = {name: index for index, name in enumerate(("unknown", "bos", "eos")) if index < len(texts)}
    prefix, suffix = names.TOKEN_ID.split("{}")
    ids |= {key.removeprefix(prefix).removesuffix(suffix): value for key, value in values.items() if is_id(key)}
    return SpmTokenizer(list(map(Token, texts, scores, types)), ids, **added)


def n_tokens(keys: Sequence[KeyValue]) -> int:
    """Return the number of tokens that these tokenizer keys describe."""
    return next((len(entry.value) for entry in keys if entry.key == names.TOKENS), 0)


def check(path: str, keys: Sequence[KeyValue], count: int, locate: Locate) -> None:
    """Check the tokenizer keys of `count` tokens, which were read from the file at the path.

    Raises `MalformedError` unless there are as many scores and types as tokens, scores are finite, types are those of
    llama.cpp, all text is UTF-8, each token's text is unique, and each id is that of a token.
    """

    def wrong(key: str, index: int | None, expected: str, found: str) -> MalformedError:
        return damaged(path, *locate(key, index), expected, found)

    if not count:
        raise wrong(names.TOKENS, None, "at least 1 token", "none")
    for key, kind, value in ((entry.key, entry.type, entry.value) for entry in keys):
        if not is_utf8(key):
            raise wrong(key, None, "a key in UTF-8", bytes_text(key))
        if key in (names.TOKEN_SCORES, names.TOKEN_TYPES) and len(value) != count:
            raise wrong(key, None, f"{count} elements, one for each token", str(len(value)))
        if key == names.TOKEN_SCORES and not all(map(math.isfinite, value)):
            index = next(index for index, score in enumerate(value) if not math.isfinite(score))
            raise wrong(key, index, "a finite score", f"{float(value[index])}")
        if key == names.TOKEN_TYPES and not set(value).issubset(TOKEN_TYPES):
            index = next(index for index, type_ in enumerate(value) if type_ not in TOKEN_TYPES)
            raise wrong(key, index, f"a token type from {TOKEN_TYPES[0]} to {TOKEN_TYPES[-1]}", str(value[index]))
        if kind == "STRING" and not is_utf8(value):
            raise wrong(key, None, "UTF-8", bytes_text(value))
        if kind == "ARRAY/STRING" and not is_utf8("".join(value)):
            index = next(index for index, text in enumerate(value) if not is_utf8(text))
            raise wrong(key, index, "UTF-8", bytes_text(value[index]))
        if key == names.TOKENS and len(set(value)) != count:
            twins = _duplicate(value)
            if twins:
                first, index = twins
                same = f"{shown(value[index])}, which is the text of token {first} too"
                raise wrong(key, index, "a text that no other token has, as llama.cpp requires", same)
        if is_id(key) and value >= count:
            raise wrong(key, None, f"an id below {count}, the number of tokens", str(value))


def damaged(path: str, field: str, offset: int, expected: str, found: str) -> MalformedError:
    """Return the error for a vocabulary with a value other than expected."""
    message = f"{path}: {field} at offset {offset} ({offset:#x}): expected {expected}, found {found}"
    return MalformedError(message, ANOTHER, path=field, offset=offset, expected=expected, found=found)


def _duplicate(texts: Sequence[str]) -> tuple[int, int] | None:
    """Return the ids of two tokens with the same text, if there are any. llama.cpp renames tokens that have none."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if text and first.setdefault(text, index) != index:
            return first[text], index
    return None


def is_id(key: str) -> bool:
    """Return True if the key is that of a token id, as `tokenizer.ggml.bos_token_id`."""
    prefix, suffix = names.TOKEN_ID.split("{}")
    return key.startswith(prefix) and key.endswith(suffix)


def is_utf8(text: str) -> bool:
    """Return True if the text was valid UTF-8: bytes that are not were read as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """Return a text for a message, cut if it is long."""
    return repr(text[:MAX_SHOWN]) + (" …" if len(text) > MAX_SHOWN else "")


def bytes_text(text: str) -> str:
    """Return the bytes of a text that is not UTF-8 for a message, cut if they are many."""
    data = text.encode("utf-8", "surrogateescape")
    return f"the bytes {data[:MAX_SHOWN].hex(' ')}" + (" …" if len(data) > MAX_SHOWN else "")
