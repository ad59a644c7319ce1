"""PEFT, with the folder that is written of an adapter, computes what finetune computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ggcp_schema import export_adapter
from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.mapping.adapter import Computed
from ggcp_schema.mapping.peft import peft_config, peft_tensors
from tests.huggingface.folders import programs
from tests.lora import independent
from tests.lora.lora_files import (
    BASE,
    EVERY,
    FOLDER,
    PEFT,
    adapter_of,
    array,
    base_in,
    expected,
    quantized,
    write_grouped_base,
    write_grouped_lora,
)
from tests.lora.test_outputs import HF, rotate_half_rows

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft

TOKENS = [1, 259, 279, 262, 68, 300, 290, 5, 44]
WITH_NORMS = [path for path in EVERY if path != PEFT]
TOLERANCE = 1e-5  # of log probabilities


def ids(path: Path) -> str:
    return path.name


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), BASE, 4)


def write_base(folder: Path, gguf: Path, n_head_kv: int) -> Path:
    """Save the base as transformers does."""
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=n_head_kv,
        rms_norm_eps=1e-5,
        max_position_embeddings=16,
    )
    model = LlamaForCausalLM(config)
    state = model.state_dict()
    for name, values in independent.weights(gguf).items():
        kind, _, layer = name.partition(".")
        heads = {"wq": 4, "wk": n_head_kv}.get(kind)
        rows = rotate_half_rows(values, heads) if heads else values
        state[f"{HF[kind].format(layer)}.weight"].copy_(torch.from_numpy(rows.astype("f4")))
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
    return difference(model, known["tokens"].tolist(), known[which])


def difference(model: torch.nn.Module, tokens: list[int], wanted: independent.Array) -> float:
    with torch.no_grad():
        logits = model.eval()(torch.tensor([tokens])).logits[0].double()
    return float(np.abs(torch.log_softmax(logits, -1).numpy() - wanted).max())


def from_halves(b: np.ndarray, n_head: int) -> np.ndarray:
    """Return rows in Hugging Face's order in that of GGUF."""
    return b.reshape(n_head, 2, len(b) // n_head // 2, -1).swapaxes(1, 2).reshape(b.shape)


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
def test_without_norms(path: Path, base_folder: Path, tmp_path: Path) -> None:
    with adapter_of(path, hf_rows=False) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder, norms=False)
    assert worst(PeftModel.from_pretrained(load(base_folder), folder), path, "no_norms") <= TOLERANCE


@pytest.mark.parametrize("path", WITH_NORMS, ids=ids)
def test_on_the_folder_of_the_base_that_is_written_with_the_norms(path: Path, tmp_path: Path) -> None:
    folder, base = tmp_path / "peft", tmp_path / "base"
    export_adapter(path, folder, base=BASE, to="peft", patched_base=base, sync=False)
    model = PeftModel.from_pretrained(load(base), folder)
    assert worst(model, path) <= TOLERANCE
    lora = independent.read(path)
    lora.a = {name: a for name, a in lora.a.items() if "norm" in name}
    with_norms = independent.with_adapter(independent.weights(BASE), lora)
    with model.disable_adapter():
        assert difference(model, TOKENS, independent.log_probabilities(with_norms, TOKENS, 4, 4)) <= TOLERANCE
    assert worst(model.merge_and_unload(), path) <= TOLERANCE
    assert worst(AutoModelForCausalLM.from_pretrained(folder), path) <= TOLERANCE


def test_on_a_base_that_transformers_loads_from_the_gguf(tmp_path: Path) -> None:
    path = FOLDER / "feb2024-adam.ggla"
    with adapter_of(path) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=BASE.name, dtype=torch.float32)
    assert worst(PeftModel.from_pretrained(model, folder), path) <= TOLERANCE


