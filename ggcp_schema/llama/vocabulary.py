"""A vocabulary, whatever the format of its file, as GGUF's tokenizer keys."""

from __future__ import annotations

from dataclasses import dataclass

from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.llama.tokenizer import Locate, check, n_tokens

MAX_BYTES = 1 << 25  # of a list in the file; the largest vocabularies in use have about a tenth of it
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


def checked(vocabulary: Vocabulary, locate: Locate) -> Vocabulary:
    """Check the tokenizer keys, and return the vocabulary. Raises `MalformedError`."""
    check(vocabulary.path, vocabulary.keys, vocabulary.n_tokens, locate)
    return vocabulary
