"""PEFT, with the folder that is written of an adapter, computes what finetune computed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.mapping.adapter import Computed, new_norm
from ggcp_schema.mapping.merged import merged
from ggcp_schema.mapping.peft import hf_name, peft_config, peft_tensors
from tests.lora import independent
from tests.lora.lora_files import BASE, EVERY, FOLDER, PEFT, adapter_of, array, base_in, expected
from tests.lora.test_outputs import HF, rotate_half_rows

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft

TOLERANCE = 1e-5  # of log probabilities


def ids(path: Path) -> str:
    return path.name


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the base as transformers does."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-5,
        max_position_embeddings=16,
    )
    model = LlamaForCausalLM(config)
    state = model.state_dict()
    for name, values in independent.weights(BASE).items():
        kind, _, layer = name.partition(".")
        rows = rotate_half_rows(values, 4) if kind in ("wq", "wk") else values
        state[f"{HF[kind].format(layer)}.weight"].copy_(torch.from_numpy(rows.astype("f4")))
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


def write_peft(folder: Path, adapter: Adapter, base: Base, name: Path, *, norms: bool = True) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(adapter, base, str(name), norms=norms)))
    save(folder / "adapter_model.safetensors", peft_tensors(adapter, base, norms=norms))
    return folder


def save(path: Path, tensors: Iterable[Computed]) -> None:
    save_file({tensor.name: array(tensor).copy() for tensor in tensors}, path, {"format": "pt"})


def worst(model: torch.nn.Module, path: Path, which: str = "all") -> float:
    known = expected(path)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(known["tokens"])[None]).logits[0].double()
    return float(np.abs(torch.log_softmax(logits, -1).numpy() - known[which]).max())


def load(base: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_each_file_with_the_adapter_on_off_and_merged(path: Path, base_folder: Path, tmp_path: Path) -> None:
    with adapter_of(path, hf_rows=False) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder)
    model = PeftModel.from_pretrained(load(base_folder), folder)
    assert worst(model, path) <= TOLERANCE
    with model.disable_adapter():
        assert worst(model, path, "base") <= TOLERANCE
    assert worst(model.merge_and_unload(), path) <= TOLERANCE
    assert worst(AutoModelForCausalLM.from_pretrained(folder), path) <= TOLERANCE
    assert worst(AutoPeftModelForCausalLM.from_pretrained(folder), path) <= TOLERANCE


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_without_norms_and_on_a_base_to_which_they_were_added(path: Path, base_folder: Path, tmp_path: Path) -> None:
    with adapter_of(path, hf_rows=False) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder, norms=False)
        norms = {hf_name(name): new_norm(adapter, base, name) for name in adapter.norms}
    model = load(base_folder)
    assert worst(PeftModel.from_pretrained(model, folder), path, "no_norms") <= TOLERANCE
    patched = load(base_folder)
    state = patched.state_dict()
    for name, values in norms.items():
        state[f"{name}.weight"].copy_(torch.from_numpy(values.astype("f4")))
    assert worst(PeftModel.from_pretrained(patched, folder), path) <= TOLERANCE


def test_on_a_base_that_transformers_loads_from_the_gguf(tmp_path: Path) -> None:
    path = FOLDER / "feb2024-adam.ggla"
    with adapter_of(path) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=BASE.name, dtype=torch.float32)
    assert worst(PeftModel.from_pretrained(model, folder), path) <= TOLERANCE


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_merged_into_the_folder_of_the_base(path: Path, base_folder: Path) -> None:
    model = load(base_folder)
    state = model.state_dict()
    with adapter_of(path, hf_rows=False) as adapter, base_in() as base:
        for name, tensor in merged(adapter, base, type="F32", hf_rows=True).items():
            state[f"{hf_name(name)}.weight"].copy_(torch.from_numpy(array(tensor).copy()))
    assert worst(model, path) <= TOLERANCE


def test_a_file_made_from_peft_goes_back_as_it_was_trained(base_folder: Path, tmp_path: Path) -> None:
    """The expectation is what llama.cpp of 2023 computed, which was something else."""
    lora, w = independent.read(PEFT), independent.weights(BASE)
    for name in lora.b:
        if name.startswith("wq"):
            lora.b[name] = lora.b[name].reshape(4, 2, 4, -1).swapaxes(1, 2).reshape(32, -1)
    with adapter_of(PEFT) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder)
    model = PeftModel.from_pretrained(load(base_folder), folder)
    known = expected(PEFT)
    trained = independent.log_probabilities(independent.with_adapter(w, lora), known["tokens"].tolist(), 4, 4)
    with torch.no_grad():
        found = torch.log_softmax(model(torch.from_numpy(known["tokens"])[None]).logits[0].double(), -1).numpy()
    assert np.abs(found - trained).max() <= TOLERANCE
    assert worst(model, PEFT) > 0.1


@pytest.mark.parametrize("name", ["lbfgs.ggla", "feb2024-adam.ggla"])
def test_training_goes_on_and_is_saved(name: str, base_folder: Path, tmp_path: Path) -> None:
    with adapter_of(FOLDER / name) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder)
    model = PeftModel.from_pretrained(load(base_folder), folder, is_trainable=True)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-3)
    tokens = torch.arange(3, 15)[None]
    losses = []
    for _ in range(11):
        loss = model(tokens, labels=tokens).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[10] < losses[0]
    model.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    again = PeftModel.from_pretrained(load(base_folder), tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(again.eval()(tokens).logits, model.eval()(tokens).logits)
