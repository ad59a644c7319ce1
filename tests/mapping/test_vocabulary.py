"""Vocabularies: every kind of file gives the same tokenizer keys, and a damaged one an error that says where."""

from __future__ import annotations

import io
import math
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sentencepiece
from gguf import GGUFEndian
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.errors import (
    FileError,
    GgcpError,
    MalformedError,
    NotACheckpointError,
    TruncatedError,
    UsageError,
)
from ggcp_schema.formats import open_file, vocabularies
from ggcp_schema.formats.gguf.meanings import vocabulary_of_gguf
from ggcp_schema.formats.sentencepiece import model as module
from ggcp_schema.mapping.vocabulary import read_vocabulary
from tests.gguf_writer import add_keys, written_by_gguf
from tests.helpers import FIXTURES
from tests.vocabularies import (
    GGML_KINDS,
    KINDS,
    Keys,
    ggml_file,
    make,
    sentencepiece_model,
    tokenizer_keys,
    tokens,
    write_gguf,
)

HEADER = 36  # bytes before the first token of a ggjt file
MODEL = ("tokenizer.ggml.model", "llama", "STRING")
TOKENS = ("tokenizer.ggml.tokens", ["a", "b", "c"], "ARRAY/STRING")
SCORES = ("tokenizer.ggml.scores", [0.0, -1.0, -2.0], "ARRAY/FLOAT32")
TYPES = ("tokenizer.ggml.token_type", [1, 1, 1], "ARRAY/INT32")


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    return tmp_path / "vocab"


def read(path: Path, data: bytes) -> dict[str, tuple[str, Any]]:
    path.write_bytes(data)
    return {entry.key: (entry.type, entry.value) for entry in read_vocabulary(path).keys}


# Content ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ggml", "vocab.gguf")])
def test_every_kind_gives_the_keys_that_the_gguf_file_has(kind: str, vocab: Path) -> None:
    assert read(vocab, make(kind)) == without_user_defined(tokenizer_keys())


def test_a_gguf_gives_its_own_keys(vocab: Path) -> None:
    assert read(vocab, make("vocab.gguf")) == tokenizer_keys()


