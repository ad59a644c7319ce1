"""GGUF files for the tests: read by gguf's own reader, and written as the trainers wrote them, by gguf's own writer.

No code of the package is used.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFEndian, GGUFReader

from tests.gguf_names import LAYER, MODEL, STATE
from tests.gguf_writer import add_keys, written_by_gguf
from tests.mapping import independent_order
from tests.vocabularies import tokenizer_keys

NO_TOKEN = 0xFFFFFFFF


def read_gguf(path: Path) -> dict[str, Any]:
    """Return a GGUF file in the words of the fixtures' `.resume.json` and `.model.json`."""
    reader = GGUFReader(path)
    keys = {}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            value = field.contents()
            if isinstance(value, list):
                text = json.dumps(value, ensure_ascii=False).encode()
                value = {"len": len(value), "sha256": hashlib.sha256(text).hexdigest()}
            keys[name] = {"type": "/".join(kind.name for kind in field.types), "value": value}
    tensors = [
        {
            "name": tensor.name,
            "shape": [int(n) for n in tensor.shape],
            "dtype": tensor.tensor_type.name,
            "sha256": hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        }
        for tensor in reader.tensors
    ]
    return {"kv": keys, "tensors": tensors}


def value(path: Path, key: str) -> Any:
    """Return the value of one key, None if it is missing."""
    field = GGUFReader(path).fields.get(key)
    return None if field is None else field.contents()


def data(path: Path) -> dict[str, np.ndarray]:
    """Return the data of all tensors, flat."""
    return {tensor.name: np.array(tensor.data).ravel() for tensor in GGUFReader(path).tensors}


def tensor_name(path: str) -> str:
    """Return the GGUF name of a tensor of the model."""
    if path.startswith("layers["):
        layer, _, field = path.removeprefix("layers[").partition("].")
        return f"blk.{layer}.{LAYER[field]}.weight"
    return MODEL[path]


def vector_name(field: str, optimizer: str) -> str | None:
    """Return the GGUF name of a tensor of the optimizer's state; None for one that is not written."""
    name = STATE[optimizer].get(field)
    return None if name is None else f"optimizer.{optimizer}.{name}"


def write_as_trainer(
    path: Path,
    checkpoint: Path,
    *,
    version: int = 0,
    order: tuple[str, str] = ("C", "C"),
    big_endian: bool = False,
    changes: Mapping[str, tuple[str, Any]] | None = None,
    without: Collection[str] = (),
    cut: Collection[str] = (),
) -> Path:
    """Write the GGUF checkpoint that a trainer would have saved of a ggcp checkpoint, with a vocabulary.

    `version` is training.file_version: 0 from 28 August 2023, 1 from the end of September. `order` is that of the flat
    vectors in the checkpoint and in the output. `changes` are keys with types and values; `without` names keys and
    tensors to leave out, `cut` vectors that get a value less.
    """
    found = independent_order.read(checkpoint)
    _, n_embd, _, n_head, n_layer, n_rot = struct.unpack_from("<6I", checkpoint.read_bytes(), 20)
    optimizer = "lbfgs" if "lmal" in found.state else "adam"
    keys: dict[str, tuple[str, Any]] = {
        "training.type": ("STRING", "train_model"),
        "general.file_type": ("UINT32", 0),
        "llama.context_length": ("UINT32", 16),
        "llama.embedding_length": ("UINT32", n_embd),
        "llama.feed_forward_length": ("UINT32", len(found.model["layers[0].w1"].data) // n_embd),
        "llama.attention.head_count": ("UINT32", n_head),
        "llama.block_count": ("UINT32", n_layer),
        "llama.rope.dimension_count": ("UINT32", n_rot),
        "llama.attention.layer_norm_rms_epsilon": ("FLOAT32", 1e-5),
        "llama.rope.freq_base": ("FLOAT32", 10000.0),
        "llama.rope.scale_linear": ("FLOAT32", 1.0),
        **tokenizer_keys(),
        "tokenizer.ggml.seperator_token_id": ("UINT32", NO_TOKEN),
        "tokenizer.ggml.padding_token_id": ("UINT32", NO_TOKEN),
        "training.file_version": ("UINT32", version),
    }
    kind = "UINT64" if version else "UINT32"
    keys |= {
        "training.iteration_count": (kind, found.train_its),
        "training.sample_count": (kind, found.train_samples),
        "training.token_count": (kind, found.train_tokens),
    }
    if version:
        keys |= {
            "training.epoch_count": ("UINT64", 2),
            "training.shuffle.samples_hash": ("UINT64", (1 << 64) - 5),
            "training.shuffle.rng_state": ("STRING", "1 2 3"),
            "training.shuffle.sample_count": ("UINT64", 9),
            "training.shuffle.next_sample": ("UINT64", 4),
        }
    keys |= {
        "optimizer.file_version": ("UINT32", 0),
        "optimizer.convergence_past_count": ("UINT32", len(found.state["pf"].data) if "pf" in found.state else 0),
        "optimizer.parameter_count": ("UINT64", sum(len(tensor.data) for tensor in found.model.values())),
        "optimizer.iteration_count": ("UINT32", found.iterations),
        "optimizer.just_initialized": ("BOOL", False),
        "optimizer.type": ("STRING", optimizer),
    }
    if optimizer == "adam":
        keys |= {
            "optimizer.adam.best_loss": ("FLOAT32", 5.5),
            "optimizer.adam.previous_loss": ("FLOAT32", 5.25),
            "optimizer.adam.no_improvement_count": ("UINT32", 3),
        }
    else:
        keys |= {
            "optimizer.lbfgs.approx_hessian_count": ("UINT32", len(found.state["lmal"].data)),
            "optimizer.lbfgs.best_loss": ("FLOAT32", 5.5),
            "optimizer.lbfgs.line_search_step": ("FLOAT32", 0.5),
            "optimizer.lbfgs.line_search_j": ("INT32", 1),
            "optimizer.lbfgs.line_search_k": ("INT32", 4),
            "optimizer.lbfgs.line_search_end": ("INT32", 2),
            "optimizer.lbfgs.no_improvement_count": ("UINT32", 3),
        }
    keys |= changes or {}
    with written_by_gguf(path, endianess=GGUFEndian.BIG if big_endian else GGUFEndian.LITTLE) as writer:
        add_keys(writer, ((key, *entry) for key, entry in keys.items() if key not in without))
        for name, shape, values in tensors_of(checkpoint, order, optimizer):
            if name not in without:
                writer.add_tensor(name, values[:-1] if name in cut else values.reshape(shape[::-1]).copy())
    return path


def tensors_of(
    checkpoint: Path, order: tuple[str, str], optimizer: str
) -> list[tuple[str, tuple[int, ...], np.ndarray]]:
    """Return name, shape in ggml order and values of each tensor of the GGUF checkpoint."""
    found = independent_order.read(checkpoint)
    sizes = independent_order.sizes_of(found)
    n_params = sum(sizes.values())
    tensors = [(tensor_name(path), tensor.shape, tensor.data) for path, tensor in found.model.items()]
    for field, tensor in found.state.items():
        name = vector_name(field, optimizer)
        if name is not None and len(tensor.data):
            flat = tensor.shape[0] == n_params
            values = independent_order.change_order(tensor.data, *order, sizes) if flat else tensor.data
            tensors.append((name, tensor.shape, values))
    return tensors
