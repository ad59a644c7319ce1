"""Model folders of checkpoints, put together from what the package makes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ggcp_schema import open_file
from ggcp_schema.files.contents import Safetensors
from ggcp_schema.files.pieces import TensorEntry
from ggcp_schema.huggingface.card import model_card
from ggcp_schema.huggingface.config import generation_config, json_text, model_config
from ggcp_schema.huggingface.sentencepiece_writer import sentencepiece_model
from ggcp_schema.huggingface.tensors import moment_tensors, weight_tensors
from ggcp_schema.huggingface.tokenizer import tokenizer_config, tokenizer_json
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.tokenizer import SpmTokenizer, spm_tokenizer
from ggcp_schema.llama.training import study
from ggcp_schema.mapping.export import plan_model
from ggcp_schema.mapping.vocabulary import read_vocabulary
from tests.helpers import FIXTURES

CONTEXT = 64
ALICE = FIXTURES / "alice.ggcp"


def vocabulary_for(checkpoint: Path) -> Path:
    """Return the vocabulary with which the checkpoint was trained."""
    return FIXTURES / ("alice-vocab.gguf" if checkpoint == ALICE else "vocab.gguf")


def write_folder(
    folder: Path,
    checkpoint: Path,
    *,
    vocab: Path | None = None,
    rms_eps: float | None = None,
    context_length: int = CONTEXT,
    dtype: str = "F32",
    rope_factor: float = 1.0,
    order: str | None = None,
    prompt: str = "Once upon a time",
) -> float:
    """Write the folder, with the moments if their order and scale are proven, or an order is given; return epsilon."""
    folder.mkdir(exist_ok=True)
    vocab = vocab or vocabulary_for(checkpoint)
    with open_file(checkpoint) as file:
        plan = plan_model(file, vocab=vocab, context_length=context_length, rms_eps=rms_eps)
        epsilon: float = plan.fact("epsilon").value
        training, model = file.training(), file.model()
        spm = spm_tokenizer(read_vocabulary(vocab).keys)
        config = model_config(
            n_vocab=model.n_vocab,
            n_embd=model.n_embd,
            n_head=model.n_head,
            n_layer=model.n_layer,
            n_ff=model.n_ff,
            rope_theta=model.rotation[1],
            rms_eps=epsilon,
            context_length=context_length,
            ids=spm.ids,
            dtype=dtype,
            rope_factor=rope_factor,
        )
        _write(folder / "model.safetensors", weight_tensors(training.model, n_head=model.n_head, dtype=dtype))
        decided = study(training, order=order)
        certain = decided.order.is_certain and (order or decided.scale.summed is False)
        has_moments = bool(training.optimizer == "adam" and decided.order.order and certain)
        if has_moments:
            moments = moment_tensors(
                training.model,
                training.state,
                order=str(decided.order.order),
                step=training.iteration,
                n_head=model.n_head,
            )
            _write(folder / "optimizer.safetensors", moments)
    write_tokenizer(folder, spm, context_length)
    card = model_card(
        name=checkpoint.stem,
        facts=[Fact("iterations", str(training.train_its), "counted by the trainer")],
        context_length=context_length,
        has_moments=has_moments,
        prompt=prompt,
    )
    for name, text in (
        ("config.json", json_text(config)),
        ("generation_config.json", json_text(generation_config(spm.ids))),
        ("README.md", card),
    ):
        (folder / name).write_text(text, "utf-8")
    return epsilon


def write_tokenizer(folder: Path, spm: SpmTokenizer, context_length: int = CONTEXT) -> None:
    """Write tokenizer.json, tokenizer_config.json and tokenizer.model."""
    (folder / "tokenizer.json").write_text(json_text(tokenizer_json(spm)), "utf-8")
    config = tokenizer_config(spm, context_length)
    (folder / "tokenizer_config.json").write_text(json_text(config), "utf-8")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(spm))


def _write(path: Path, tensors: list[TensorEntry]) -> None:
    Safetensors({"format": "pt"}, tensors).write(str(path))


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


def programs(card: str) -> list[str]:
    """Return the programs in a model card."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)
