"""A folder computes what the trainer computed, and holds each value once."""

from __future__ import annotations

import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ggcp_schema import open_file
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.huggingface.tensors import moment_tensors, weight_tensors
from ggcp_schema.llama.rotation import halves
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, tensor_data, thinned
from tests.huggingface import forward
from tests.huggingface.folders import ALICE, write_folder
from tests.mapping import independent_order, reference

PROMPT = [1, 259, 279, 262, 68, 300, 290]
NAMES = {  # of the reference: layer by layer
    "self_attn.q_proj": "wq",
    "self_attn.k_proj": "wk",
    "self_attn.v_proj": "wv",
    "self_attn.o_proj": "wo",
    "mlp.gate_proj": "w1",
    "mlp.down_proj": "w2",
    "mlp.up_proj": "w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
ROTMAX_EPS = {"rotmax8-v0": 1e-6, "rotmax8-v1": 5e-6}


def reference_names(n_layer: int) -> dict[str, str]:
    """Return transformers' names by those of the reference (`wq.0`)."""
    layers = {
        f"{name}.{layer}": f"model.layers.{layer}.{hf}.weight" for layer in range(n_layer) for hf, name in NAMES.items()
    }
    outside = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    return layers | {name: f"{hf}.weight" for name, hf in outside.items()}


def in_halves(rows: np.ndarray, n_head: int) -> np.ndarray:
    """Return the rows of wq or wk, or of their moments, in the order of transformers, as its converter does it."""
    return rows.reshape(n_head, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


# The forward pass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.name)
def test_a_folder_computes_what_the_checkpoint_does(path: Path, tmp_path: Path) -> None:
    rms_eps = write_folder(tmp_path, path)
    expected = reference.log_probabilities(path, PROMPT, rms_eps)
    assert np.abs(forward.log_probabilities(tmp_path, PROMPT) - expected).max() < 1e-9


@pytest.mark.parametrize("name", ROTMAX_EPS)
def test_partly_rotated_models_at_many_positions(name: str, tmp_path: Path) -> None:
    path = FIXTURES / f"{name}.ggcp"
    tokens = np.load(FIXTURES / f"{name}.logits.npz")["tokens"].tolist()[:256]
    assert write_folder(tmp_path, path) == ROTMAX_EPS[name]
    expected = reference.log_probabilities(path, tokens, ROTMAX_EPS[name])
    assert np.abs(forward.log_probabilities(tmp_path, tokens) - expected).max() < 1e-9
    stopping = reference.log_probabilities(path, tokens, ROTMAX_EPS[name], rotation="stop")
    assert np.abs(forward.log_probabilities(tmp_path, tokens) - stopping).max() > 1e-4


# The weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ONE_OF_EACH, ids=lambda path: path.name)
def test_every_weight_is_there_bit_for_bit(path: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, path)
    model, found = reference.read_model(path), load_file(tmp_path / "model.safetensors")
    names = reference_names(model.n_layer)
    assert set(names.values()) == set(found)
    for name, values in model.weights.items():
        is_rotated = name.partition(".")[0] in ("wq", "wk")
        expected = (in_halves(values, model.n_head) if is_rotated else values).astype("<f4")
        assert found[names[name]].tobytes() == expected.tobytes(), name
        assert found[names[name]].shape == expected.shape


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_weights_of_other_types(type: str, dtype: str, byte_order: str, tmp_path: Path) -> None:
    """What torch and numpy round to is what is written, and what fits is not changed."""
    rng = np.random.default_rng(3)
    special = [np.nan, -np.inf, 1e30, -0.0, 1 + 2**-9, 1 + 3 * 2**-9, 65519.0, 65520.0, 1e-8]
    values = np.array([*special, *rng.standard_normal(7)], np.float32)
    bits = values.view(np.uint32)
    stored = {"F32": values, "F16": clipped_half(values), "BF16": (bits >> 16).astype(np.uint16)}[type]
    as_read = {"F32": values, "F16": stored.astype(np.float32), "BF16": (bits & 0xFFFF0000).view(np.float32)}[type]
    (tmp_path / "data").write_bytes(stored.astype(stored.dtype.newbyteorder("<" if byte_order == "little" else ">")))
    source = Source(tmp_path / "data")
    tensors = {
        path: Tensor(path, path, (16,), 0, stored.nbytes, source, type, byte_order)
        for path in ("tok_embeddings", "norm", "output")
    }
    written = b"".join(map(bytes, tensor_data(weight_tensors(tensors, n_head=1, dtype=dtype)[:1])))
    source.close()
    if dtype == "F32":
        found = np.frombuffer(written, "<f4")
        expected = as_read
    elif dtype == "F16":
        found = np.frombuffer(written, "<f2").astype(np.float32)
        expected = clipped_half(as_read).astype(np.float32)
    else:
        found = (np.frombuffer(written, "<u2").astype(np.uint32) << 16).view(np.float32)
        expected = np.array([nearest_bfloat(value) for value in as_read], np.float32)
    assert np.array_equal(found, expected, equal_nan=True)


def clipped_half(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def nearest_bfloat(value: np.float32) -> float:
    """Return the nearest number of 8 significant bits, of two the even one."""
    if not np.isfinite(value) or value == 0:
        return float(value)
    mantissa, exponent = np.frexp(np.float64(value))
    return float(np.ldexp(np.round(mantissa * 256) / 256, exponent))


# Rows ------------------------------------------------------------------------------------------------------


@given(
    n_head=st.integers(1, 5),
    half=st.integers(1, 6),
    n_in=st.integers(1, 7),
    offset=st.integers(0, 9),
    chunk=st.integers(1, 200),
)
def test_the_way_back_gives_the_rows_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    n_head: int,
    half: int,
    n_in: int,
    offset: int,
    chunk: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows"
    n_rows = 2 * half * n_head
    rows = np.random.default_rng(0).integers(0, 1 << 16, (n_rows, n_in), dtype=np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ggcp_schema.files.source.CHUNK", chunk)
        path.write_bytes(bytes(offset) + rows.tobytes())
        assert gathered(path, halves(offset, 2 * n_in, n_rows, n_head)) == in_halves(rows, n_head).tobytes()


def gathered(path: Path, extents: tuple) -> bytes:
    source = Source(path)
    data = b"".join(map(bytes, source.stream(extents)))
    source.close()
    return data


def test_grouped_queries_have_keys_of_fewer_heads(tmp_path: Path) -> None:
    path = tmp_path / "data"
    rng = np.random.default_rng(5)
    shapes = {"tok_embeddings": (8, 5), "norm": (8,), "output": (8, 5)}
    shapes |= {f"layers[0].{name}": (8, 8) for name in ("wq", "wo", "w1", "w2", "w3")}
    shapes |= {f"layers[0].{name}": (8, 4) for name in ("wk", "wv")}
    shapes |= {f"layers[0].{name}": (8,) for name in ("attention_norm", "ffn_norm")}
    values = {name: rng.standard_normal(shape[::-1], np.float32) for name, shape in shapes.items()}
    path.write_bytes(b"".join(array.tobytes() for array in values.values()))
    source, tensors, offset = Source(path), {}, 0
    for name, array in values.items():
        tensors[name] = Tensor(name, name, shapes[name], offset, array.nbytes, source)
        offset += array.nbytes
    weights = weight_tensors(tensors, n_head=4, n_head_kv=2)
    data = {tensor.name: b"".join(map(bytes, tensor_data([tensor]))) for tensor in weights}
    source.close()
    assert data["model.layers.0.self_attn.k_proj.weight"] == in_halves(values["layers[0].wk"], 2).tobytes()
    assert data["model.layers.0.self_attn.q_proj.weight"] == in_halves(values["layers[0].wq"], 4).tobytes()
    assert data["model.layers.0.self_attn.v_proj.weight"] == values["layers[0].wv"].tobytes()


# The optimizer's state -------------------------------------------------------------------------------------

WITH_ADAM = [path for path in ONE_OF_EACH if "lbfgs" not in path.name]


@pytest.mark.parametrize("path", WITH_ADAM, ids=lambda path: path.name)
def test_every_moment_is_there_by_the_name_of_its_parameter(path: Path) -> None:
    raw = independent_order.read(path)
    n_head = reference.read_model(path).n_head
    for order, scale in product("ABC", (1, 96)):
        with open_file(path) as file:
            training = file.training()
            tensors = moment_tensors(
                training.model.tensors, training.state, order=order, scale=scale, step=training.iteration, n_head=n_head
            )
            data = {tensor.name: b"".join(map(bytes, tensor_data([tensor]))) for tensor in tensors}
            joined = b"".join(map(bytes, tensor_data(tensors)))
        assert joined == b"".join(data.values())
        assert data.pop("step") == np.float32(raw.iterations).tobytes()
        names = reference_names(raw.n_layer)
        for field, prefix, divisor in (("m", "exp_avg", scale), ("v", "exp_avg_sq", scale**2)):
            parts = independent_order.split(raw.state[field].data, order, independent_order.sizes_of(raw))
            for parameter, part in parts.items():
                layer, _, name = parameter.rpartition(".")
                label = f"{name}.{layer[7:-1]}" if layer else name
                values = part.reshape(raw.model[parameter].shape[::-1]) / np.float32(divisor)
                expected = in_halves(values, n_head) if name in ("wq", "wk") else values
                assert data.pop(f"{prefix}.{names[label]}") == expected.tobytes(), (order, scale, parameter)
        assert not data, (order, scale)


def test_the_moments_of_a_file_that_was_read_for_a_single_parameter_are_the_same(tmp_path: Path) -> None:
    write_folder(tmp_path, ALICE)
    found = load_file(tmp_path / "optimizer.safetensors")
    with open_file(ALICE) as ckpt:
        for path, name in (("layers[1].wk", "model.layers.1.self_attn.k_proj"), ("norm", "model.norm")):
            moments = ckpt.moments(path)
            for field, prefix in (("m", "exp_avg"), ("v", "exp_avg_sq")):
                expected = in_halves(moments[field], 4) if path != "norm" else moments[field]
                assert np.array_equal(found[f"{prefix}.{name}.weight"], expected)
    assert found["step"] == 6000
    assert found["step"].shape == ()


# Memory ----------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A matrix of queries larger than all buffers together, of one head, whose rows lie far apart."""
    path = tmp_path / "large.ggcp"
    shape = {"n_vocab": 4, "n_embd": 1024, "n_mult": 32, "n_ff": 32, "n_head": 1, "n_rot": 1024}
    path.write_bytes(build_checkpoint(**shape, data=lambda count: np.zeros(count, np.float32)))
    with open_file(path) as file:
        training = file.training()
        tensors = [
            *weight_tensors(training.model.tensors, n_head=1),
            *moment_tensors(training.model.tensors, training.state, order="C", step=3, n_head=1),
        ]
        tracemalloc.start()
        for _ in tensor_data(tensors):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * 1024**2 < path.stat().st_size // 10
