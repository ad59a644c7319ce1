"""The rotation in GGUF's keys is that of the trainers; their own logits show which that is."""

from __future__ import annotations

import functools
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.errors import UsageError
from ggcp_schema.llama.rotation import n_rot_of, rope_entries
from tests.helpers import FIXTURES
from tests.mapping import reference

# The epsilon of the programs that wrote the two files: of 13 June 2023, and the branch of 14 August 2023.
RMS_EPS = {"rotmax8-v0": 1e-6, "rotmax8-v1": 5e-6}
WRONG_EPS = {"rotmax8-v0": (5e-6, 1e-5), "rotmax8-v1": (1e-6, 1e-5)}
MAX, RMS = 6e-4, 1e-4  # ggml's tables of exp and silu were half precision
head_sizes = st.integers(1, 128).map(lambda pairs: 2 * pairs)


@functools.cache
def differences(name: str, rms_eps: float, rotation: reference.Rotation, count: int | None = None) -> reference.Array:
    """The trainer's log probabilities less those of the reference: [position, token], of the first `count` tokens."""
    stored = np.load(FIXTURES / f"{name}.logits.npz")
    path = FIXTURES / f"{name}.ggcp"
    computed = reference.log_probabilities(path, stored["tokens"].tolist()[:count], rms_eps, rotation)
    known = stored["positions"] < len(computed)
    difference: reference.Array = reference.log_softmax(stored["logits"][known]) - computed[stored["positions"][known]]
    return difference


def rms(values: reference.Array) -> float:
    return float(np.sqrt((values**2).mean()))


@pytest.mark.parametrize("name", RMS_EPS)
def test_the_trainer_rotated_the_whole_head(name: str) -> None:
    right = differences(name, RMS_EPS[name], "2023")
    assert np.abs(right).max() <= MAX
    assert rms(right) <= RMS


@pytest.mark.parametrize("name", RMS_EPS)
def test_control_a_rotation_that_stops_at_n_rot_is_wrong(name: str) -> None:
    right, wrong = (differences(name, RMS_EPS[name], rotation) for rotation in ("2023", "stop"))
    assert rms(wrong) > RMS
    assert rms(wrong) > 1.5 * rms(right)
    assert np.array_equal(wrong[0], right[0])  # nothing is rotated at position 0


@pytest.mark.parametrize("name", RMS_EPS)
def test_control_a_wrong_epsilon_is_wrong(name: str) -> None:
    """At position 0, where neither the rotation nor the softmax of the attention adds errors."""
    right = differences(name, RMS_EPS[name], "2023")[0]
    assert np.abs(right).max() < 3e-5
    for rms_eps in WRONG_EPS[name]:
        wrong = differences(name, rms_eps, "2023", 1)[0]
        assert np.abs(wrong).max() > 1e-4
        assert rms(wrong) > 5 * rms(right)


@pytest.mark.parametrize("name", RMS_EPS)
def test_the_keys_give_the_angles_of_the_reference(name: str) -> None:
    model = reference.read_model(FIXTURES / f"{name}.ggcp")
    assert rope_entries(model.n_embd, model.n_head, model.n_rot) == (16, 1e8)


@given(head_sizes, st.integers(1, 64), st.data())
def test_the_angles_are_those_of_2023(head_size: int, n_head: int, data: st.DataObject) -> None:
    n_rot = 2 * data.draw(st.integers(-(-head_size // 18), head_size // 2))
    dimension_count, freq_base = rope_entries(head_size * n_head, n_head, n_rot)
    assert dimension_count == head_size
    assert struct.unpack("<f", struct.pack("<f", freq_base))[0] == freq_base
    pairs = np.arange(head_size // 2)
    angles = freq_base ** (-2 * pairs / dimension_count)
    np.testing.assert_allclose(angles, 10000.0 ** (-2 * pairs / n_rot), rtol=1e-7)
    assert n_rot_of(dimension_count, freq_base) == n_rot


def test_a_whole_head_needs_no_other_base() -> None:
    assert rope_entries(256, 4, 64) == (64, 10000.0)


@given(head_sizes)
def test_what_the_trainers_wrote_themselves(n_rot: int) -> None:
    assert n_rot_of(n_rot) == n_rot
    assert n_rot_of(n_rot, 10000.0) == n_rot


@pytest.mark.parametrize(
    ("dimension_count", "freq_base"),
    [
        (16, 1e6),  # 16 * 4 / 6 is no whole number
        (16, 500000.0),
        (16, 100.0),  # n_rot would be 32, more than the head has
        (16, 1e80),
        (16, 1.0),
        (16, 0.0),
        (16, math.nan),
        (16, math.inf),
        (15, 10000.0),
        (0, 10000.0),
    ],
)
def test_no_rotation_of_a_trainer(dimension_count: int, freq_base: float) -> None:
    assert n_rot_of(dimension_count, freq_base) is None


@pytest.mark.parametrize(
    ("n_embd", "n_head", "n_rot", "words"),
    [
        (32, 2, 0, "n_rot is 0"),
        (32, 2, 7, "n_rot \\(7\\)"),
        (30, 2, 4, "head size \\(15\\)"),
        (32, 2, 18, "between 2 and the head size, which is 16"),
        (32, 2, -2, "n_rot is -2"),
        (32, 0, 4, "not divisible by n_head 0"),
        (32, 3, 4, "not divisible by n_head 3"),
        (0, 1, 2, "n_embd 0"),
        (128, 1, 8, "too large for a float32"),
        (4096, 1, 2, "too large for a float32"),
    ],
)
def test_impossible_numbers(n_embd: int, n_head: int, n_rot: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        rope_entries(n_embd, n_head, n_rot)


@pytest.mark.parametrize("base", [1.0, 0.0, -1.0, math.nan, math.inf])
def test_impossible_bases(base: float) -> None:
    with pytest.raises(UsageError, match="frequency base"):
        rope_entries(32, 2, 8, base)


def test_the_reference_continues_alice() -> None:
    """The independent reading and forward pass are those of the program that learned the text."""
    path = FIXTURES / "alice.ggcp"
    vocabulary = reference.read_ggjt_vocabulary(FIXTURES / "alice-vocab.ggjt")
    prompt = [1, *reference.tokenize("Alice was beginning to get very", vocabulary)]
    texts = {token: text for text, (token, _) in vocabulary.items()}
    continuation = b"".join(texts[token] for token in reference.greedy(path, prompt, 30, 5e-6)).decode()
    assert continuation == " tired of sitting by her sister on the bank, and of having nothing to do: once"
