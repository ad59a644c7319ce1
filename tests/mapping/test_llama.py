"""Present-day llama.cpp computes with every exported model what the trainer computed with the checkpoint.

The reference is a forward pass in float64 that shares no code with the package.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from ggcp_schema import File, convert, export_model, open_file
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.mapping.convert import plan_resume
from ggcp_schema.mapping.export import ModelOptions, plan_model
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, thinned
from tests.mapping import llama, reference
from tests.mapping.gguf_files import write_as_trainer
from tests.vocabularies import KINDS, make, tokens
from tests.writing import Entry, entries_of, write_gguf

pytestmark = pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")

PROMPT = [1, 259, 279, 262, 68, 300, 290]
CONTEXT = 64
TOLERANCE = 1e-5  # of log probabilities
PREFIXES = [64, 256, 512, 768]
ALICE, ALICE_EPS = FIXTURES / "alice.ggcp", 5e-6
BEGINNING = "Alice was beginning to get very"
CONTINUATION = " tired of sitting by her sister on the bank, and of having nothing to do: once"  # 30 tokens
EPSILONS = (1e-6, 5e-6, 1e-5)
BY_EPSILON = {"v1-adam-raw-params.ggcp": 1e-6, "rotmax8-v1.ggcp": 5e-6, "twin-ff48.v1.ggcp": 1e-5}
ROTMAX_EPS = {"rotmax8-v0": 1e-6, "rotmax8-v1": 5e-6}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def export(source: Path, model: Path, context_length: int = CONTEXT, rms_eps: float | None = None) -> float:
    """Export the checkpoint with the vocabulary it was trained on; return the epsilon that was written."""
    vocab = FIXTURES / ("alice-vocab.gguf" if source == ALICE else "vocab.gguf")
    written = export_model(source, model, vocab=vocab, context_length=context_length, rms_eps=rms_eps, force=True)
    epsilon: float = written.plan.fact("epsilon").value
    return epsilon


def largest_difference(ran: llama.Run, expected: reference.Array) -> float:
    assert ran.log_probabilities.shape == expected.shape
    return float(np.abs(ran.log_probabilities - expected).max())


def assert_computes_as(checkpoint: Path, model: Path, rms_eps: float) -> llama.Run:
    """Check the log probabilities after all prefixes of the prompt, and the tokens that follow it."""
    ran = llama.run(model, PROMPT)
    expected = reference.log_probabilities(checkpoint, PROMPT, rms_eps)
    # Errors of float32 grow with the logits, which are large in alice.ggcp and v1-lbfgs.ggcp.
    assert largest_difference(ran, expected) <= max(TOLERANCE, 1e-6 * np.abs(expected).max())
    assert ran.greedy == reference.greedy(checkpoint, PROMPT, llama.N_GREEDY, rms_eps)
    return ran


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.name)
def test_every_genuine_checkpoint(path: Path, model: Path) -> None:
    assert_computes_as(path, model, export(path, model))


# Rotation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROTMAX_EPS)
def test_partial_rotation_of_long_prompts(name: str, model: Path) -> None:
    path, prompt = FIXTURES / f"{name}.ggcp", rotmax_prompt(name)
    export(path, model, context_length=1024)
    ran = llama.run(model, prompt, PREFIXES)
    rows = [length - 1 for length in PREFIXES]
    expected = reference.log_probabilities(path, prompt, ROTMAX_EPS[name])[rows]
    assert largest_difference(ran, expected) <= TOLERANCE
    stopping = reference.log_probabilities(path, prompt, ROTMAX_EPS[name], rotation="stop")[rows]
    assert (np.abs(ran.log_probabilities - stopping).max(axis=1) > TOLERANCE).all()


def test_control_a_wrong_base_of_the_frequencies_is_wrong(model: Path) -> None:
    path, prompt = FIXTURES / "rotmax8-v0.ggcp", rotmax_prompt("rotmax8-v0")
    export(path, model, context_length=1024)
    base = GGUFReader(model, "r+").fields["llama.rope.freq_base"]
    assert base.contents() == 1e8
    base.parts[base.data[0]][:] = 10000
    expected = reference.log_probabilities(path, prompt, ROTMAX_EPS["rotmax8-v0"])[[length - 1 for length in PREFIXES]]
    assert largest_difference(llama.run(model, prompt, PREFIXES), expected) > 10 * TOLERANCE


def test_control_permuted_queries_and_keys_are_wrong(strong: Path, model: Path) -> None:
    """Converters permute wq and wk for models that pair the halves of a head; the trainers paired neighbours."""
    export(strong, model)
    for tensor in GGUFReader(model, "r+").tensors:
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            halves = tensor.data.reshape(2, 2, 8, 32)
            tensor.data[:] = halves.swapaxes(1, 2).reshape(32, 32)
    expected = reference.log_probabilities(strong, PROMPT, 1e-5)
    assert largest_difference(llama.run(model, PROMPT), expected) > 0.1


def rotmax_prompt(name: str) -> list[int]:
    prompt: list[int] = np.load(FIXTURES / f"{name}.logits.npz")["tokens"].tolist()
    return prompt[: max(PREFIXES)]


# Epsilon ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_EPSILON)
def test_export_chooses_the_epsilon_of_the_era(name: str, model: Path) -> None:
    path = FIXTURES / name
    export(path, model)
    ran = llama.run(model, PROMPT)
    fitting = [
        rms_eps
        for rms_eps in EPSILONS
        if largest_difference(ran, reference.log_probabilities(path, PROMPT, rms_eps)) <= TOLERANCE
    ]
    assert fitting == [BY_EPSILON[name]]


@pytest.mark.parametrize("rms_eps", [1e-6, 1e-5])
def test_an_epsilon_that_is_stated(rms_eps: float, model: Path) -> None:
    path = FIXTURES / "rotmax8-v1.ggcp"
    export(path, model, rms_eps=rms_eps)
    assert_computes_as(path, model, rms_eps)


# Vocabularies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", ["alice-vocab.gguf", "alice-vocab.ggjt", "alice-tokenizer.model"])
def test_alice_continues_the_text_word_for_word(vocab: str, model: Path) -> None:
    prompt = [1, *reference.tokenize(BEGINNING, reference.read_ggjt_vocabulary(FIXTURES / "alice-vocab.ggjt"))]
    export_model(ALICE, model, vocab=FIXTURES / vocab, context_length=CONTEXT)
    ran = llama.run(model, BEGINNING, [1], n_greedy=30)
    assert ran.prompt == prompt
    assert ran.text == CONTINUATION
    if vocab == "alice-vocab.gguf":  # the text is the same, and with it the tokens
        assert ran.greedy == reference.greedy(ALICE, prompt, 30, ALICE_EPS)


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads of 16 whose weights are so large that every part shows in the probabilities."""
    path = tmp_path_factory.mktemp("strong") / "strong.ggcp"
    path.write_bytes(strong_model(n_rot=8))
    return path


