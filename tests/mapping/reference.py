"""The forward pass of the programs of 2023 in float64, with a reading of ggcp files of its own.

It shares no code with the package: files are read with `struct` and numpy, after the description of the format.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rotation = Literal["2023", "stop"]
EOS = 2
LAYER = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")


@dataclass(frozen=True)
class Model:
    """The hyper-parameters, and the weights in float64 by name (`wq.0` is wq of layer 0), as numpy shapes them."""

    n_vocab: int
    n_embd: int
    n_mult: int
    n_head: int
    n_layer: int
    n_rot: int
    weights: dict[str, Array]
    first_tensor: str
    end: int  # offset of the optimizer block

    @property
    def n_ff(self) -> int:
        return len(self.weights["w1.0"])


@dataclass(frozen=True)
class Optimizer:
    """The optimizer block: its numbers, and its vectors in float64 by the names of the C struct."""

    layout: str
    type: str
    numbers: dict[str, float]
    vectors: dict[str, Array]


@functools.lru_cache(maxsize=4)
def read_model(path: str | Path) -> Model:
    raw = Path(path).read_bytes()
    magic, version, *_train, n_vocab, n_embd, n_mult, n_head, n_layer, n_rot = struct.unpack_from("<11I", raw)
    assert (magic, version) == (0x67676370, 0)
    position, weights = 44, {}
    first_tensor = raw[44 + 20 : 44 + 20 + int.from_bytes(raw[48:52], "little")].decode()
    names = ["tok_embeddings", "norm", "output", *(f"{name}.{i}" for i in range(n_layer) for name in LAYER)]
    for name in names:
        weights[name], position = _tensor(raw, position)
    return Model(n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, weights, first_tensor, position)


def read_optimizer(path: str | Path) -> Optimizer:
    raw, position = Path(path).read_bytes(), read_model(path).end
    numbers: dict[str, float] = dict(zip(("its", "samples", "tokens"), struct.unpack_from("<3I", raw, 8), strict=True))
    version, past, lbfgs_m, nx = struct.unpack_from("<3Iq", raw, position)
    layout = "v0"
    if version == 1:
        is_v1 = struct.unpack_from("<4I", raw, position + 28) == (1, 0, 0, nx)
        layout = "v1" if is_v1 else "v1-raw-params"
    position += 4
    kind = None
    if layout == "v1":
        position += 8
    else:
        kind, numbers["n_threads"], past = struct.unpack_from("<3i", raw, position)
        numbers["max_no_improvement"], lbfgs_m = (struct.unpack_from("<i", raw, position + at)[0] for at in (16, 60))
        position += 96
    nx, numbers["iter"], _ = struct.unpack_from("<qiI", raw, position)
    numbers |= {"past": past, "lbfgs_m": lbfgs_m}
    records, position = [], position + 16
    for _ in range(3):
        values, position = _tensor(raw, position)
        records.append(values)
    lbfgs = kind == 1 or (kind is None and records[2].size == nx)
    names = "x xp g gp d pf lmal lmys lms lmy" if lbfgs else "x g1 g2 m v mh vh pf" if layout == "v0" else "m v pf"
    for _ in names.split()[3:]:
        values, position = _tensor(raw, position)
        records.append(values)
    last = "fx_best step j k end n_no_improvement" if lbfgs else "fx_best fx_prev n_no_improvement"
    assert position + 4 * len(last.split()) == len(raw)
    numbers |= zip(last.split(), struct.unpack_from("<2f4i" if lbfgs else "<2fi", raw, position), strict=True)
    return Optimizer(layout, "lbfgs" if lbfgs else "adam", numbers, dict(zip(names.split(), records, strict=True)))


def _tensor(raw: bytes, position: int) -> tuple[Array, int]:
    """Read a tensor record: its values, and the offset of what follows. The values of NULL are an empty array."""
    n_dims, name_len, kind = struct.unpack_from("<3I", raw, position)
    ne = struct.unpack_from(f"<{n_dims}I", raw, position + 12)
    assert kind == 0
    position += 12 + 4 * n_dims + name_len
    position += -position % 32
    values = np.frombuffer(raw, "<f4", math.prod(ne) if ne else 0, position)
    return values.reshape(ne[::-1] if ne else 0).astype(np.float64), position + values.nbytes


def log_probabilities(path: str | Path, tokens: Sequence[int], rms_eps: float, rotation: Rotation = "2023") -> Array:
    """Return the log probability of every token after each prefix of `tokens`: [prefix, token].

    `rotation` "2023" turns all pairs of a head, pair i at position p by `p * 10000 ** (-2 * i / n_rot)`, as ggml did
    in 2023; "stop" turns only the first n_rot dimensions, as ggml of 2024 does.
    """
    model = read_model(path)
    w, count = model.weights, len(tokens)
    head_size = model.n_embd // model.n_head
    pairs = np.arange((head_size if rotation == "2023" else model.n_rot) // 2)
    turn = np.exp(1j * np.arange(count)[:, None] * 10000.0 ** (-2 * pairs / model.n_rot))
    future = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: Array, weight: Array) -> Array:
        root: Array = np.sqrt((x * x).mean(-1, keepdims=True) + rms_eps)
        return x / root * weight

    def heads(x: Array) -> Array:
        return np.ascontiguousarray(x.reshape(count, model.n_head, head_size).swapaxes(0, 1))

    def rope(x: Array) -> Array:
        numbers = x.view(np.complex128)  # neighbours are a pair
        numbers[..., : len(pairs)] *= turn
        return x

    x = w["tok_embeddings"][list(tokens)]
    for i in range(model.n_layer):
        h = norm(x, w[f"attention_norm.{i}"])
        q, k, v = (heads(h @ w[f"{name}.{i}"].T) for name in ("wq", "wk", "wv"))
        scores = rope(q) @ rope(k).swapaxes(1, 2) / np.sqrt(head_size) + future
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        x = x + (attention @ v).swapaxes(0, 1).reshape(count, -1) @ w[f"wo.{i}"].T
        h = norm(x, w[f"ffn_norm.{i}"])
        gate = h @ w[f"w1.{i}"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"w3.{i}"].T)) @ w[f"w2.{i}"].T
    return log_softmax(norm(x, w["norm"]) @ w["output"].T)


def log_softmax(logits: npt.NDArray[np.floating]) -> Array:
    shifted: Array = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    total: Array = np.exp(shifted).sum(-1, keepdims=True)
    return shifted - np.log(total)


def greedy(path: str | Path, prompt: Sequence[int], count: int, rms_eps: float) -> list[int]:
    """Return the `count` most likely tokens after the prompt, one after another, never the end of the text."""
    tokens = list(prompt)
    for _ in range(count):
        last = log_probabilities(path, tokens, rms_eps)[-1]
        last[EOS] = -np.inf
        tokens.append(int(last.argmax()))
    return tokens[len(prompt) :]


def read_ggjt_vocabulary(path: str | Path) -> dict[bytes, tuple[int, float]]:
    """Return token and score by the token's text."""
    raw, vocabulary, position = Path(path).read_bytes(), {}, 36
    for token in range(struct.unpack_from("<I", raw, 8)[0]):
        length = struct.unpack_from("<I", raw, position)[0]
        text = raw[position + 4 : position + 4 + length]
        vocabulary[text] = token, struct.unpack_from("<f", raw, position + 4 + length)[0]
        position += 8 + length
    return vocabulary


def tokenize(text: str, vocabulary: dict[bytes, tuple[int, float]]) -> list[int]:
    """Split ASCII text as sentencepiece's BPE does: join the neighbours whose union has the highest score."""
    pieces = [b" ", *(character.encode() for character in text)]
    while True:
        unions = [a + b for a, b in pairwise(pieces)]
        score, at = max((vocabulary.get(union, (0, -math.inf))[1], -at) for at, union in enumerate(unions))
        if score == -math.inf:
            return [vocabulary[piece][0] for piece in pieces]
        pieces[-at : 2 - at] = [unions[-at]]
