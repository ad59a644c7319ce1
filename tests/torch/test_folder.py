"""transformers opens the folders, computes what the trainer computed, and goes on with the training.

These tests need the extra `torch`. They are run with transformers 5 and 4 by `pytest tests/torch`.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

from ggcp_schema.mapping.vocabulary import read_vocabulary
from tests.helpers import FIXTURES, GENUINE, ORDERS
from tests.huggingface import forward
from tests.huggingface.folders import ALICE, programs, write_folder
from tests.huggingface.test_tokenizer import fast
from tests.huggingface.texts import PARAGRAPH, SPECIAL, texts
from tests.mapping import reference
from tests.mapping.test_llama import BEGINNING, CONTINUATION, ROTMAX_EPS
from tests.torch.folders import card_namespace

pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory")  # torch's, of Trainer on a machine without a GPU

ALL = GENUINE + ORDERS
CONTEXT = 64
IS_5 = transformers.__version__.startswith("5.")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The folders by checkpoint."""
    base = tmp_path_factory.mktemp("folders")
    for path in ALL:
        write_folder(base / path.stem, path, prompt=BEGINNING if path == ALICE else "the sea")
    return {path: base / path.stem for path in ALL}


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What transformers logs as warnings and errors."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = transformers.logging.get_logger()
    transformers.logging.set_verbosity_warning()
    for once in ("warning_once", "info_once"):
        getattr(logging.Logger, once).cache_clear()
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def model_of(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def log_probabilities(model: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    return reference.log_softmax(logits.numpy())


def random_tokens(n_vocab: int, count: int) -> list[int]:
    return [1, *np.random.default_rng(4).integers(3, n_vocab, count - 1).tolist()]


# Opening ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_everything_opens_without_a_warning(path: Path, folders: dict[Path, Path], messages: list[str]) -> None:
    folder = folders[path]
    config = AutoConfig.from_pretrained(folder)
    assert type(config).__name__ == "LlamaConfig"
    model, info = model_of(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(folder).vocab_size == config.vocab_size
    if IS_5:  # the pipeline of transformers 4 has a message for every model
        generate = pipeline("text-generation", str(folder))
        generate("the sea", max_new_tokens=2, do_sample=False)
    assert messages == []


def test_control_a_message_is_noticed(tmp_path: Path, messages: list[str]) -> None:
    write_folder(tmp_path, ALICE)
    config = tmp_path / "config.json"
    config.write_text(config.read_text("utf-8").replace('"num_hidden_layers": 3', '"num_hidden_layers": 4'), "utf-8")
    model_of(tmp_path)
    assert "down_proj" in "".join(messages)


# Computing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_log_probabilities(path: Path, folders: dict[Path, Path]) -> None:
    model = model_of(folders[path])
    tokens = random_tokens(model.config.vocab_size, CONTEXT)
    if path == ALICE:
        tokens = [1, *samples()[0][: CONTEXT - 1].tolist()]
    expected = reference.log_probabilities(path, tokens, model.config.rms_norm_eps)
    assert np.abs(log_probabilities(model, tokens) - expected).max() < (1e-4 if path == ALICE else 2e-5)


@pytest.mark.parametrize("name", ROTMAX_EPS)
def test_log_probabilities_of_partly_rotated_models(name: str, tmp_path: Path) -> None:
    path = FIXTURES / f"{name}.ggcp"
    tokens = np.load(FIXTURES / f"{name}.logits.npz")["tokens"].tolist()[:512]
    rms_eps = write_folder(tmp_path, path, context_length=512)
    expected = reference.log_probabilities(path, tokens, rms_eps)
    assert np.abs(log_probabilities(model_of(tmp_path), tokens) - expected).max() < 2e-5
    for attribute in ("rope_theta", "rope_parameters"):  # control: both transformers need the one that they read
        text = (tmp_path / "config.json").read_text("utf-8").replace(f'"{attribute}"', '"x"')
        (tmp_path / "config.json").write_text(text, "utf-8")
    assert np.abs(log_probabilities(model_of(tmp_path), tokens) - expected).max() > 1e-2


def test_log_probabilities_with_scaled_positions(tmp_path: Path) -> None:
    path = FIXTURES / "rotmax8-v1.ggcp"
    tokens = np.load(FIXTURES / "rotmax8-v1.logits.npz")["tokens"].tolist()[:CONTEXT]
    rms_eps = write_folder(tmp_path, path, rope_factor=4)
    found = log_probabilities(model_of(tmp_path), tokens)
    assert np.abs(found - forward.log_probabilities(tmp_path, tokens)).max() < 2e-5
    assert np.abs(found - reference.log_probabilities(path, tokens, rms_eps)).max() > 1e-2


@pytest.mark.parametrize(("dtype", "least"), [("F16", 1e-3), ("BF16", 1e-2)])
def test_halves(dtype: str, least: float, tmp_path: Path) -> None:
    rms_eps = write_folder(tmp_path, ALICE, dtype=dtype)
    tokens = [1, *samples()[0][: CONTEXT - 1].tolist()]
    model = model_of(tmp_path, dtype="auto")
    assert model.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    whole = model_of(tmp_path, dtype=torch.float32)
    expected = reference.log_probabilities(ALICE, tokens, rms_eps)
    assert least < np.abs(log_probabilities(whole, tokens) - expected).max() < 1
    write_folder(tmp_path / "whole", ALICE)
    exact = model_of(tmp_path / "whole").to(model.dtype).state_dict()
    assert all(torch.equal(values, exact[name]) for name, values in model.state_dict().items())


def test_alice_continues_the_text_word_for_word(folders: dict[Path, Path]) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(folders[ALICE]), model_of(folders[ALICE])
    inputs = tokenizer(BEGINNING, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=30, do_sample=False)[0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == BEGINNING + CONTINUATION


# The tokenizer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice.ggcp", "v1-adam.ggcp"])
def test_the_tokenizer_gives_the_ids_of_its_file(name: str, folders: dict[Path, Path], tmp_path: Path) -> None:
    """Which are those of llama.cpp, as tests/huggingface shows; also after it was saved with the trained model."""
    path = FIXTURES / name
    vocab = FIXTURES / ("alice-vocab.gguf" if path == ALICE else "vocab.gguf")
    expected = fast(read_vocabulary(vocab))
    strings = [*texts(), *SPECIAL]
    tokenizer = AutoTokenizer.from_pretrained(folders[path])
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.save_pretrained(tmp_path)
    for one in (AutoTokenizer.from_pretrained(folders[path]), tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert [text for text in strings if one(text)["input_ids"] != expected.encode(text).ids] == []
        without_bos = [one(text, add_special_tokens=False)["input_ids"] for text in strings]
        assert without_bos == [expected.encode(text, add_special_tokens=False).ids for text in strings]
    assert not (tmp_path / "tokenizer.model").exists()  # so the card reminds of it


# Training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ALICE, FIXTURES / "v1-lbfgs.ggcp"], ids=lambda path: path.name)
def test_the_programs_of_the_card_run(path: Path, folders: dict[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders[path], folder)
    first, second = programs((folder / "README.md").read_text("utf-8"))
    assert ("load_moments" in second) == (path == ALICE)
    output = run_program(first, folder)
    if path == ALICE:
        assert output.strip() == BEGINNING + CONTINUATION
    run_program(second, folder)
    trained = {file.name for file in (folder / "trained").iterdir()}
    assert trained >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"}
    strings = texts()
    before, after = (
        AutoTokenizer.from_pretrained(place)(strings)["input_ids"] for place in (folder, folder / "trained")
    )
    assert before == after
    weights = [model_of(place).state_dict()["lm_head.weight"] for place in (folder, folder / "trained")]
    assert not torch.equal(*weights)


def run_program(program: str, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_ten_steps_lower_the_loss(path: Path, folders: dict[Path, Path], tmp_path: Path) -> None:
    folder = folders[path]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), model_of(folder)
    tokenizer.pad_token = tokenizer.unk_token
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=10,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[
            tokenizer(text, truncation=True, max_length=CONTEXT) for text in [PARAGRAPH, PARAGRAPH[90:]] * 8
        ],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    if (folder / "optimizer.safetensors").exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            card_namespace(folder)["load_moments"](trainer.create_optimizer(), trainer.model)
    before = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] < before


# The moments of alice --------------------------------------------------------------------------------------


def samples() -> np.ndarray:
    """Return the samples on which alice was last trained: [sample, token], each without the first token `<s>`."""
    stored = np.load(FIXTURES / "alice-samples.npz")
    starts = stored["starts"].astype(int)
    tokens = stored["tokens"].astype(np.int64)
    return np.stack([tokens[start : start + CONTEXT] for start in starts if start + CONTEXT <= len(tokens)])


def batches(count: int, seed: int) -> Iterator[torch.Tensor]:
    rng, known = np.random.default_rng(seed), samples()
    for _ in range(count):
        yield torch.from_numpy(known[rng.choice(len(known), 16, replace=False)])


def loss_of(model: Any, targets: torch.Tensor) -> torch.Tensor:
    inputs = torch.cat([torch.ones(len(targets), 1, dtype=torch.int64), targets[:, :-1]], 1)
    loss: torch.Tensor = torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())
    return loss


def loaded(folder: Path, order: str | None) -> tuple[Any, torch.optim.Optimizer]:
    """Return alice, and an optimizer with the moments that this order of the parameters gives."""
    write_folder(folder, ALICE, order=order)
    model = model_of(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        card_namespace(folder)["load_moments"](optimizer, model)
    return model, optimizer


@pytest.mark.parametrize(("order", "least", "most"), [(None, 0.0, 0.17), ("B", 0.2, 1.0), ("A", 0.2, 1.0)])
def test_training_goes_on_where_it_stopped(order: str | None, least: float, most: float, tmp_path: Path) -> None:
    model, optimizer = loaded(tmp_path, order)
    losses = []
    for batch in batches(60, seed=1):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] < 0.17
    assert least < np.mean(losses[30:]) < most
    assert all(state["step"] == 6060 for state in optimizer.state.values())


@pytest.mark.parametrize("order", [None, "A"])
def test_the_second_moments_are_the_squares_of_the_gradients(order: str | None, tmp_path: Path) -> None:
    model, optimizer = loaded(tmp_path, order)
    squares = {parameter: torch.zeros(()) for parameter in model.parameters()}
    for batch in batches(16, seed=2):
        model.zero_grad()
        loss_of(model, batch).backward()
        for parameter in squares:
            squares[parameter] += parameter.grad.square().mean()
    gradients = [float(square.log()) for square in squares.values()]
    moments = [float(optimizer.state[parameter]["exp_avg_sq"].mean().log()) for parameter in squares]
    correlation = np.corrcoef(gradients, moments)[0, 1]
    assert correlation > 0.99 if order is None else correlation < 0.5
