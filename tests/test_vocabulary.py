"""Vocabularies: every kind of file gives the same tokenizer keys, and a damaged one a precise error."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFValueType, GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import FileError, GgcpError, MalformedError, TruncatedError, UsageError
from ggcp_schema.gguf.vocabulary import read_vocabulary
from ggcp_schema.schema.ggjt import VOCABULARIES
from tests.helpers import FIXTURES
from tests.vocabularies import GGML_KINDS, KINDS, ggml_file, make, sentencepiece_model, tokenizer_keys, tokens

HEADER = 36  # bytes before the first token of a ggjt file


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    return tmp_path / "vocab"


def read(path: Path, data: bytes) -> dict[str, tuple[str, Any]]:
    path.write_bytes(data)
    return {entry.key: (entry.type, entry.value) for entry in read_vocabulary(path).keys}


def write_gguf_vocabulary(path: Path, keys: list[tuple[str, Any, str]]) -> None:
    writer = GGUFWriter(path, "llama")
    for key, value, types in keys:
        kind, _, item = types.partition("/")
        writer.add_key_value(key, value, GGUFValueType[kind], sub_type=GGUFValueType[item] if item else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


# What it says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ggml", "vocab.gguf")])
def test_every_kind_gives_the_keys_that_the_gguf_file_has(kind: str, vocab: Path) -> None:
    assert read(vocab, make(kind)) == without_user_defined(tokenizer_keys())


def test_a_gguf_gives_its_own_keys(vocab: Path) -> None:
    assert read(vocab, make("vocab.gguf")) == tokenizer_keys()


def without_user_defined(keys: dict[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """User-defined tokens (type 4) are normal ones to files before GGUF, and to gguf's reader of sentencepiece."""
    kind, types = keys["tokenizer.ggml.token_type"]
    return keys | {"tokenizer.ggml.token_type": (kind, [1 if type_ == 4 else type_ for type_ in types])}


def test_unversioned_ggml_lacks_the_scores_and_says_so(vocab: Path) -> None:
    expected = tokenizer_keys() | {"tokenizer.ggml.scores": ("ARRAY/FLOAT32", [0.0] * 320)}
    assert read(vocab, make("ggml")) == without_user_defined(expected)
    assert "no scores" in read_vocabulary(vocab).note


def test_the_fixture_is_what_the_trainers_of_2023_took() -> None:
    assert ggml_file("ggjt", 3) == (FIXTURES / "vocab.ggjt").read_bytes()


@pytest.mark.parametrize("kind", GGML_KINDS)
def test_weights_behind_the_vocabulary_are_not_read(kind: str, vocab: Path) -> None:
    alone = read(vocab, make(kind))
    assert read(vocab, make(kind) + b"\xff" * 1000) == alone


def test_the_first_three_tokens_are_special_whatever_their_text(vocab: Path) -> None:
    """llama.cpp's converter of 2023 wrote ` ⁇ ` and nothing for them."""
    keys = read(vocab, ggml_file("ggjt", 1, [" ⁇ ".encode(), b"", b"", b"", b" a", b"\x02", b"\x02"]))
    assert keys["tokenizer.ggml.tokens"][1] == ["<unk>", "<s>", "</s>", "", "▁a", "<0x02>", "\x02"]
    assert keys["tokenizer.ggml.token_type"][1] == [2, 3, 3, 3, 1, 6, 1]
    assert keys["tokenizer.ggml.scores"][1] == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]


def test_a_gguf_s_other_tokenizer_keys_are_copied_and_ids_that_say_none_are_not(vocab: Path) -> None:
    keep = [
        ("tokenizer.ggml.model", "llama", "STRING"),
        ("tokenizer.ggml.tokens", ["<unk>", "b"], "ARRAY/STRING"),
        ("tokenizer.ggml.add_bos_token", False, "BOOL"),
        ("tokenizer.ggml.padding_token_id", 1, "INT32"),
        ("tokenizer.chat_template", "{{ x }}", "STRING"),
        ("tokenizer.ggml.precompiled_charsmap", [-1, 2], "ARRAY/INT8"),
    ]
    leave = [
        ("tokenizer.ggml.seperator_token_id", 4294967295, "UINT32"),
        ("general.name", "the vocabulary's own", "STRING"),
        ("llama.context_length", 2048, "UINT32"),
    ]
    write_gguf_vocabulary(vocab, [*leave, *keep])
    assert [(entry.key, entry.value, entry.type) for entry in read_vocabulary(vocab).keys] == keep


def test_sentencepiece_without_special_tokens_has_no_ids_for_them(vocab: Path) -> None:
    keys = read(vocab, sentencepiece_model([token for token in tokens() if token[0] not in ("<s>", "</s>")]))
    assert [key for key in keys if key.endswith("_id")] == ["tokenizer.ggml.unknown_token_id"]
    assert len(keys["tokenizer.ggml.tokens"][1]) == 318


# The layout ------------------------------------------------------------------------------------------------


@given(kind=st.sampled_from(sorted(GGML_KINDS)), texts=st.lists(st.binary(max_size=9), max_size=9))
def test_the_schema_builds_what_it_parses(kind: str, texts: list[bytes]) -> None:
    magic, version = GGML_KINDS[kind]
    data = ggml_file(magic, version, texts)
    parsed = VOCABULARIES[magic].parse(data)
    assert [token["text"] for token in parsed["tokens"]] == texts
    assert VOCABULARIES[magic].build(parsed) == data