def without_user_defined(keys: dict[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """User-defined tokens (type 4) are normal ones in files before GGUF, and for gguf's reader of sentencepiece."""
    kind, types = keys["tokenizer.ggml.token_type"]
    return keys | {"tokenizer.ggml.token_type": (kind, [1 if type_ == 4 else type_ for type_ in types])}


@pytest.mark.parametrize("name", ["alice-vocab.gguf", "alice-vocab.ggjt", "alice-tokenizer.model"])
def test_the_files_that_sentencepiece_and_llama_cpp_wrote_agree(name: str) -> None:
    vocabulary = read_vocabulary(FIXTURES / name)
    expected = tokenizer_keys("alice-vocab.gguf")
    for key in ("tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id"):
        found = {entry.key: entry.value for entry in vocabulary.keys}
        assert found[f"tokenizer.ggml.{key}"] == expected[f"tokenizer.ggml.{key}"][1]
    assert vocabulary.n_tokens == 768
    assert not vocabulary.note


def test_unversioned_ggml_lacks_the_scores_and_says_so(vocab: Path) -> None:
    expected = tokenizer_keys() | {"tokenizer.ggml.scores": ("ARRAY/FLOAT32", [0.0] * 320)}
    assert read(vocab, make("ggml")) == without_user_defined(expected)
    assert "no scores" in read_vocabulary(vocab).note


@pytest.mark.parametrize(("left_out", "note"), [(SCORES, "no scores"), (TYPES, "no token types")])
def test_a_gguf_without_scores_or_types_says_so(left_out: tuple[str, Any, str], note: str, vocab: Path) -> None:
    write_gguf(vocab, [entry for entry in (MODEL, TOKENS, SCORES, TYPES) if entry != left_out])
    assert note in read_vocabulary(vocab).note


def test_our_ggjt_files_are_like_the_one_that_the_trainers_read() -> None:
    assert ggml_file("ggjt", 3) == (FIXTURES / "vocab.ggjt").read_bytes()


def test_the_first_three_tokens_are_special_whatever_their_text(vocab: Path) -> None:
    """llama.cpp's converter of 2023 wrote ` ⁇ ` and empty texts for them."""
    keys = read(vocab, ggml_file("ggjt", 1, [" ⁇ ".encode(), b"", b"", b"", b" a", b"\x02", b"\x02"]))
    assert keys["tokenizer.ggml.tokens"][1] == ["<unk>", "<s>", "</s>", "", "▁a", "<0x02>", "\x02"]
    assert keys["tokenizer.ggml.token_type"][1] == [2, 3, 3, 3, 1, 6, 1]
    assert keys["tokenizer.ggml.scores"][1] == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]


def test_byte_0_of_a_file_that_the_trainer_wrote_is_a_byte() -> None:
    with open_file(FIXTURES / "lora" / "base.ggjt") as file, open_file(FIXTURES / "vocab.ggjt") as other:
        assert file["tokens"][3]["text"] == b""
        assert file.vocabulary().keys == other.vocabulary().keys


def test_a_file_of_two_tokens_has_no_id_for_the_third(vocab: Path) -> None:
    keys = read(vocab, ggml_file("ggjt", 1, [b"", b""]))
    ids = {key: value for key, (_, value) in keys.items() if key.endswith("_id")}
    assert ids == {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.unknown_token_id": 0}


def test_a_gguf_s_other_tokenizer_keys_are_copied_and_ids_that_say_none_are_not(vocab: Path) -> None:
    keep = [
        MODEL,
        ("tokenizer.ggml.tokens", ["<unk>", "b"], "ARRAY/STRING"),
        ("tokenizer.ggml.add_bos_token", False, "BOOL"),
        ("tokenizer.ggml.padding_token_id", 1, "UINT32"),
        ("tokenizer.chat_template", "{{ x }}", "STRING"),
        ("tokenizer.ggml.precompiled_charsmap", [-1, 2], "ARRAY/INT8"),
    ]
    leave = [
        ("tokenizer.ggml.seperator_token_id", 4294967295, "UINT32"),
        ("general.name", "the vocabulary's own", "STRING"),
        ("llama.context_length", 2048, "UINT32"),
    ]
    write_gguf(vocab, [*leave, *keep])
    assert [(entry.key, entry.value, entry.type) for entry in read_vocabulary(vocab).keys] == keep


def test_a_big_endian_gguf_gives_the_same_numbers(vocab: Path) -> None:
    with written_by_gguf(vocab, endianess=GGUFEndian.BIG) as writer:
        add_keys(writer, ((key, *entry) for key, entry in tokenizer_keys().items()))
    assert {entry.key: (entry.type, entry.value) for entry in read_vocabulary(vocab).keys} == tokenizer_keys()


def test_sentencepiece_without_special_tokens_has_no_ids_for_them(vocab: Path) -> None:
    keys = read(vocab, sentencepiece_model([token for token in tokens() if token[0] not in ("<s>", "</s>")]))
    assert [key for key in keys if key.endswith("_id")] == ["tokenizer.ggml.unknown_token_id"]
    assert len(keys["tokenizer.ggml.tokens"][1]) == 318
    assert read_vocabulary(vocab).note.endswith("which has no BOS token")


# Open files ------------------------------------------------------------------------------------------------


def trainer_checkpoint(path: Path) -> None:
    """Write what the trainers save since late August 2023: vocabulary, model and optimizer in one GGUF file."""
    with written_by_gguf(path) as writer:
        writer.add_string("training.type", "train_model")
        add_keys(writer, ((key, *entry) for key, entry in tokenizer_keys().items()))
        writer.add_uint32("tokenizer.ggml.padding_token_id", 0xFFFFFFFF)
        writer.add_tensor("token_embd.weight", np.zeros((320, 8), np.float32))
        writer.add_tensor("optimizer.adam.first_moments", np.zeros(4000, np.float32))


def test_the_vocabulary_in_a_checkpoint_saved_by_a_trainer(vocab: Path) -> None:
    trainer_checkpoint(vocab)
    with open_file(vocab) as file:
        vocabulary = file.vocabulary()
    assert {entry.key: (entry.type, entry.value) for entry in vocabulary.keys} == tokenizer_keys()


def test_a_ggcp_checkpoint_contains_no_vocabulary() -> None:
    with open_file(FIXTURES / "v1-adam.ggcp") as file, pytest.raises(UsageError, match="contains no vocabulary"):
        file.vocabulary()


@pytest.mark.parametrize("kind", GGML_KINDS)
def test_damage_after_the_tokens_of_a_ggml_file_does_no_harm(kind: str, vocab: Path) -> None:
    alone = read(vocab, make(kind))
    assert read(vocab, make(kind) + b"\xff" * 1000) == alone


@pytest.mark.parametrize("cut", [100, 5000, 16100, 17000])
def test_damage_in_the_tensors_of_a_gguf_does_no_harm(cut: int, vocab: Path) -> None:
    trainer_checkpoint(vocab)
    os.truncate(vocab, vocab.stat().st_size - cut)
    assert {entry.key: (entry.type, entry.value) for entry in read_vocabulary(vocab).keys} == tokenizer_keys()


def test_damage_in_the_vocabulary_of_an_open_file_is_raised(vocab: Path) -> None:
    trainer_checkpoint(vocab)
    os.truncate(vocab, 3000)
    with open_file(vocab, partial=True) as file, pytest.raises(TruncatedError) as caught:
        file.vocabulary()
    assert caught.value.path.startswith("metadata_kv[")


def test_a_file_that_changes_while_it_is_read_is_an_error(vocab: Path) -> None:
    vocab.write_bytes(make("vocab.gguf"))

    def and_change(*arguments: Any) -> Any:
        os.truncate(vocab, 2000)
        return vocabulary_of_gguf(*arguments)

    function = "ggcp_schema.formats.gguf.meanings.vocabulary_of_gguf"
    with mock.patch(function, and_change), pytest.raises(GgcpError, match="vocab"):
        read_vocabulary(vocab)


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
        assert "another file with the same vocabulary" in caught.value.hint


@pytest.mark.parametrize(
    ("damage", "path", "offset"),
    [
        ((4, 4), "version", 4),
        ((4, 0), "version", 4),
        ((8, 0xFFFFFFFF), "tokens", HEADER),
        ((HEADER, 0xFFFFFFFF), "tokens[0].len", HEADER),
        ((HEADER + 9, 0x7FFFFFFF), "tokens[1].len", HEADER + 9),
        ((HEADER + 5, 0x7FC00000), "tokens[0].score", HEADER + 5),
        ((HEADER + 9 + 5, 0xFF800000), "tokens[1].score", HEADER + 9 + 5),
        ((8, 0), "hparams.n_vocab", 8),
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
    with pytest.raises(MalformedError, match=r"tokens\[4\]\.text .* expected UTF-8, found the bytes c3 28") as caught:
        read_vocabulary(vocab)
    assert caught.value.offset == HEADER + 3 * 9 + 12 + 4


def test_a_vocabulary_of_characters_keeps_its_first_tokens(vocab: Path) -> None:
    """The trainers took one with a space as token 0: its first tokens are no special ones."""
    vocab.write_bytes(ggml_file("ggjt", 3, [b" ", b"a", b"b", b"c"]))
    keys = {entry.key: entry.value for entry in read_vocabulary(vocab).keys}
    assert keys["tokenizer.ggml.tokens"] == ["▁", "a", "b", "c"]
    assert keys["tokenizer.ggml.token_type"] == [1, 1, 1, 1]
    assert "tokenizer.ggml.unknown_token_id" not in keys
    assert keys["tokenizer.ggml.bos_token_id"] == 1  # which began every sample


@pytest.mark.parametrize("unknown", ["<unk>", " ⁇ "])
def test_the_special_tokens_of_a_ggjt_file_are_recognised_by_their_texts(unknown: str, vocab: Path) -> None:
    vocab.write_bytes(ggml_file("ggjt", 3, [unknown.encode(), b"", b"", b"\0", b"a"]))
    keys = {entry.key: entry.value for entry in read_vocabulary(vocab).keys}
    assert keys["tokenizer.ggml.tokens"] == ["<unk>", "<s>", "</s>", "<0x00>", "a"]
    assert keys["tokenizer.ggml.token_type"] == [2, 3, 3, 6, 1]
    assert keys["tokenizer.ggml.unknown_token_id"] == 0


def test_the_vocabulary_of_a_gpt2_tokenizer_is_taken_as_it_is(vocab: Path) -> None:
    merges = ("tokenizer.ggml.merges", ["a b"], "ARRAY")
    write_gguf(vocab, [("tokenizer.ggml.model", "gpt2", "STRING"), TOKENS, merges])
    keys = {entry.key: entry.value for entry in read_vocabulary(vocab).keys}
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert list(keys["tokenizer.ggml.merges"]) == ["a b"]


def test_a_text_that_two_ggjt_tokens_have_is_named_with_its_place(vocab: Path) -> None:
    vocab.write_bytes(ggml_file("ggjt", 1, [b"", b"", b"", b" the", b"", b"", b" the"]))
    with pytest.raises(MalformedError, match=r"tokens\[6\]\.text .* found '▁the', .* token 3 too") as caught:
        read_vocabulary(vocab)
    assert caught.value.offset == HEADER + 3 * 8 + 12 + 2 * 8 + 4


def changed(*entries: tuple[str, Any, str]) -> Keys:
    """Return the keys of a vocabulary of three tokens, of which these are replaced or added."""
    keys = {entry[0]: entry for entry in (MODEL, TOKENS, SCORES, TYPES)}
    return list((keys | {entry[0]: entry for entry in entries}).values())


@pytest.mark.parametrize(
    ("entry", "path", "found"),
    [
        (("tokenizer.ggml.tokens", 3, "UINT32"), "tokens", "a value of type ARRAY/STRING, found UINT32"),
        (("tokenizer.ggml.tokens", ["a", b"\xffb", "c"], "ARRAY/STRING"), "tokens[1]", "UTF-8, found the bytes ff 62"),
        (("tokenizer.ggml.tokens", ["a", "", "a"], "ARRAY/STRING"), "tokens[2]", "'a', which is the text of token 0"),
        (("tokenizer.ggml.tokens", ["a", "b"], "ARRAY/STRING"), "scores", "2 elements, one for each token, found 3"),
        (("tokenizer.ggml.scores", [1.0], "ARRAY/FLOAT32"), "scores", "3 elements, one for each token, found 1"),
        (("tokenizer.ggml.scores", [0.0] * 3, "ARRAY/FLOAT64"), "scores", "ARRAY/FLOAT32, found ARRAY/FLOAT64"),
        (("tokenizer.ggml.scores", [0, math.nan, 0], "ARRAY/FLOAT32"), "scores[1]", "a finite score, found nan"),
        (("tokenizer.ggml.scores", [0, 0, -math.inf], "ARRAY/FLOAT32"), "scores[2]", "a finite score, found -inf"),
        (("tokenizer.ggml.token_type", [1, 1, 1, 1], "ARRAY/INT32"), "token_type", "for each token, found 4"),
        (("tokenizer.ggml.token_type", [1, 7, 1], "ARRAY/INT32"), "token_type[1]", "a token type from 0 to 6, found 7"),
        (("tokenizer.ggml.token_type", [1, 1, 1], "ARRAY/UINT32"), "token_type", "ARRAY/INT32, found ARRAY/UINT32"),
        (("tokenizer.ggml.bos_token_id", 3, "UINT32"), "bos_token_id", "an id below 3, the number of tokens, found 3"),
        (("tokenizer.ggml.eos_token_id", 1, "INT32"), "eos_token_id", "a value of type UINT32, found INT32"),
        (("tokenizer.ggml.add_bos_token", 1, "UINT8"), "add_bos_token", "a value of type BOOL, found UINT8"),
        (("tokenizer.ggml.pre", b"x\xfe", "STRING"), "pre", "UTF-8, found the bytes 78 fe"),
        (("tokenizer.ggml.odd", [[1], [2]], "ARRAY/ARRAY"), "odd", "an array of numbers or strings"),
    ],
)
def test_a_wrong_value_in_a_gguf_is_named_with_its_place(
    entry: tuple[str, Any, str], path: str, found: str, vocab: Path
) -> None:
    write_gguf(vocab, changed(entry))
    with pytest.raises(MalformedError) as caught:
        read_vocabulary(vocab)
    error = caught.value
    assert error.path == f"tokenizer.ggml.{path}"
    assert found in f"expected {error.expected}, found {error.found}"
    assert len(str(error).splitlines()) == 2
    with open_file(vocab) as file:
        assert error.offset == file.find(error.path).offset


def test_a_list_that_no_vocabulary_needs_is_refused_before_it_is_read(
    vocab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in (module, vocabularies):
        monkeypatch.setattr(home, "MAX_BYTES", 100)
    for kind in ("vocab.gguf", "vocab.ggjt", "sentencepiece"):
        vocab.write_bytes(make(kind))
        with pytest.raises(MalformedError, match="at most 100 bytes"):
            read_vocabulary(vocab)


@given(
    data=st.binary(max_size=300),
    head=st.sampled_from(
        [b"", b"tjgg\x03\0\0\0", b"lmgg", b"fmgg\x01\0\0\0", b"GGUF\x03\0\0\0", b"\n\x08\n\x02ab\x15"]
    ),
)
def test_any_bytes_give_an_error_of_the_package_or_a_vocabulary(
    data: bytes, head: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_or_refuse(head + data, tmp_path_factory.getbasetemp() / "any")


@given(
    kind=st.sampled_from(["vocab.gguf", "vocab.ggjt", "sentencepiece"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_vocabulary_is_refused_or_still_consistent(
    kind: str, changes: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(make(kind))
    for place, byte in changes:
        data[int(place * len(data))] = byte
    read_or_refuse(bytes(data), tmp_path_factory.getbasetemp() / "changed")


def read_or_refuse(data: bytes, path: Path) -> None:
    """Check that a file is refused with its name, or gives keys that llama.cpp can load."""
    path.write_bytes(data)
    try:
        keys = {entry.key: entry.value for entry in read_vocabulary(path).keys}
    except GgcpError as error:
        assert str(path) in error.message  # noqa: PT017 - either outcome is right
        return
    texts = [text for text in keys["tokenizer.ggml.tokens"] if text]
    assert len(set(texts)) == len(texts)
    assert "".join(texts).encode()
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        assert len(keys.get(key, keys["tokenizer.ggml.tokens"])) == len(keys["tokenizer.ggml.tokens"])
    assert np.isfinite(keys.get("tokenizer.ggml.scores", [])).all()
    assert all(value < len(keys["tokenizer.ggml.tokens"]) for key, value in keys.items() if key.endswith("_token_id"))


def test_truncated_is_told_from_malformed(vocab: Path) -> None:
    vocab.write_bytes(make("vocab.ggjt")[:-1])
    with pytest.raises(TruncatedError, match="1 byte too short") as caught:
        read_vocabulary(vocab)
    assert (caught.value.path, caught.value.missing) == ("tokens[319].score", 1)


# sentencepiece ---------------------------------------------------------------------------------------------


def replaced(index: int, text: str | bytes | None = None, score: float | None = None) -> bytes:
    """Return a sentencepiece model with another text or score of one piece."""
    pieces: list[tuple[str | bytes, float, int]] = list(tokens())
    old = pieces[index]
    pieces[index] = (old[0] if text is None else text, old[1] if score is None else score, old[2])
    return sentencepiece_model(pieces)


@pytest.mark.parametrize("size", [500, -1])
def test_a_truncated_sentencepiece_model(size: int, vocab: Path) -> None:
    data = make("sentencepiece")[:size]
    vocab.write_bytes(data)
    with pytest.raises(MalformedError, match="expected a whole sentencepiece model") as caught:
        read_vocabulary(vocab)
    assert 0 < caught.value.offset < len(data)


@pytest.mark.parametrize(
    ("data", "path", "found"),
    [
        (replaced(301, b"\xc3(ab"), "pieces[301]", "expected UTF-8, found the bytes c3 28 61 62"),
        (replaced(301, score=math.nan), "pieces[301]", "expected a finite score, found nan"),
        (replaced(301, tokens()[300][0]), "file", "'INTERNAL: ▁a is already defined.'"),
        (sentencepiece_model([*tokens()[:3], *tokens()[4:]]), "file", "there are not 256 byte pieces"),
        (make("sentencepiece") + b"\x80" * 30, "file", "a protobuf field, found the bytes 80 80 80 80"),
    ],
)
def test_a_damaged_sentencepiece_model(data: bytes, path: str, found: str, vocab: Path) -> None:
    vocab.write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        read_vocabulary(vocab)
    assert caught.value.path == path
    assert found in caught.value.message
    assert str(vocab) in caught.value.message
    assert len(str(caught.value).splitlines()) == 2
    if path.startswith("pieces"):
        start = caught.value.offset
        assert data[start : start + 1] == b"\n"  # the first field of the piece, its text
        assert data.startswith((tokens()[301][0].encode(), b"\xc3("), start + 2)


@pytest.mark.parametrize(
    "data",
    [b"\n", b"\n\x0e", b"\n\n\nOnce upon a time\n" * 50, b"\nA\n\n" + b"text " * 30, b"\n\x08\n\x0f" + b"a" * 99],
)
def test_a_file_that_merely_begins_with_a_newline_is_no_sentencepiece_model(data: bytes, vocab: Path) -> None:
    vocab.write_bytes(data)
    with (
        mock.patch.dict(sys.modules, {"sentencepiece": None}),
        pytest.raises(NotACheckpointError) as caught,
    ):
        read_vocabulary(vocab)
    assert "sentencepiece" not in caught.value.message
    assert "Use a llama GGUF" in caught.value.hint


def test_the_model_is_not_copied_where_symbolic_links_are_possible(vocab: Path) -> None:
    with mock.patch.object(shutil, "copyfile", side_effect=AssertionError):
        assert read(vocab, make("sentencepiece"))


def test_the_model_is_copied_where_they_are_not(vocab: Path) -> None:
    with mock.patch.object(Path, "symlink_to", side_effect=OSError("no privilege")):
        assert read(vocab, make("sentencepiece")) == without_user_defined(tokenizer_keys())


def test_a_relative_path_and_a_name_that_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"m\xff.model")
    assert read(Path(name), make("sentencepiece"))


def test_without_the_sentencepiece_package_it_says_what_to_install(vocab: Path) -> None:
    vocab.write_bytes(make("sentencepiece"))
    with mock.patch.dict(sys.modules, {"sentencepiece": None}), pytest.raises(UsageError) as caught:
        read_vocabulary(vocab)
    assert "pip install sentencepiece" in caught.value.hint
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({}, ""),
        ({"model_type": 1}, "is of type unigram instead of bpe"),
        ({"remove_extra_whitespaces": True}, "removes extra spaces"),
        ({"add_dummy_prefix": False}, "adds no space before the text"),
        ({"model_type": 3, "add_dummy_prefix": False}, "is of type word instead of bpe and adds no space"),
    ],
)
def test_a_model_that_llama_cpp_tokenizes_otherwise_says_so(options: dict[str, Any], note: str, vocab: Path) -> None:
    vocab.write_bytes(sentencepiece_model(tokens(), **options))
    found = read_vocabulary(vocab).note
    assert note in found
    assert bool(found) == bool(note)


def test_a_model_trained_by_sentencepiece_with_its_defaults_differs_from_llama_cpp(vocab: Path) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["Alice was beginning to get very tired of sitting by her sister on the bank"] * 9),
        model_writer=model,
        vocab_size=30,
        minloglevel=2,
        num_threads=1,
        bos_id=-1,
    )
    vocab.write_bytes(model.getvalue())
    vocabulary = read_vocabulary(vocab)
    reasons = "is of type unigram instead of bpe, normalizes characters, removes extra spaces and has no BOS token"
    assert vocabulary.note.endswith(reasons)
    assert vocabulary.n_tokens == 30
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    texts = next(entry.value for entry in vocabulary.keys if entry.key == "tokenizer.ggml.tokens")
    assert texts == [processor.IdToPiece(index) for index in range(30)]


# Not a vocabulary ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "The file is empty"),
        (b"PK\x03\x04", "This is a zip archive"),
        ((FIXTURES / "lora/adam.ggla").read_bytes(), "is a ggla LoRA adapter, which contains no vocabulary"),
        (b'{"model": 1}', """This is a text that begins with '{"model": 1}'"""),
        (b"\x01\x02\x03\x04", "begins with the bytes 01 02 03 04"),
        ((FIXTURES / "v0-adam.ggcp").read_bytes(), "is a ggcp checkpoint, which contains no vocabulary"),
    ],
)
def test_another_file_is_named(data: bytes, found: str, vocab: Path) -> None:
    vocab.write_bytes(data)
    with pytest.raises((NotACheckpointError, UsageError), match=found) as caught:
        read_vocabulary(vocab)
    assert "ggml-vocab.bin" in caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_vocabulary(tmp_path / "none")


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ([], "without a vocabulary"),
        ([MODEL], "without a vocabulary"),
        ([TOKENS], "without a vocabulary"),
        ([("tokenizer.ggml.model", "bert", "STRING"), TOKENS], "its tokenizer is 'bert'"),
    ],
)
def test_a_gguf_without_a_llama_vocabulary(keys: Keys, found: str, vocab: Path) -> None:
    write_gguf(vocab, keys)
    with pytest.raises(UsageError, match=found) as caught:
        read_vocabulary(vocab)
    assert caught.value.hint.startswith("Use a llama GGUF")
