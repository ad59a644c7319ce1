"""tokenizer.json and tokenizer.model give texts the ids that llama.cpp gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from ggcp_schema import UsageError, export_model
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.huggingface.config import json_bytes
from ggcp_schema.huggingface.sentencepiece_writer import sentencepiece_model
from ggcp_schema.huggingface.tokenizer import (
    EQUAL_SCORES,
    OVERLAPPING,
    UNKNOWN_CHARACTER,
    inexpressible,
    tokenizer_config,
    tokenizer_json,
)
from ggcp_schema.llama.vocabulary import USER_DEFINED, Token, Vocabulary
from ggcp_schema.mapping.vocabulary import read_vocabulary
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES
from tests.huggingface.llama_ids import token_ids
from tests.huggingface.texts import SPECIAL, texts
from tests.mapping import llama
from tests.vocabularies import ggml_file, make, raw_text, tokenizer_keys, write_gguf
from tests.vocabularies import sentencepiece_model as by_bytes

needs_llama = pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")

SOURCES = {
    "alice": ["alice-vocab.gguf", "alice-vocab.ggjt", "alice-tokenizer.model"],
    "toy": ["vocab.ggjt", "ggjt2", "sentencepiece"],
}
NAMES = [*SOURCES["alice"], *SOURCES["toy"], "vocab.gguf"]  # which has user-defined tokens, as no other can have


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


def source(name: str, folder: Path) -> Path:
    """Return the vocabulary of that name as a file."""
    if (FIXTURES / name).exists():
        return FIXTURES / name
    path = folder / name
    path.write_bytes(make(name))
    return path


def fast(spm: Vocabulary) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_json(spm)))


def by_llama(vocab: Path, strings: list[str], folder: Path, *, parse_special: bool) -> list[list[int]]:
    """Return llama.cpp's ids, with this vocabulary in a model of no use."""
    return _answers(vocab.read_bytes(), vocab, tuple(strings), folder)[parse_special]


@cache
def _answers(content: bytes, vocab: Path, strings: tuple[str, ...], folder: Path) -> tuple[list[list[int]], ...]:
    """Return the ids for texts that stay texts, and where those of special tokens are these."""
    tokens = read_vocabulary(vocab).tokens
    checkpoint, model = folder / "model.ggcp", folder / "model.gguf"
    checkpoint.write_bytes(build_checkpoint(n_vocab=len(tokens)))
    export_model(checkpoint, model, vocab=vocab, context_length=64, force=True)
    return token_ids(model, strings)


def with_texts(keys: dict[str, tuple[str, Any]], texts: dict[int, str]) -> list[tuple[str, Any, str]]:
    """Return the keys with other texts of some tokens."""
    kind, old = keys["tokenizer.ggml.tokens"]
    changed = keys | {"tokenizer.ggml.tokens": (kind, [texts.get(index, text) for index, text in enumerate(old)])}
    return [(name, value, types) for name, (types, value) in changed.items()]


def differing(strings: list[str], found: list[list[int]], expected: list[list[int]]) -> list[str]:
    return [text for text, one, other in zip(strings, found, expected, strict=True) if one != other]


# The same ids as llama.cpp ---------------------------------------------------------------------------------


@needs_llama
@pytest.mark.parametrize("name", NAMES)
def test_tokenizers_gives_the_ids_of_llama_cpp(name: str, folder: Path) -> None:
    vocab = source(name, folder)
    spm = read_vocabulary(vocab)
    assert not inexpressible(spm)
    strings, tokenizer = [*texts(), *SPECIAL], fast(spm)
    assert len(strings) >= 500
    for as_text in (False, True):
        tokenizer.encode_special_tokens = as_text
        found = [tokenizer.encode(text).ids for text in strings]
        expected = by_llama(vocab, strings, folder, parse_special=not as_text)
        assert differing(strings, found, expected) == []


