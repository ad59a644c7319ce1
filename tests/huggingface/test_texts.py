"""The files of a folder that are text, and the header of the others."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from ggcp_schema import open_file
from ggcp_schema.files.contents import Safetensors
from ggcp_schema.files.tensor_entries import TensorEntry, Zeros
from ggcp_schema.huggingface.card import PROMPT, model_card
from ggcp_schema.huggingface.config import model_config, shortest
from ggcp_schema.huggingface.tensors import weight_tensors
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.facts import Fact
from ggcp_schema.llama.model import Model
from tests.helpers import tensor_data
from tests.huggingface.folders import ALICE, programs, read_json, write_folder

# config.json -----------------------------------------------------------------------------------------------


def test_the_configuration_of_alice(tmp_path: Path) -> None:
    write_folder(tmp_path, ALICE)
    config = read_json(tmp_path / "config.json")
    assert (config["vocab_size"], config["hidden_size"], config["intermediate_size"]) == (768, 64, 192)
    assert (config["num_hidden_layers"], config["num_attention_heads"], config["head_dim"]) == (3, 4, 16)
    assert (config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"]) == (5e-6, 10000, False)
    assert read_json(tmp_path / "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2}


def test_each_generation_of_transformers_has_its_own_keys() -> None:
    model = Model("", 320, 32, 2, 2, 96, n_rot=8, freq_scale=4, tensors={}, evidence=Evidence())
    config = model_config(model, 1e-6, 64, {}, "BF16")
    assert config["rope_parameters"] == {"rope_type": "linear", "factor": 4, "rope_theta": 1e8}
    assert (config["rope_theta"], config["rope_scaling"]) == (1e8, {"rope_type": "linear", "factor": 4})
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_number_is_the_shortest_of_its_float32(value: float) -> None:
    found = shortest(value)
    assert np.float32(found) == np.float32(value)
    assert len(repr(found)) <= len(repr(value))


def test_an_epsilon_reads_as_a_person_writes_it() -> None:
    assert [repr(shortest(float(np.float32(value)))) for value in (1e-5, 5e-6, 1e-6)] == ["1e-05", "5e-06", "1e-06"]


# README.md -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_moments", [True, False])
def test_the_card_s_programs_are_python(has_moments: bool) -> None:
    card = model_card(name="x", facts=[], context_length=64, has_moments=has_moments)
    first, second = (ast.parse(program) for program in programs(card))
    assert PROMPT in {node.value for node in ast.walk(first) if isinstance(node, ast.Constant)}
    names = {node.id for node in ast.walk(second) if isinstance(node, ast.Name)}
    assert ("load_moments" in names) == has_moments
    assert ("optimizer.safetensors" in card) == has_moments


def test_the_card_states_facts() -> None:
    facts = [Fact("loss", "0.15", "mean | of the\nlast batch"), Fact("samples", "96,000")]
    card = model_card(name="a\nb", facts=facts, context_length=8, has_moments=False)
    lines = card.splitlines()
    assert "# a b" in lines
    assert r"| loss | 0.15 | mean \| of the last batch |" in lines
    assert "| samples | 96,000 |  |" in lines
    assert "max_new_tokens=4," in card
    assert "max_length=8)" in card


# model.safetensors -----------------------------------------------------------------------------------------


def test_the_package_safetensors_reads_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = [("a", "F32", (2, 3)), ("é", "F16", (0, 4)), ("c", "BF16", (5,)), ("d", "F32", ())]
    Safetensors(
        {"format": "pt"}, [TensorEntry(name, shape[::-1], Zeros(), kind) for name, kind, shape in tensors]
    ).write(str(path))
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        assert {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()} == {
            name: (dtype, shape) for name, dtype, shape in tensors
        }


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_the_size_of_the_output_is_known_before(dtype: str, tmp_path: Path) -> None:
    write_folder(tmp_path, ALICE, dtype=dtype)
    with open_file(ALICE) as file:
        tensors = weight_tensors(file.training().model.tensors, n_head=4, dtype=dtype)
        assert sum(map(len, map(bytes, tensor_data(tensors)))) == sum(tensor.nbytes for tensor in tensors)
    raw = (tmp_path / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert start % 8 == 0
    assert len(raw) - start == sum(tensor.nbytes for tensor in tensors)
    assert json.loads(raw[8:start])["__metadata__"] == {"format": "pt"}
