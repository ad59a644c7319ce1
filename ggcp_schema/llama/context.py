"""The context length of a training: the tokens of a sample."""

from __future__ import annotations

from typing import NamedTuple

PLAUSIBLE = range(2, 1 << 17)  # tokens; the trainers' models had up to 2,048
MAY_HAVE_WRAPPED = 1 << 15  # samples of a plausible context whose tokens may be 2**32, where the count starts again
BY_COUNTS = "if it never changed"


class Context(NamedTuple):
    """The context length in tokens, None if it is not known; and how it is known, or what is known instead of it."""

    tokens: int | None = None
    reason: str = ""

    @property
    def text(self) -> str:
        """What is known of it in words; empty if nothing is."""
        return self.reason if self.tokens is None else f"{self.tokens:,} tokens, {self.reason}"

    @property
    def is_mean(self) -> bool:
        """True if the counts tell no more than the mean of all samples."""
        return self.reason == BY_COUNTS


UNKNOWN = Context()


def context_of(train_samples: int | None, train_tokens: int | None, stored: int | None = None) -> Context:
    """Return the context length that a file stores, or that follows from its counts if it never changed."""
    if stored is not None:
        return Context(stored, "stored in the file")
    if not train_samples or not train_tokens:
        return UNKNOWN
    tokens, rest = divmod(train_tokens, train_samples)
    if not rest and tokens in PLAUSIBLE:
        return Context(tokens, BY_COUNTS)
    wrapped = ", or the count of tokens wrapped at 2**32" if train_samples >= MAY_HAVE_WRAPPED else ""
    if rest and tokens + 1 in PLAUSIBLE:
        return Context(
            None, f"changed during the training, between {tokens:,} or less and {tokens + 1:,} or more{wrapped}"
        )
    return Context(
        None, f"unknown: the counts give {train_tokens / train_samples:,.1f} tokens for each sample{wrapped}"
    )
