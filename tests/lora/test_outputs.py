"""What is written of an adapter for llama.cpp and for PEFT."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema import UsageError
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.inspect.edit import Change, edit
from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.mapping.adapter import adapter_keys, adapter_tensors, patched_norms
from ggcp_schema.mapping.lora import base_of
from ggcp_schema.mapping.peft import peft_config, peft_tensors
from tests.lora import independent
from tests.lora.lora_files import (
    BASE,
    EVERY,
    FOLDER,
    GGLA,
    PEFT,
    adapter_of,
    array,
    base_in,
    base_weights,
    stem,
    write_grouped_base,
    write_grouped_lora,
    write_patched,
)

RTOL = 1e-6  # of the largest value of a product


def ids(path: Path) -> str:
    return path.name


# For llama.cpp ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_the_adapter_is_exactly_the_expected_one(path: Path) -> None:
    expected = json.loads((FOLDER / f"{stem(path)}.ggla.adapter.json").read_text())
    with adapter_of(path, hf_rows=False) as adapter, base_in() as base:
        keys = {key.key: {"type": key.type, "value": key.value} for key in adapter_keys()}
        tensors = [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "dtype": tensor.type,
                "sha256": hashlib.sha256(b"".join(tensor.chunks())).hexdigest(),
            }
            for tensor in adapter_tensors(adapter, base.heads)
        ]
    assert {"kv": keys, "tensors": tensors} == expected


@pytest.mark.parametrize("path", EVERY, ids=ids)
def test_a_patched_base_differs_in_the_norms_alone(path: Path, tmp_path: Path) -> None:
    lora, before = independent.read(path), base_weights()
    with adapter_of(path) as adapter, base_in() as base:
        write_patched(tmp_path / "new.gguf", adapter, base)
    for name, found in independent.weights(tmp_path / "new.gguf").items():
        wanted = before[name]
        if "norm" in name and name in lora.a:
            wanted = (wanted + lora.product(name)[0]).astype("f4")
        assert np.array_equal(found, wanted)
    if path != PEFT:
        with adapter_of(path) as adapter, open_gguf(BASE) as gguf:
            base = base_of(gguf)
            changes = [
                Change(gguf.find(base.tensors[patch.path].name), memoryview(b"".join(patch.content())))
                for patch in patched_norms(adapter, base)
            ]
            edit(gguf, tmp_path / "edited.gguf", changes)
        assert (tmp_path / "edited.gguf").read_bytes() == (tmp_path / "new.gguf").read_bytes()
    old, new = (np.frombuffer(file.read_bytes(), "u1") for file in (BASE, tmp_path / "new.gguf"))
    assert len(old) == len(new)
    assert 0 < np.count_nonzero(old != new) <= 5 * 32 * 4 or path == PEFT


def test_a_norm_that_is_not_f32_cannot_be_patched() -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        halves = base._replace(tensors=base.tensors | {"norm": replace(base.tensors["norm"], type="F16")})
        with pytest.raises(UsageError, match="is F16, expected F32"):
            list(patched_norms(adapter, halves))


# For PEFT --------------------------------------------------------------------------------------------------

HF = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "model.layers.{}.input_layernorm",
    "wq": "model.layers.{}.self_attn.q_proj",
    "wk": "model.layers.{}.self_attn.k_proj",
    "wv": "model.layers.{}.self_attn.v_proj",
    "wo": "model.layers.{}.self_attn.o_proj",
    "ffn_norm": "model.layers.{}.post_attention_layernorm",
    "w1": "model.layers.{}.mlp.gate_proj",
    "w2": "model.layers.{}.mlp.down_proj",
    "w3": "model.layers.{}.mlp.up_proj",
}


def module(name: str) -> str:
    kind, _, layer = name.partition(".")
    return f"base_model.model.{HF[kind].format(layer)}"


def rotate_half_rows(values: np.ndarray, n_head: int) -> np.ndarray:
    """Return rows that RoPE pairs as neighbours in the order in which it pairs the halves of a head."""
    size = len(values) // n_head
    rows = [head * size + 2 * i + side for head in range(n_head) for side in (0, 1) for i in range(size // 2)]
    return values[rows]


def products(adapter: Adapter, base: Base, *, norms: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the products by PEFT's conventions, and the whole tensors, by module."""
    config = peft_config(adapter, base, "base", norms=norms)
    stored = {tensor.name: array(tensor) for tensor in peft_tensors(adapter, base, norms=norms)}
    scale, found = config["lora_alpha"] / config["r"], {}
    for name in [name for name in stored if ".lora_A" in name or "_embedding_A" in name]:
        a, b = stored.pop(name).astype("f8"), stored.pop(name.replace("_A", "_B")).astype("f8")
        assert a.shape[0] == b.shape[1] == config["r"]
        head, _, kind = name.partition(".lora_")
        found[head] = scale * (b @ a).T if kind == "embedding_A" else scale * b @ a
    return found, {name.removesuffix(".weight"): values for name, values in stored.items()}


