"""A vocabulary, whatever the format of its file: GGUF's tokenizer keys, and the tokens and ids that llama.cpp takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ggcp_schema.constructs import counted
from ggcp_schema.errors import MalformedError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.llama import names

UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(7)  # llama.cpp's token types
TOKEN_TYPES = range(UNDEFINED, BYTE + 1)
KEY_TYPES = {
    names.TOKENIZER_MODEL: "STRING",
    names.TOKENS: "ARRAY/STRING",
    names.TOKEN_SCORES: "ARRAY/FLOAT32",
    names.TOKEN_TYPES: "ARRAY/INT32",
}
"""The types of tokenizer keys, as llama.cpp requires them; see `key_type`."""
MAX_BYTES = 1 << 25  # of a list in the file; the largest vocabularies in use have about a tenth of it
MAX_SHOWN = 40  # characters of a token in a message
ANOTHER = "Copy the vocabulary file again, or use another file with the same vocabulary."
NO_SCORES = (
    "the file has no scores, which are needed to tokenize text correctly; a sentencepiece tokenizer.model has them"
)
NO_TYPES = "the file has no token types, so llama.cpp takes every token for normal text"

Locate = Callable[[str, int | None], tuple[str, int]]
"""Return the path and the offset of the value of a tokenizer key, or of its element of that index."""


class Token(NamedTuple):
    """A token: its text as in GGUF, with `▁` for a space; sentencepiece's score; llama.cpp's type."""

    text: str
    score: float
    type: int


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """The tokenizer keys of a vocabulary in the order of its file, and what llama.cpp reads from them.

    Without scores all are 0, and without types all tokens are normal. Where the ids of unknown, bos and eos are not
    stated they are 0, 1 and 2, if there are so many tokens. `path` is that of the file, `kind` says what kind of file
    it is, and `note` is an optional warning to show the user.
    """

    path: str
    kind: str
    keys: Sequence[KeyValue]
    note: str = ""

    def __repr__(self) -> str:
        return f"<Vocabulary {self.path}: {self.kind}, {counted(self.n_tokens, 'token')}>"

    @classmethod
    def of(cls, path: str, kind: str, tokens: Sequence[Token], ids: dict[str, int], note: str = "") -> Vocabulary:
        """Return the vocabulary of these tokens; `ids` are those of the special tokens, as `bos`."""
        values = {
            names.TOKENIZER_MODEL: "llama",
            names.TOKENS: [token.text for token in tokens],
            names.TOKEN_SCORES: [token.score for token in tokens],
            names.TOKEN_TYPES: [token.type for token in tokens],
            **{names.TOKEN_ID.format(name): index for name, index in ids.items()},
        }
        return cls(path, kind, [KeyValue(key, str(key_type(key)), value) for key, value in values.items()], note)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values by key."""
        return {entry.key: entry.value for entry in self.keys}

    @property
    def n_tokens(self) -> int:
        """The number of tokens."""
        return len(self.values.get(names.TOKENS, ()))

    @cached_property
    def tokens(self) -> list[Token]:
        """The tokens by id."""
        scores = self.values.get(names.TOKEN_SCORES, [0.0] * self.n_tokens)
        types = self.values.get(names.TOKEN_TYPES, [NORMAL] * self.n_tokens)
        return list(map(Token, self.values.get(names.TOKENS, ()), scores, types))

    @cached_property
    def texts(self) -> list[str]:
        """The texts by id. As in llama.cpp, tokens without a text have one made up."""
        return [text or f"[EMPTY_{index}]" for index, text in enumerate(self.values.get(names.TOKENS, ()))]

    @cached_property
    def ids(self) -> dict[str, int]:
        """The ids of the special tokens, as `bos`."""
        ids = {name: index for index, name in enumerate(("unknown", "bos", "eos")) if index < self.n_tokens}
        prefix, suffix = names.TOKEN_ID.split("{}")
        stated = {key: value for key, value in self.values.items() if is_id(key)}
        return ids | {key.removeprefix(prefix).removesuffix(suffix): value for key, value in stated.items()}

    def adds(self, name: str) -> bool:
        """Return True if llama.cpp adds the special token bos or eos to a text."""
        return bool(self.values.get(names.ADD_TOKEN.format(name), name == "bos"))

    @property
    def adds_space(self) -> bool:
        """True if llama.cpp adds a space before a text."""
        return bool(self.values.get(names.ADD_SPACE_PREFIX, True))

    def checked(self, locate: Locate) -> Vocabulary:
        """Return the vocabulary, checked as llama.cpp checks it.

        Raises `MalformedError` unless there are as many scores and types as tokens, scores are finite, types are those
        of llama.cpp, all text is UTF-8, each token's text is unique, and each id is that of a token.
        """
        count = self.n_tokens

        def wrong(key: str, index: int | None, expected: str, found: str) -> MalformedError:
            return damaged(self.path, *locate(key, index), expected, found)

        if not count:
            raise wrong(names.TOKENS, None, "at least 1 token", "none")
        for key, kind, value in ((entry.key, entry.type, entry.value) for entry in self.keys):
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
                    same = f"{shown_text(value[index])}, which is the text of token {first} too"
                    raise wrong(key, index, "a text that no other token has, as llama.cpp requires", same)
            if is_id(key) and value >= count:
                raise wrong(key, None, f"an id below {count}, the number of tokens", str(value))
        return self


def key_type(key: str) -> str | None:
    """Return the type that llama.cpp requires of a tokenizer key; None if it may have any."""
    if is_id(key):
        return "UINT32"
    return "BOOL" if key.startswith("tokenizer.ggml.add_") else KEY_TYPES.get(key)


def is_id(key: str) -> bool:
    """Return True if the key is that of a token id, as `tokenizer.ggml.bos_token_id`."""
    prefix, suffix = names.TOKEN_ID.split("{}")
    return key.startswith(prefix) and key.endswith(suffix)


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


def is_utf8(text: str) -> bool:
    """Return True if the text was valid UTF-8: bytes that are not were read as surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown_text(text: str) -> str:
    """Return a text for a message, cut if it is long."""
    return repr(text[:MAX_SHOWN]) + (" …" if len(text) > MAX_SHOWN else "")


def bytes_text(text: str) -> str:
    """Return the bytes of a text that is not UTF-8 for a message, cut if they are many."""
    data = text.encode("utf-8", "surrogateescape")
    return f"the bytes {data[:MAX_SHOWN].hex(' ')}" + (" …" if len(data) > MAX_SHOWN else "")