@pytest.mark.parametrize("patched", [False, True])
def test_the_program_of_the_card(
    patched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths are relative to where the command ran, and the program runs in the folder that it wrote."""
    path, base = FOLDER / "adam.ggla", tmp_path / "base.gguf"
    shutil.copy(BASE, base)
    monkeypatch.chdir(tmp_path)
    export_adapter(path, "peft", base="base.gguf", to="peft", patched_base="patched" if patched else None, sync=False)
    monkeypatch.chdir(tmp_path / "peft")
    namespace: dict[str, Any] = {}
    exec(programs(Path("README.md").read_text("utf-8"))[0], namespace)  # noqa: S102 - it is what a reader runs
    assert worst(namespace["model"], path) <= TOLERANCE
    assert capsys.readouterr().out.startswith("Once upon a time")


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_the_merged_folder(path: Path, tmp_path: Path) -> None:
    export_adapter(path, tmp_path / "hf", base=BASE, to="hf", verbatim=path == PEFT, sync=False)
    assert worst(load(tmp_path / "hf"), path) <= TOLERANCE
    tokens = AutoTokenizer.from_pretrained(tmp_path / "hf")("the sea").input_ids
    assert tokens[0] == 1
    assert len(tokens) > 1


def test_the_merged_folder_of_a_quantized_base(tmp_path: Path) -> None:
    path, base = FOLDER / "adam.ggla", quantized(tmp_path / "base.gguf", "Q4_0")
    export_adapter(path, tmp_path / "hf", base=base, to="hf", sync=False)
    wanted = independent.with_adapter(independent.weights(base), independent.read(path))
    computed = independent.log_probabilities(wanted, TOKENS, 4, 4)
    assert difference(load(tmp_path / "hf"), TOKENS, computed) <= TOLERANCE


def test_a_file_made_from_peft_goes_back_as_it_was_trained(base_folder: Path, tmp_path: Path) -> None:
    """The expectation is what llama.cpp of 2023 computed, which was something else."""
    lora, w = independent.read(PEFT), independent.weights(BASE)
    lora.b = {name: b if name[:2] != "wq" else from_halves(b, 4) for name, b in lora.b.items()}
    with adapter_of(PEFT) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder)
    model = PeftModel.from_pretrained(load(base_folder), folder)
    trained = independent.log_probabilities(independent.with_adapter(w, lora), TOKENS, 4, 4)
    assert difference(model, TOKENS, trained) <= TOLERANCE
    assert worst(model, PEFT) > 0.1


def test_another_scale_and_ranks_that_differ(base_folder: Path, tmp_path: Path) -> None:
    lora = independent.read(FOLDER / "lbfgs.ggla")
    lora.scale = 1.125
    wanted = independent.log_probabilities(independent.with_adapter(independent.weights(BASE), lora), TOKENS, 4, 4)
    with adapter_of(FOLDER / "lbfgs.ggla", scale=1.125) as adapter, base_in() as base:
        folder = write_peft(tmp_path / "peft", adapter, base, base_folder)
    assert difference(PeftModel.from_pretrained(load(base_folder), folder), TOKENS, wanted) <= TOLERANCE


def test_modules_that_only_some_layers_have(base_folder: Path, tmp_path: Path) -> None:
    lora = independent.read(PEFT)
    del lora.a["wv.1"], lora.b["wv.1"]
    lora.b = {name: b if name[:2] != "wq" else from_halves(b, 4) for name, b in lora.b.items()}
    wanted = independent.log_probabilities(independent.with_adapter(independent.weights(BASE), lora), TOKENS, 4, 4)
    with adapter_of(PEFT) as adapter, base_in() as base:
        some = replace(adapter, pairs={name: pair for name, pair in adapter.pairs.items() if name != "layers[1].wv"})
        folder = write_peft(tmp_path / "peft", some, base, base_folder)
    model = PeftModel.from_pretrained(load(base_folder), folder)
    assert sum("v_proj.lora_A" in name for name, _ in model.named_parameters()) == 1
    assert difference(model, TOKENS, wanted) <= TOLERANCE


@pytest.mark.parametrize("by_script", [False, True])
def test_grouped_queries(by_script: bool, tmp_path: Path) -> None:
    gguf = write_grouped_base(tmp_path / "base.gguf")
    path = write_grouped_lora(tmp_path / "grouped.ggla", by_script=by_script)
    lora = independent.read(path)
    if by_script:
        for name, heads in [("wq", 4), ("wk", 2)]:
            for layer in (0, 1):
                lora.b[f"{name}.{layer}"] = from_halves(lora.b[f"{name}.{layer}"], heads)
    w = independent.with_adapter(independent.weights(gguf), lora)
    wanted = independent.log_probabilities(w, TOKENS, n_head=4, n_head_kv=2)
    folder = write_base(tmp_path / "base", gguf, 2)
    with adapter_of(path) as adapter, base_in(gguf) as base:
        peft = write_peft(tmp_path / "peft", adapter, base, folder)
    assert difference(PeftModel.from_pretrained(load(folder), peft), TOKENS, wanted) <= TOLERANCE


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