@pytest.mark.parametrize("path", EVERY, ids=ids)
@pytest.mark.parametrize("verbatim", [False, True])
def test_the_products_of_peft_are_those_of_the_file(path: Path, verbatim: bool) -> None:
    lora, before = independent.read(path), base_weights()
    with adapter_of(path, **({"hf_rows": False} if verbatim else {})) as adapter, base_in() as base:
        found, whole = products(adapter, base, norms=True)
    reorders = verbatim or path != PEFT
    for name in lora.a:
        wanted = lora.product(name)
        if "norm" in name:
            assert np.array_equal(whole.pop(module(name)), (before[name] + wanted[0]).astype("f4"))
            continue
        if name.startswith(("wq", "wk")) and reorders:
            wanted = rotate_half_rows(wanted, 4)
        assert np.abs(found.pop(module(name)) - wanted).max() <= RTOL * np.abs(wanted).max()
    assert not found
    assert not whole


@pytest.mark.parametrize("by_script", [False, True])
def test_the_rows_of_k_are_those_of_its_own_heads(by_script: bool, tmp_path: Path) -> None:
    path, grouped = tmp_path / "grouped.ggla", write_grouped_base(tmp_path / "base.gguf")
    lora = independent.read(write_grouped_lora(path, by_script=by_script))
    with adapter_of(path) as adapter, base_in(grouped) as base:
        found, _ = products(adapter, base, norms=False)
    for kind, heads in (("wq", 4), ("wk", 2)):
        for layer in (0, 1):
            wanted = lora.product(f"{kind}.{layer}")
            wanted = wanted if by_script else rotate_half_rows(wanted, heads)
            assert np.abs(found[module(f"{kind}.{layer}")] - wanted).max() <= RTOL * np.abs(wanted).max()


def test_control_rows_in_the_order_of_gguf_are_found() -> None:
    """They change log probabilities by 0.09 only."""
    lora = independent.read(GGLA[0])
    with adapter_of(GGLA[0], hf_rows=True) as adapter, base_in() as base:
        found, _ = products(adapter, base, norms=False)
    wanted = rotate_half_rows(lora.product("wq.0"), 4)
    assert np.abs(found[module("wq.0")] - wanted).max() > 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("norms", [False, True])
def test_the_config_of_a_finetune(norms: bool) -> None:
    with adapter_of(FOLDER / "lbfgs.ggla", scale=1.125) as adapter, base_in() as base:
        config = peft_config(adapter, base, "models/base", norms=norms)
    saved = {"modules_to_save": ["input_layernorm", "norm", "post_attention_layernorm"]} if norms else {}
    assert config == {
        "base_model_name_or_path": "models/base",
        "lora_alpha": 4.5,
        **saved,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": [
            *("down_proj", "embed_tokens", "gate_proj", "k_proj", "lm_head"),
            *("o_proj", "q_proj", "up_proj", "v_proj"),
        ],
        "task_type": "CAUSAL_LM",
    }
    json.dumps(config)


def test_the_config_of_an_adapter_of_some_modules() -> None:
    with adapter_of(PEFT) as adapter, base_in() as base:
        config = peft_config(adapter, base, "base", norms=True)
        assert (config["r"], config["lora_alpha"]) == (4, 16)
        assert "modules_to_save" not in config
        assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
        first = replace(adapter, pairs={name: pair for name, pair in adapter.pairs.items() if name != "layers[1].wv"})
        assert peft_config(first, base, "base", norms=True)["target_modules"] == [
            "down_proj",
            "model.layers.0.self_attn.v_proj",
            "q_proj",
        ]


def test_smaller_ranks_are_padded_with_zeros() -> None:
    lora = independent.read(FOLDER / "lbfgs.ggla")
    with adapter_of(FOLDER / "lbfgs.ggla") as adapter, base_in() as base:
        stored = {tensor.name: array(tensor) for tensor in peft_tensors(adapter, base, norms=False)}
    a = stored[f"{module('w1.0')}.lora_A.weight"]
    assert a.shape == (4, 32)
    assert np.array_equal(a[:1], lora.a["w1.0"].T)
    assert not a[1:].any()
    assert not any("norm" in name for name in stored)


def test_an_adapter_of_norms_alone_is_none_for_peft() -> None:
    with adapter_of(GGLA[0]) as adapter, base_in() as base:
        norms = replace(adapter, pairs={name: adapter.pairs[name] for name in adapter.norms})
        with pytest.raises(UsageError, match="no pair but those of norms"):
            peft_config(norms, base, "base", norms=True)
