"""Values as text, checked against numpy and against what a terminal would do with them."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import open_file
from ggcp_schema.inspect.text import (
    count_text,
    escape,
    float_text,
    json_value,
    plain_text,
    readable,
    shorten,
    size_text,
    value_text,
)
from tests.helpers import FIXTURES


@given(st.integers(0, 0xFFFFFFFF))
def test_a_float32_is_read_back_from_its_text(bits):
    value = struct.unpack("<f", struct.pack("<I", bits))[0]
    text = float_text(value)
    if math.isnan(value):
        assert text == "NaN"
        return
    assert np.float32(text) == np.float32(value)
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    digits = text.partition("e")[0].replace(".", "").strip("-0")
    assert len(digits) <= max(6, len(str(np.float32(value)).partition("e")[0].replace(".", "").strip("-0")))


@given(st.floats())
def test_a_float64_is_read_back_from_its_text(value):
    text = float_text(value, 64)
    assert math.isnan(value) if text == "NaN" else float(text) == value


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_escaped_text_cannot_act_on_a_terminal(text):
    escaped = escape(text)
    assert escaped.isprintable()
    if text.isprintable():
        assert escaped == text
    escaped.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("\x1b[31m\x9b", "\\x1b[31m\\x9b"), ("\x7f\u202e\u2066", "\\x7f\\u202e\\u2066"), ("\udcff", "\\xff")],
)
def test_escapes(text, expected):
    assert escape(text) == expected


def test_newlines_are_kept_only_on_request():
    assert escape("a\nb\r") == "a\\nb\\r"
    assert escape("a\nb\r", keep_newlines=True) == "a\nb\\r"


def test_text_of_a_file_that_is_not_utf8():
    assert readable(b"a\xff") == readable(b"a\xff".decode("utf-8", "surrogateescape")) == "a\\xff"


def test_plurals_and_sizes():
    assert [count_text(n, "byte") for n in (0, 1, 2000)] == ["no bytes", "1 byte", "2,000 bytes"]
    assert count_text(2, "entry", "entries") == "2 entries"
    assert (size_text(1), size_text(3 << 20)) == ("1 byte", "3,145,728 bytes (3.0 MiB)")
    assert size_text(1 << 30) == "1,073,741,824 bytes (1.0 GiB)"


@given(st.text(st.sampled_from("ab "), max_size=40), st.integers(0, 40))
def test_shortened_text_fits_and_ends_at_a_word(text, width):
    short = shorten(text, width)
    assert len(short) <= width or short == text
    if short != text and width:
        kept = short.removesuffix("…")
        assert text.startswith(kept)
        rest = text[len(kept) :]
        assert not kept or kept.endswith(" ") or rest.startswith(" ") or " " not in kept.strip()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("magic", "0x67676370 ('ggcp')"),
        ("norm.type", "0 (F32)"),
        ("norm.name", "'norm.weight'"),
        ("norm.padding", "5 × 00"),
        ("norm.data", "64 bytes of data"),
        ("norm.ne", "[16]"),
        ("hparams", "6 fields"),
        ("optimizer.type", "adam"),
        ("optimizer.state.fx_best", "5.7699394"),
    ],
)
def test_values_of_a_checkpoint(path, expected):
    with open_file(FIXTURES / "v1-adam.ggcp") as file:
        assert value_text(file.find(path)) == expected


def test_values_of_a_vocabulary():
    with open_file(FIXTURES / "vocab.gguf") as file:
        tokens = file.find("tokenizer.ggml.tokens")
        assert value_text(tokens).startswith("['<unk>', '<s>', '</s>', '<0x00>', ")
        assert value_text(tokens).endswith(f", …] ({len(tokens.value):,} elements)")
        assert json_value(file.find("general.name")) == "tiny-vocab"


def test_dirty_padding_is_shown_and_long_bytes_are_cut():
    assert plain_text(b"\0\1", "padding") == "00 01"
    assert plain_text(bytes(100), "bytes").endswith(" 00 … 100 bytes")
    assert plain_text(b"", "padding") == ""