@needs_llama
@pytest.mark.parametrize("name", NAMES)
def test_sentencepiece_gives_the_ids_of_llama_cpp(name: str, folder: Path) -> None:
    vocab = source(name, folder)
    processor = SentencePieceProcessor(model_proto=sentencepiece_model(read_vocabulary(vocab)))
    strings = [*texts(), *SPECIAL]
    found = [processor.encode(text, add_bos=True) for text in strings]
    assert differing(strings, found, by_llama(vocab, strings, folder, parse_special=False)) == []


@needs_llama
def test_user_defined_tokens(folder: Path) -> None:
    """They are cut out of a text first, also where their characters could be joined otherwise."""
    vocab, keys = folder / "user-defined.gguf", tokenizer_keys()
    changed = {309: "  ", 310: "hat", 311: "<|x|>", 312: "é", 313: "\n\n"}
    assert set(keys["tokenizer.ggml.token_type"][1][309:]) == {4}
    write_gguf(vocab, with_texts(keys, changed))
    spm = read_vocabulary(vocab)
    assert not inexpressible(spm)
    strings = [*texts(), *SPECIAL, "<|x|>", "a<|x|> b", " <|x|>the  the\n\nthe", "the<s>the", "<|x|><|x|>"]
    tokenizer = fast(spm)
    for as_text in (False, True):
        tokenizer.encode_special_tokens = as_text
        found = [tokenizer.encode(text).ids for text in strings]
        assert differing(strings, found, by_llama(vocab, strings, folder, parse_special=not as_text)) == []
    config = tokenizer_config(spm, 64)
    listed = {int(index): token["content"] for index, token in config["added_tokens_decoder"].items()}
    assert listed == {index: token.text for index, token in enumerate(spm.tokens) if index >= 309}
    assert not any(token["special"] or token["normalized"] for token in config["added_tokens_decoder"].values())


@needs_llama
@pytest.mark.parametrize("added", [{"bos_token": False}, {"eos_token": True}, {"space_prefix": False}], ids=str)
def test_what_llama_cpp_adds_to_a_text(added: dict[str, bool], folder: Path) -> None:
    vocab, keys = folder / "adds.gguf", tokenizer_keys("alice-vocab.gguf")
    changed = keys | {f"tokenizer.ggml.add_{name}": ("BOOL", value) for name, value in added.items()}
    write_gguf(vocab, [(name, value, kind) for name, (kind, value) in changed.items()])
    spm, strings = read_vocabulary(vocab), texts()
    assert spm != read_vocabulary(FIXTURES / "alice-vocab.gguf")
    tokenizer = fast(spm)
    found = [tokenizer.encode(text).ids for text in strings]
    assert differing(strings, found, by_llama(vocab, strings, folder, parse_special=True)) == []
    if "space_prefix" in added:
        processor = SentencePieceProcessor(model_proto=sentencepiece_model(spm))
        assert differing(strings, [processor.encode(text, add_bos=True) for text in strings], found) == []


@needs_llama
def test_control_another_order_of_merges_is_noticed(folder: Path) -> None:
    vocab = FIXTURES / "alice-vocab.gguf"
    value = tokenizer_json(read_vocabulary(vocab))
    value["model"]["merges"].reverse()
    tokenizer, strings = Tokenizer.from_str(json.dumps(value)), texts()
    found = [tokenizer.encode(text).ids for text in strings]
    assert len(differing(strings, found, by_llama(vocab, strings, folder, parse_special=True))) > len(strings) // 20


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_the_text_again(name: str, folder: Path) -> None:
    tokenizer = fast(read_vocabulary(source(name, folder)))
    strings = [text for text in texts() if "▁" not in text]
    assert [tokenizer.decode(tokenizer.encode(text).ids) for text in strings] == strings


# One vocabulary, three kinds of files ----------------------------------------------------------------------