def strong_model(n_rot: int) -> bytes:
    rng = np.random.default_rng(11)

    def draw(count: int) -> np.ndarray:
        values: np.ndarray = rng.standard_normal(count, dtype=np.float32) * np.float32(0.5)
        return values

    return build_checkpoint(n_vocab=320, n_embd=32, n_mult=32, n_head=2, n_layer=2, n_rot=n_rot, data=draw)


@pytest.mark.parametrize("kind", KINDS)
def test_a_partially_rotated_model_with_each_kind_of_vocabulary(
    kind: str, strong: Path, tmp_path: Path, model: Path
) -> None:
    vocab = tmp_path / "vocab"
    vocab.write_bytes(make(kind))
    export_model(strong, model, vocab=vocab, context_length=CONTEXT, rms_eps=1e-5)
    ran = assert_computes_as(strong, model, 1e-5)
    for piece, (text, _, kind_of_token) in zip(ran.pieces, tokens(), strict=True):
        if kind_of_token == 6:
            assert piece == bytes([int(text[3:5], 16)])
        elif kind_of_token == 1:
            assert piece == text.replace("▁", " ").encode()


def test_a_wholly_rotated_model(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "whole.ggcp"
    path.write_bytes(strong_model(n_rot=16))
    export(path, model, rms_eps=1e-5)
    assert_computes_as(path, model, 1e-5)


# GGUF checkpoints as input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rotmax8-v1.ggcp", "v1-lbfgs.ggcp", "orders/jun-B-3.ggcp"])
def test_a_resume_checkpoint_exports_to_the_same_model(name: str, tmp_path: Path, model: Path) -> None:
    resume, other = tmp_path / "resume.gguf", tmp_path / "other.gguf"
    convert(FIXTURES / name, resume)
    export(FIXTURES / name, model)
    export(resume, other)
    direct, by_resume = (llama.run(path, PROMPT) for path in (model, other))
    assert np.array_equal(direct.log_probabilities, by_resume.log_probabilities)
    assert direct.greedy == by_resume.greedy


def test_a_checkpoint_saved_by_a_trainer_needs_neither_vocabulary_nor_context(tmp_path: Path, model: Path) -> None:
    path = FIXTURES / "v1-adam.ggcp"
    saved = write_as_trainer(tmp_path / "saved.gguf", path)
    assert_computes_as(path, model, export_model(saved, model).plan.fact("epsilon").value)


# What llama.cpp refuses: the reasons for what export leaves out and checks ---------------------------------


def test_control_a_resume_checkpoint_is_refused(tmp_path: Path) -> None:
    resume = tmp_path / "resume.gguf"
    convert(FIXTURES / "v1-adam.ggcp", resume)
    with pytest.raises(llama.RefusedError, match="failed to load model"):
        llama.run(resume, PROMPT)


def test_control_the_optimizer_s_tensors_are_refused(model: Path) -> None:
    with open_file(FIXTURES / "v1-adam.ggcp") as file:
        state = [entry for entry in plan_resume(file).tensors if entry.name.startswith("optimizer.")]
        assert state
        write_gguf(model, [*model_entries(file), *state])
    with pytest.raises(llama.RefusedError, match="wrong number of tensors"):
        llama.run(model, PROMPT)


def test_control_two_tokens_of_one_text_are_refused(model: Path) -> None:
    with open_file(FIXTURES / "v1-adam.ggcp") as file:
        entries = model_entries(file)
        for index, entry in enumerate(entries):
            if isinstance(entry, KeyValue) and entry.key == "tokenizer.ggml.tokens":
                entries[index] = KeyValue(entry.key, entry.type, [*entry.value[:-1], entry.value[-2]])
        write_gguf(model, entries)
    with pytest.raises(llama.RefusedError, match="id_to_token"):
        llama.run(model, PROMPT)


def model_entries(file: File) -> list[Entry]:
    """Return what `export` writes."""
    return entries_of(plan_model(file, ModelOptions(FIXTURES / "vocab.gguf", CONTEXT)))
