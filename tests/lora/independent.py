"""LoRA files read with `struct`, and the forward pass of a model with an adapter in float64.

No code is shared with the package. Tensors are named as the schema names fields: `wq` of layer 0 is `wq.0`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

Array = npt.NDArray[np.float64]
MODEL = {"token_embd": "tok_embeddings", "output_norm": "norm", "output": "output"}
LAYER = {
    "attn_norm": "attention_norm",
    "attn_q": "wq",
    "attn_k": "wk",
    "attn_v": "wv",
    "attn_output": "wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "w1",
    "ffn_down": "w2",
    "ffn_up": "w3",
}


@dataclass
class Lora:
    """The pairs as the file has them: A is (n_in, r), B (n_out, r)."""

    scale: float
    a: dict[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    b: dict[str, npt.NDArray[np.floating]] = field(default_factory=dict)
    vectors: list[Array] = field(default_factory=list)

    def product(self, name: str) -> Array:
        a, b = self.a[name].astype("f8"), self.b[name].astype("f8")
        whole: Array = self.scale * b.reshape(-1, a.shape[1]) @ a.T
        return whole


def read_record(raw: bytes, at: int) -> tuple[str, npt.NDArray[np.floating], int]:
    n_dims, length, kind = struct.unpack_from("<3I", raw, at)
    ne = struct.unpack_from(f"<{n_dims}I", raw, at + 12)
    at += 12 + 4 * n_dims
    name = raw[at : at + length].decode()
    at += length
    at += -at % 32
    values: npt.NDArray[np.floating] = np.frombuffer(raw, ("<f4", "<f2")[kind], math.prod(ne) if ne else 0, at)
    return name, values.reshape(ne[::-1] if ne else 0), at + values.nbytes


def plain_name(stem: str) -> str:
    parts = stem.split(".")
    if parts[0] == "blk":
        return f"{LAYER[parts[2]]}.{parts[1]}"
    if parts[0] == "layers":
        return f"{parts[-1]}.{parts[1]}"
    return MODEL.get(stem, stem)


def read_ggla(path: Path) -> Lora:
    raw = path.read_bytes()
    magic, version, r, alpha = struct.unpack_from("<4s I 2i", raw)
    assert (magic, version) == (b"algg", 1)
    lora, at = Lora(alpha / r), 16
    while at < len(raw):
        name, values, at = read_record(raw, at)
        stem, _, part = name.rpartition(".weight.lora")
        (lora.a if part == "A" else lora.b)[plain_name(stem)] = values
    return lora


def read_ggcl(path: Path) -> Lora:
    raw = path.read_bytes()
    assert raw[:4] == b"lcgg"
    n_layer = struct.unpack_from("<I", raw, 36)[0]
    layers = [f"{name}.{layer}" for layer in range(n_layer) for name in LAYER.values()]
    lora, at = Lora(1.0), 92
    for name in [*MODEL.values(), *layers]:
        _, lora.a[name], at = read_record(raw, at)
        _, lora.b[name], at = read_record(raw, at)
    at += 28
    while len(raw) - at > 60:  # what follows the last tensor is shorter
        _, values, at = read_record(raw, at)
        lora.vectors.append(values)
    return lora


def read_checkpoint(path: Path) -> Lora:
    lora = Lora(1.0)
    for tensor in GGUFReader(path).tensors:
        stem, _, part = tensor.name.rpartition(".weight.lora_")
        if stem:
            (lora.a if part == "a" else lora.b)[plain_name(stem)] = np.array(tensor.data)
    return lora


def read(path: Path) -> Lora:
    return {".ggla": read_ggla, ".ggcl": read_ggcl}.get(path.suffix, read_checkpoint)(path)


# The forward pass ------------------------------------------------------------------------------------------


def weights(path: Path) -> dict[str, Array]:
    """Return the weights of a model in GGUF, of any type that gguf decodes."""
    return {
        plain_name(tensor.name.removesuffix(".weight")): dequantize(tensor.data, tensor.tensor_type).astype("f8")
        for tensor in GGUFReader(path).tensors
    }


def with_adapter(w: Mapping[str, Array], lora: Lora, *, norms: bool = True) -> dict[str, Array]:
    return {
        name: values + lora.product(name).reshape(values.shape)
        if name in lora.a and (norms or "norm" not in name)
        else values
        for name, values in w.items()
    }


def log_probabilities(
    w: Mapping[str, Array],
    tokens: Sequence[int],
    n_head: int,
    n_head_kv: int,
    linear: Callable[[str, Array], Array] | None = None,
) -> Array:
    """Return the log probability of every token after each prefix: [prefix, token]. The epsilon is 1e-5.

    `linear` multiplies activations by a matrix that it is given the name of; None multiplies by that of `w`.
    """
    linear = linear or (lambda name, h: h @ w[name].T)
    count, n_embd = len(tokens), len(w["norm"])
    size = n_embd // n_head
    turn = np.exp(1j * np.arange(count)[:, None] * 10000.0 ** (-2 * np.arange(size // 2) / size))
    future = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: Array, weight: Array) -> Array:
        scaled: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight
        return scaled

    def split(x: Array, heads: int) -> Array:
        return np.ascontiguousarray(x.reshape(count, heads, size).swapaxes(0, 1))

    def rope(x: Array) -> Array:
        turned: Array = (x.view(np.complex128) * turn).view(np.float64)
        return turned

    x = w["tok_embeddings"][list(tokens)]
    for i in range(sum(name.startswith("wq.") for name in w)):
        h = norm(x, w[f"attention_norm.{i}"])
        q = rope(split(linear(f"wq.{i}", h), n_head))
        k = rope(split(linear(f"wk.{i}", h), n_head_kv)).repeat(n_head // n_head_kv, 0)
        v = split(linear(f"wv.{i}", h), n_head_kv).repeat(n_head // n_head_kv, 0)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size) + future
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        x = x + linear(f"wo.{i}", (attention @ v).swapaxes(0, 1).reshape(count, -1))
        h = norm(x, w[f"ffn_norm.{i}"])
        gate = linear(f"w1.{i}", h)
        x = x + linear(f"w2.{i}", gate / (1 + np.exp(-gate)) * linear(f"w3.{i}", h))
    logits = linear("output", norm(x, w["norm"]))
    logits -= logits.max(-1, keepdims=True)
    whole: Array = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return whole


def rounded_to_q8_0(x: Array) -> Array:
    """Return activations as llama.cpp rounds them before it multiplies them by a Q8_0 matrix: 32 share an F16 scale."""
    blocks = x.astype("f4").reshape(len(x), -1, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    whole: Array = np.rint(blocks * inverse).astype("f8") * scale.astype("f2").astype("f8")
    return whole.reshape(x.shape)