@pytest.mark.parametrize("names", SOURCES.values(), ids=SOURCES)
def test_the_three_sources_of_a_vocabulary_give_the_same_files(names: list[str], folder: Path) -> None:
    made = {
        (json_bytes(tokenizer_json(spm)), sentencepiece_model(spm))
        for spm in (read_vocabulary(source(name, folder)) for name in names)
    }
    assert len(made) == 1


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_model_has_the_tokens_of_its_source(name: str, folder: Path) -> None:
    spm = read_vocabulary(source(name, folder))
    tokens, ids = spm.tokens, spm.ids
    path = folder / "rebuilt.model"
    path.write_bytes(sentencepiece_model(spm))
    normal = [token._replace(type=1) if token.type == 4 else token for token in tokens]  # as gguf reads them
    rebuilt = read_vocabulary(path)
    assert (rebuilt.tokens, rebuilt.ids, rebuilt.note) == (normal, ids, "")
    processor = SentencePieceProcessor(model_file=str(path))
    for index, token in enumerate(tokens):
        assert (processor.id_to_piece(index), processor.get_score(index)) == token[:2]
        kinds = {2: processor.is_unknown, 3: processor.is_control, 5: processor.is_unused, 6: processor.is_byte}
        assert [kind for kind, holds in kinds.items() if holds(index)] == ([token.type] if token.type in kinds else [])
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id()) == (ids["unknown"], ids["bos"], ids["eos"])


# What tokenizer.json cannot say ----------------------------------------------------------------------------


@needs_llama
def test_equal_scores_are_said_and_make_a_difference(folder: Path) -> None:
    vocab = folder / "ggml"
    known = read_vocabulary(FIXTURES / "alice-vocab.ggjt").tokens
    vocab.write_bytes(ggml_file("ggml", None, [raw_text(token.text, token.type) for token in known]))
    spm = read_vocabulary(vocab)
    assert inexpressible(spm) == [EQUAL_SCORES]
    tokenizer, strings = fast(spm), texts()
    found = [tokenizer.encode(text).ids for text in strings]
    assert differing(strings, found, by_llama(vocab, strings, folder, parse_special=True))


@needs_llama
def test_a_character_that_is_no_token_is_said_and_makes_a_difference(folder: Path) -> None:
    vocab, keys = folder / "character.gguf", tokenizer_keys()
    write_gguf(vocab, with_texts(keys, {308: "éé"}))
    assert keys["tokenizer.ggml.token_type"][1][308] == 1
    spm = read_vocabulary(vocab)
    assert inexpressible(spm) == [UNKNOWN_CHARACTER]
    strings = ["éé", "café"]
    found = [fast(spm).encode(text).ids for text in strings]
    expected = by_llama(vocab, strings, folder, parse_special=True)
    assert 308 in expected[0]
    assert differing(strings, found, expected) == ["éé"]


@needs_llama
def test_user_defined_tokens_that_overlap_are_said_and_make_a_difference(folder: Path) -> None:
    vocab = folder / "overlap.gguf"
    write_gguf(vocab, with_texts(tokenizer_keys(), {309: "hat", 310: "ates"}))
    spm, strings = read_vocabulary(vocab), ["hat", "ates", "hates"]
    assert inexpressible(spm) == [OVERLAPPING]
    found = [fast(spm).encode(text).ids for text in strings]
    assert differing(strings, found, by_llama(vocab, strings, folder, parse_special=True)) == ["hates"]


@pytest.mark.parametrize(
    ("types", "found"),
    [
        (dict.fromkeys([0, *range(3, 259)], 1), "0 tokens of the type unknown"),
        ({1: 2}, "2 tokens of the type unknown"),
        ({3: 1}, "255 tokens of the type byte"),
    ],
)
def test_what_sentencepiece_would_not_load_is_refused(types: dict[int, int], found: str) -> None:
    spm = read_vocabulary(FIXTURES / "alice-vocab.gguf")
    tokens = [token._replace(type=types.get(index, token.type)) for index, token in enumerate(spm.tokens)]
    with pytest.raises(UsageError, match=found):
        sentencepiece_model(Vocabulary.of(spm.path, spm.kind, tokens, spm.ids))
    with pytest.raises(RuntimeError):  # sentencepiece's own words about such a model
        SentencePieceProcessor(model_proto=by_bytes(tokens))