# Damage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GGML_KINDS)
def test_truncation_anywhere_is_an_error_that_says_where(kind: str, vocab: Path) -> None:
    data = ggml_file(*GGML_KINDS[kind], [b"a", b"", b"bcd", b"\xff"])
    for size in range(4, len(data)):
        vocab.write_bytes(data[:size])
        with pytest.raises(MalformedError) as caught:
            read_vocabulary(vocab)
        assert caught.value.offset <= size
        assert caught.value.path
        assert "validate" not in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "path", "offset"),
    [
        ((4, 4), "version", 4),
        ((4, 0), "version", 4),
        ((8, 0xFFFFFFFF), "tokens", HEADER),
        ((HEADER, 0xFFFFFFFF), "tokens[0].text", HEADER + 4),
        ((HEADER + 9, 0x7FFFFFFF), "tokens[1].text", HEADER + 13),
    ],
)
def test_a_wrong_number_is_named_with_its_place(damage: tuple[int, int], path: str, offset: int, vocab: Path) -> None:
    data = bytearray(ggml_file("ggjt", 3, [b"a", b"b", b"c"]))
    struct.pack_into("<I", data, *damage)
    vocab.write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        read_vocabulary(vocab)
    assert (caught.value.path, caught.value.offset) == (path, offset)


def test_a_token_that_is_not_text_is_named_with_its_place(vocab: Path) -> None:
    vocab.write_bytes(ggml_file("ggmf", 1, [b"a", b"b", b"c", b"good", b"\xc3("]))
    with pytest.raises(MalformedError, match=r"tokens\[4\]\.text .* expected UTF-8, found c3 28") as caught:
        read_vocabulary(vocab)
    assert caught.value.offset == HEADER + 3 * 9 + 12 + 4


@given(
    data=st.binary(max_size=300), head=st.sampled_from([b"", b"tjgg\x03\0\0\0", b"lmgg", b"fmgg\x01\0\0\0", b"\n\x08"])
)
def test_any_bytes_give_an_error_of_ours_or_a_vocabulary(
    data: bytes, head: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(head + data)
    try:
        assert read_vocabulary(path).keys
    except GgcpError as error:
        assert str(path) in error.message  # noqa: PT017 - either is right


@pytest.mark.parametrize("size", [1, 2, 500, -1])
def test_a_damaged_sentencepiece_model(size: int, vocab: Path) -> None:
    vocab.write_bytes(make("sentencepiece")[:size])
    with pytest.raises(MalformedError, match="nor a whole sentencepiece model"):
        read_vocabulary(vocab)


def test_a_damaged_gguf(vocab: Path) -> None:
    vocab.write_bytes(make("vocab.gguf")[:1000])
    with pytest.raises(MalformedError, match="not a whole GGUF file"):
        read_vocabulary(vocab)


# Not a vocabulary ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"pcgg\0\0\0\0", "is a ggcp checkpoint"),
        (b"algg\0\0\0\0", "is a ggla LoRA adapter"),
        (b'{"model": 1}', "begins with the bytes 7b 22 6d 6f"),
    ],
)
def test_another_file_is_named(data: bytes, found: str, vocab: Path) -> None:
    vocab.write_bytes(data)
    with pytest.raises(UsageError, match=found) as caught:
        read_vocabulary(vocab)
    assert "ggml-vocab.bin" in caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_vocabulary(tmp_path / "none")


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ([], "without a vocabulary"),
        ([("tokenizer.ggml.model", "llama", "STRING")], "without a vocabulary"),
        ([("tokenizer.ggml.model", "llama", "STRING"), ("tokenizer.ggml.tokens", 3, "UINT32")], "without a vocabulary"),
        (
            [("tokenizer.ggml.model", "gpt2", "STRING"), ("tokenizer.ggml.tokens", ["a"], "ARRAY/STRING")],
            "its tokenizer is 'gpt2'",
        ),
        (
            [
                ("tokenizer.ggml.model", "llama", "STRING"),
                ("tokenizer.ggml.tokens", ["a", "b"], "ARRAY/STRING"),
                ("tokenizer.ggml.scores", [1.0], "ARRAY/FLOAT32"),
            ],
            "tokenizer.ggml.scores has 1 entries for 2 tokens",
        ),
        (
            [
                ("tokenizer.ggml.model", "llama", "STRING"),
                ("tokenizer.ggml.tokens", ["a", "", "", "a"], "ARRAY/STRING"),
            ],
            "tokens 0 and 3 are both 'a'",
        ),
    ],
)
def test_a_gguf_that_does_not_serve(keys: list[tuple[str, Any, str]], found: str, vocab: Path) -> None:
    write_gguf_vocabulary(vocab, keys)
    with pytest.raises(UsageError, match=found):
        read_vocabulary(vocab)


def test_without_the_sentencepiece_package_it_says_what_to_install(vocab: Path, tmp_path: Path) -> None:
    vocab.write_bytes(make("sentencepiece"))
    source = FIXTURES / "v1-adam.ggcp"
    script = "import sys; sys.modules['sentencepiece'] = None; from ggcp_schema.cli import main; main()"
    command = [sys.executable, "-c", script, "export", source, tmp_path / "out", "--vocab", vocab]
    result = subprocess.run(
        [*command, "--context-length", "8"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 2
    assert "pip install sentencepiece" in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_truncated_is_told_from_malformed(vocab: Path) -> None:
    vocab.write_bytes(make("vocab.ggjt")[:-1])
    with pytest.raises(TruncatedError, match="1 bytes too short") as caught:
        read_vocabulary(vocab)
    assert (caught.value.path, caught.value.missing) == ("tokens[319].score", 1)
