"""tokenizer.json and tokenizer_config.json, which tokenize text as llama.cpp does.

The class is PreTrainedTokenizerFast: transformers 5 replaces the normalizer of a file that names LlamaTokenizer, and
then adds no `▁` before a text that begins with a space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ggcp_schema.mapping.tokenizer import CONTROL, UNKNOWN, USER_DEFINED, Token

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


def tokenizer_json(tokens: Sequence[Token], ids: Mapping[str, int], *, add_bos: bool = True) -> dict[str, Any]:
    """Return tokenizer.json for llama.cpp's tokens by id; `ids` are those of the special tokens, bos and unknown.

    What it cannot express is said by `inexpressible`.
    """
    texts = token_texts(tokens)
    unknown = ids.get("unknown")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(texts[index], token) | {"id": index} for index, token in _added_tokens(tokens)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _template(texts[ids["bos"]], ids["bos"]) if add_bos and "bos" in ids else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else texts[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: index for index, text in enumerate(texts)},
            "merges": merges(tokens),
        },
    }


def tokenizer_config(tokens: Sequence[Token], ids: Mapping[str, int], *, context_length: int) -> dict[str, Any]:
    """Return tokenizer_config.json.

    User-defined tokens are listed, and no others: with them llama.cpp's converter gives each token its type again.
    """
    texts = token_texts(tokens)
    user_defined = {
        str(index): _added(texts[index], token) for index, token in _added_tokens(tokens) if token.type == USER_DEFINED
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: texts[ids[name]] for name, key in SPECIAL_TOKENS.items() if name in ids},
        **({"added_tokens_decoder": user_defined} if user_defined else {}),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context_length,
    }


def inexpressible(tokens: Sequence[Token]) -> list[str]:
    """Return why tokenizer.json cannot tokenize all text as llama.cpp does, in words; nothing if it can."""
    known = set(token_texts(tokens))
    joined = [token for token in tokens if len(token.text) > 1 and token.type != USER_DEFINED]
    scores = Counter(token.score for token in joined if next(_splits(token.text, known), None))
    reasons = {
        EQUAL_SCORES: any(count > 1 for count in scores.values()),
        UNKNOWN_CHARACTER: any(_joins_unknown(token.text, known) for token in joined),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _joins_unknown(text: str, known: set[str]) -> bool:
    """Check if llama.cpp can join this text from two parts of which one is a character that is no token."""
    parts = ((text[0], text[1:]), (text[-1], text[:-1]))
    return any(one not in known and (rest in known or len(rest) == 1) for one, rest in parts)


def merges(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Return the pairs of tokens that are joined, the first ones first: by descending score of the token they make.

    Pairs that make the same token, and tokens of the same score, are ordered by their ids.
    """
    texts = token_texts(tokens)
    ids = {text: index for index, text in enumerate(texts)}
    order = sorted(range(len(texts)), key=lambda index: (-tokens[index].score, index))
    return [
        pair
        for index in order
        for pair in sorted(_splits(texts[index], ids), key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    ]


def _splits(text: str, known: Mapping[str, int] | set[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tokens that make a text."""
    for at in range(1, len(text)):
        if text[:at] in known and text[at:] in known:
            yield text[:at], text[at:]


def token_texts(tokens: Sequence[Token]) -> list[str]:
    """Return the texts by id. Those of tokens without a text are made up as in llama.cpp."""
    return [token.text or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]


def _added_tokens(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """Yield the tokens, with their ids, that are cut out of a text before it is tokenized."""
    for index, token in enumerate(tokens):
        if token.type in (UNKNOWN, CONTROL, USER_DEFINED):
            yield index, token


def _added(text: str, token: Token) -> dict[str, Any]:
    return {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": token.type != USER_DEFINED,
    }


def _template(text: str, index: int) -> dict[str, Any]:
    """Return the post-processor that begins each text with the token bos."""

    def begun(name: str, number: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": text, "type_id": number}}, {"Sequence": {"id": name, "type_id": number}}]

    return {
        "type": "TemplateProcessing",
        "single": begun("A", 0),
        "pair": begun("A", 0) + begun("B", 1),
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]}},
    }