def test_a_vocabulary_of_a_few_keys_is_what_llama_cpp_takes_it_for() -> None:
    texts = ["<unk>", "", "b"]
    spm = Vocabulary("", "", [KeyValue("tokenizer.ggml.tokens", "ARRAY/STRING", texts)])
    assert spm.tokens == [Token(text, 0.0, 1) for text in texts]
    assert spm.ids == {"unknown": 0, "bos": 1, "eos": 2}
    assert list(tokenizer_json(spm)["model"]["vocab"]) == ["<unk>", "[EMPTY_1]", "b"]


BYTES = [Token(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
SPECIALS = [Token("<unk>", 0.0, 2), Token("<s>", 0.0, 3), Token("</s>", 0.0, 3)]


@st.composite
def vocabularies(draw: Callable[..., object]) -> list[Token]:
    """Vocabularies of a few letters, in which tokens are joined in many ways."""
    words = draw(st.lists(st.text("abc▁é", min_size=2, max_size=5), max_size=14, unique=True))
    scores = draw(st.lists(st.integers(-20, 20), min_size=len(words), max_size=len(words)))
    letters = draw(st.sampled_from(["abc▁é", "abc▁", "ab▁"]))
    pieces = [(letter, -100.0 - index) for index, letter in enumerate(letters)] + list(zip(words, map(float, scores)))
    cut = draw(st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3, unique=True))
    return [
        *SPECIALS,
        *BYTES,
        *(Token(text, score, 1) for text, score in pieces),
        *(Token(text, 0.0, USER_DEFINED) for text in cut if text not in dict(pieces)),
    ]


def spm_ids(tokens: list[Token], text: str) -> list[int]:
    """Return what llama.cpp does: take the user-defined tokens out of the text, the longest first, join the rest."""
    cut = [index for index, token in enumerate(tokens) if token.type == USER_DEFINED]
    parts: list[str | int] = [text]
    for index in sorted(cut, key=lambda index: -len(tokens[index].text)):
        parts = [new for part in parts for new in without(part, tokens[index].text, index)]
    return [index for part in parts for index in ([part] if isinstance(part, int) else joined(tokens, part))]


def without(part: str | int, token: str, index: int) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    first, *others = part.split(token)
    return [first, *(new for other in others for new in (index, other))]


def joined(tokens: list[Token], text: str) -> list[int]:
    """Join the neighbours that make the token with the highest score, of equal ones the leftmost."""
    ids = {token.text: index for index, token in enumerate(tokens)}
    pieces = list(f"▁{text}".replace(" ", "▁")) if text else []
    while True:
        unions = [(tokens[ids[a + b]].score, -at) for at, (a, b) in enumerate(pairwise(pieces)) if a + b in ids]
        if not unions:
            break
        at = -max(unions)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return [
        index
        for piece in pieces
        for index in ([ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()])
    ]


@given(tokens=vocabularies(), strings=st.lists(st.text("abc é", max_size=12), min_size=1, max_size=20))
def test_where_nothing_is_said_any_text_has_the_ids_of_llama_cpp(tokens: list[Token], strings: list[str]) -> None:
    spm = Vocabulary.of("", "", tokens, {"unknown": 0, "bos": 1, "eos": 2})
    if not inexpressible(spm):
        tokenizer = fast(spm)
        assert [tokenizer.encode(text).ids for text in strings] == [[1, *spm_ids(tokens, text)] for text in strings]


def test_the_property_s_account_of_llama_cpp_is_right(folder: Path) -> None:
    tokens = read_vocabulary(FIXTURES / "alice-vocab.gguf").tokens
    strings = [text for text in texts() if text]
    expected = by_llama(FIXTURES / "alice-vocab.gguf", strings, folder, parse_special=False)
    assert differing(strings, [[1, *spm_ids(tokens, text)] for text in strings], expected) == []
