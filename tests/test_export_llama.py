"""Present-day llama.cpp computes with every export what the trainer computed with the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema import Checkpoint, convert, open_checkpoint
from ggcp_schema.gguf.entries import Entry, KeyValue, key_values, tensor_entries
from ggcp_schema.gguf.export import export_model
from ggcp_schema.gguf.model import export_entries, model_of
from ggcp_schema.gguf.vocabulary import read_vocabulary
from ggcp_schema.gguf.writer import write_gguf
from tests import forward, llama
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE
from tests.vocabularies import KINDS, make, tokens

pytestmark = pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")

PROMPT = [1, 259, 279, 262, 68, 300, 290]
TOLERANCE = 1e-4
CONTEXT = 64


def strong(n_rot: int, *, embedding_scale: float = 0.5) -> bytes:
    """A model whose weights are large enough for every part of it to show; its heads have 16 dimensions."""
    rng = np.random.default_rng(11)
    scales = iter([embedding_scale])

    def draw(count: int) -> np.ndarray:
        return rng.standard_normal(count, dtype=np.float32) * np.float32(next(scales, 0.5))

    return build_checkpoint(n_vocab=320, n_embd=32, n_mult=32, n_head=2, n_layer=2, n_rot=n_rot, data=draw)


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """A model of which half of each head is rotated."""
    path = tmp_path_factory.mktemp("partial") / "partial.ggcp"
    path.write_bytes(strong(n_rot=8))
    with open_checkpoint(path) as ckpt:
        yield ckpt


def assert_computes_as(ckpt: Checkpoint, model: Path, rms_eps: float = 1e-5) -> llama.Run:
    ran = llama.run(model, PROMPT)
    expected = forward.log_probabilities(ckpt, PROMPT, rms_eps=rms_eps)
    assert ran.log_probabilities.shape == expected.shape == (len(PROMPT), 320)
    assert np.abs(ran.log_probabilities - expected).max() < TOLERANCE
    assert ran.greedy == forward.greedy(ckpt, PROMPT, llama.N_GREEDY, rms_eps=rms_eps)
    return ran


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_genuine_checkpoints(path: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    export_model(path, model, vocab=FIXTURES / "vocab.gguf", context_length=CONTEXT)
    with open_checkpoint(path) as ckpt:
        assert_computes_as(ckpt, model)


@pytest.mark.parametrize("kind", KINDS)
def test_partially_rotated_model_with_each_kind_of_vocabulary(kind: str, partial: Checkpoint, tmp_path: Path) -> None:
    vocab, model = tmp_path / "vocab", tmp_path / "model.gguf"
    vocab.write_bytes(make(kind))
    export_model(partial.path, model, vocab=vocab, context_length=CONTEXT)
    ran = assert_computes_as(partial, model)
    for piece, (text, _, kind_of_token) in zip(ran.pieces, tokens(), strict=True):
        if kind_of_token == 6:
            assert piece == bytes([int(text[3:5], 16)])
        elif kind_of_token == 1:
            assert piece == text.replace("▁", " ").encode()


def test_wholly_rotated_model(tmp_path: Path) -> None:
    path, model = tmp_path / "whole.ggcp", tmp_path / "model.gguf"
    path.write_bytes(strong(n_rot=16))
    export_model(path, model, vocab=FIXTURES / "vocab.ggjt", context_length=CONTEXT)
    with open_checkpoint(path) as ckpt:
        assert_computes_as(ckpt, model)


@pytest.mark.parametrize("rms_eps", [1e-6, 5e-6])
def test_rms_epsilon(rms_eps: float, tmp_path: Path) -> None:
    path, model = tmp_path / "small.ggcp", tmp_path / "model.gguf"
    path.write_bytes(strong(n_rot=16, embedding_scale=0.003))
    export_model(path, model, vocab=FIXTURES / "vocab.ggjt", context_length=CONTEXT, rms_eps=rms_eps)
    with open_checkpoint(path) as ckpt:
        ran = assert_computes_as(ckpt, model, rms_eps)
        other = forward.log_probabilities(ckpt, PROMPT, rms_eps=1e-5)
    assert np.abs(ran.log_probabilities - other).max() > 0.1


def test_gguf_checkpoint_as_input(partial: Checkpoint, tmp_path: Path) -> None:
    resume, model = tmp_path / "resume.gguf", tmp_path / "model.gguf"
    convert(partial.path, resume)
    export_model(resume, model, vocab=FIXTURES / "vocab.gguf", context_length=CONTEXT)
    assert_computes_as(partial, model)


def test_control_the_other_order_of_rope_computes_something_else(partial: Checkpoint) -> None:
    as_trained = forward.log_probabilities(partial, PROMPT, rms_eps=1e-5)
    other = forward.log_probabilities(partial, PROMPT, rms_eps=1e-5, neox=True)
    assert np.abs(as_trained - other).max() > 0.1


def test_control_without_rope_freqs_llama_rotates_the_whole_head(partial: Checkpoint, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    entries = [entry for entry in model_entries(partial) if getattr(entry, "name", "") != "rope_freqs.weight"]
    write_gguf(model, entries)
    expected = forward.log_probabilities(partial, PROMPT, rms_eps=1e-5)
    assert np.abs(llama.run(model, PROMPT).log_probabilities - expected).max() > 0.1


def test_control_the_resume_file_is_refused(partial: Checkpoint, tmp_path: Path) -> None:
    resume = tmp_path / "resume.gguf"
    convert(partial.path, resume)
    with pytest.raises(llama.RefusedError, match="failed to load model"):
        llama.run(resume, PROMPT)


def test_control_the_optimizer_s_tensors_are_refused(partial: Checkpoint, tmp_path: Path) -> None:
    """With everything else that a model needs: so it is for them that the export leaves them out."""
    model = tmp_path / "model.gguf"
    moments = [entry for entry in resume_tensors(partial) if entry.name.startswith("optimizer.")]
    write_gguf(model, [*model_entries(partial), *moments])
    with pytest.raises(llama.RefusedError, match="wrong number of tensors"):
        llama.run(model, PROMPT)


def test_control_two_tokens_of_one_text_are_refused(partial: Checkpoint, tmp_path: Path) -> None:
    """Which is why a vocabulary that has them is."""
    entries = model_entries(partial)
    for index, entry in enumerate(entries):
        if isinstance(entry, KeyValue) and entry.key == "tokenizer.ggml.tokens":
            entries[index] = KeyValue(entry.key, entry.type, [*entry.value[:-1], entry.value[-2]])
    model = tmp_path / "model.gguf"
    write_gguf(model, entries)
    with pytest.raises(llama.RefusedError):
        llama.run(model, PROMPT)


def model_entries(ckpt: Checkpoint) -> list[Entry]:
    vocabulary = read_vocabulary(FIXTURES / "vocab.gguf").keys
    return export_entries(model_of(ckpt), vocabulary, context_length=CONTEXT)


def resume_tensors(ckpt: Checkpoint) -> list:  # type: ignore[type-arg]
    from ggcp_schema.gguf.resume import resume_entries

    entries = resume_entries(ckpt)
    assert key_values(entries)
    return tensor_entries(entries)
