"""tokenizer.json and tokenizer_config.json, which tokenize text as llama.cpp does.

The class is PreTrainedTokenizerFast: transformers 5 replaces the normalizer of a file that names LlamaTokenizer, and
then adds no `▁` before a text that begins with a space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from ggcp_schema.llama.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

SPACE = "▁"
SPECIAL_TOKENS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token"}

EQUAL_SCORES = (
    "tokens have equal scores: where two of them could be joined, llama.cpp joins the leftmost, and the BPE of "
    "tokenizer.json the one that comes first in its list"
)
UNKNOWN_CHARACTER = (
    "a token has a character that is no token of its own: llama.cpp can join it, and the BPE of tokenizer.json splits "
    "it into bytes before it joins anything"
)
OVERLAPPING = (
    "special or user-defined tokens overlap: where one begins inside another, llama.cpp takes the longest out of the "
    "text first, and tokenizer.json the leftmost"
)


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return tokenizer.json. What it cannot express is said by `inexpressible`."""
    ids = {text: index for index, text in enumerate(vocabulary.texts)}
    unknown = vocabulary.ids.get("unknown")
    prepend = {"type": "Prepend", "prepend": SPACE}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **added} for index, added in _added_tokens(vocabulary)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([prepend] if vocabulary.adds_space else []),
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _template(vocabulary),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([strip] if vocabulary.adds_space else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else vocabulary.texts[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": ids,
            "merges": _merges(vocabulary, ids),
        },
    }


def tokenizer_config(vocabulary: Vocabulary, context_length: int) -> dict[str, Any]:
    """Return tokenizer_config.json; `context_length` is in tokens.

    User-defined tokens are listed, and no others: with them llama.cpp's converter gives each token its type again.
    """
    texts = vocabulary.texts
    user_defined = {str(index): added for index, added in _added_tokens(vocabulary) if not added["special"]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: texts[vocabulary.ids[name]] for name, key in SPECIAL_TOKENS.items() if name in vocabulary.ids},
        **({"added_tokens_decoder": user_defined} if user_defined else {}),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context_length,
    }


def inexpressible(vocabulary: Vocabulary) -> list[str]:
    """Return why tokenizer.json cannot tokenize all text as llama.cpp does, in words; nothing if it can."""
    known = set(vocabulary.texts)
    joined = [token for token in vocabulary.tokens if len(token.text) > 1 and token.type != USER_DEFINED]
    scores = Counter(token.score for token in joined if next(_splits(token.text, known), None))
    reasons = {
        EQUAL_SCORES: any(count > 1 for count in scores.values()),
        UNKNOWN_CHARACTER: any(_joins_unknown(token.text, known) for token in joined),
        OVERLAPPING: _overlap([added["content"] for _, added in _added_tokens(vocabulary)]),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _joins_unknown(text: str, known: Container[str]) -> bool:
    """Check if llama.cpp can join this text from two parts of which one is a character that is no token."""
    parts = ((text[0], text[1:]), (text[-1], text[:-1]))
    return any(one not in known and (rest in known or len(rest) == 1) for one, rest in parts)


def _overlap(texts: Sequence[str]) -> bool:
    """Check if one of the texts can begin inside another that is not longer, and not where that one begins as well."""
    beginnings: dict[str, list[str]] = {}
    for text in texts:
        for end in range(1, len(text)):
            beginnings.setdefault(text[:end], []).append(text)
    return any(
        len(other) >= len(text) and not (text[:at] + other).startswith(other)
        for text in texts
        for at in range(1, len(text))
        for other in beginnings.get(text[at:], ())
    )


def _merges(vocabulary: Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs of tokens that are joined, the first ones first: by descending score of the token they make.

    Tokens of the same score, and the pairs that make the same token, are ordered by their ids.
    """
    texts = vocabulary.texts
    order = sorted(range(len(texts)), key=lambda index: -vocabulary.tokens[index].score)
    return [
        (texts[left], texts[right])  # the same strings, which takes less memory than those of `_splits`
        for index in order
        for left, right in sorted((ids[left], ids[right]) for left, right in _splits(texts[index], ids))
    ]


def _splits(text: str, known: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tokens that make a text."""
    for at in range(1, len(text)):
        if text[:at] in known and text[at:] in known:
            yield text[:at], text[at:]


def _added_tokens(vocabulary: Vocabulary) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the tokens, with their ids, that are cut out of a text before the rest is tokenized."""
    for index, (text, token) in enumerate(zip(vocabulary.texts, vocabulary.tokens)):
        if token.type in (UNKNOWN, CONTROL, USER_DEFINED):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            yield index, {"content": text, **flags, "special": token.type != USER_DEFINED}


def _template(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """Return the post-processor that adds the tokens bos and eos to each text; None if there is nothing to add."""
    ids = vocabulary.ids
    before, after = (
        {vocabulary.texts[ids[name]]: ids[name]} if name in ids and vocabulary.adds(name) else {}
        for name in ("bos", "eos")
    )

    def parts(text: str, number: int) -> list[dict[str, Any]]:
        return [
            *({"SpecialToken": {"id": token, "type_id": number}} for token in before),
            {"Sequence": {"id": text, "type_id": number}},
            *({"SpecialToken": {"id": token, "type_id": number}} for token in after),
        ]

    if not before | after:
        return None
    return {
        "type": "TemplateProcessing",
        "single": parts("A", 0),
        "pair": parts("A", 0) + parts("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [index], "tokens": [token]} for token, index in (before | after).items()
        },
    }
