"""The good files that recipes start from: fixtures, and small files of every layout made with `struct`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from tests.builder import build_checkpoint
from tests.helpers import FIXTURES
from tests.vocabularies import GGML_KINDS, ggml_file, sentencepiece_model, tokenizer_keys, tokens

N_VOCAB, N_EMBD, N_FF = 320, 4, 8  # the fixtures' vocabulary, so that the small models can be exported
UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 6, 7, 8, 9, 10
FORMATS = {4: "I", 5: "i", 6: "f", 7: "B", 10: "Q"}
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")
Entry = tuple[str, int, Any]
ADAM_KEYS: tuple[Entry, ...] = (  # of a resume checkpoint, but for the counts of parameters and past losses
    ("optimizer.iteration_count", UINT32, 3),
    ("optimizer.just_initialized", BOOL, 0),
    ("optimizer.type", STRING, "adam"),
    ("optimizer.adam.best_loss", FLOAT32, 5.5),
    ("optimizer.adam.previous_loss", FLOAT32, 5.75),
    ("optimizer.adam.no_improvement_count", UINT32, 1),
)


def _checkpoint(layout: str, optimizer: str, past: int = 0, n_layer: int = 1) -> Callable[[], bytes]:
    return lambda: build_checkpoint(
        layout=layout, optimizer=optimizer, past=past, n_vocab=N_VOCAB, n_embd=N_EMBD, n_layer=n_layer, n_mult=N_FF
    )


def _resume(byte_order: str) -> bytes:
    """A resume checkpoint with Adam's state, the keys and tensors in the order of the trainers."""
    sizes = {"embedding_length": 4, "attention.head_count": 2, "block_count": 1, "rope.dimension_count": 2}
    counts = {"training.iteration_count": 3, "training.sample_count": 12, "training.token_count": 192}
    nx = 2 * N_VOCAB * N_EMBD + 3 * N_EMBD + 4 * N_EMBD**2 + 3 * N_EMBD * N_FF
    entries: list[Entry] = [
        ("general.architecture", STRING, "llama"),
        ("general.file_type", UINT32, 0),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("training.file_version", UINT32, 0),
        ("training.type", STRING, "train_model"),
        *((key, UINT32, value) for key, value in counts.items()),
        *((f"llama.{key}", UINT32, value) for key, value in sizes.items()),
        ("llama.feed_forward_length", UINT32, N_FF),
        ("optimizer.file_version", UINT32, 0),
        ("optimizer.convergence_past_count", UINT32, 2),
        ("optimizer.parameter_count", UINT64, nx),
        *ADAM_KEYS,
    ]
    state = {"first_moments": (nx,), "second_moments": (nx,), "past_loss_values": (2,)}
    tensors = _model_tensors() + [(f"optimizer.adam.{name}", shape) for name, shape in state.items()]
    return gguf_file(entries, tensors, byte_order)


def _model_tensors() -> list[tuple[str, tuple[int, ...]]]:
    square, wide = (N_EMBD, N_EMBD), (N_EMBD, N_FF)
    shapes: Iterable[tuple[int, ...]] = (
        *((N_EMBD,), square, square, square, square),
        *((N_EMBD,), wide, (N_FF, N_EMBD), wide),
    )
    return [
        ("token_embd.weight", (N_EMBD, N_VOCAB)),
        ("output_norm.weight", (N_EMBD,)),
        ("output.weight", (N_EMBD, N_VOCAB)),
        *((f"blk.0.{name}.weight", shape) for name, shape in zip(LAYER, shapes, strict=True)),
    ]


def _model(byte_order: str) -> bytes:
    """A model as llama.cpp runs it, with the fixtures' vocabulary."""
    texts, scores, types = (tokenizer_keys()[f"tokenizer.ggml.{key}"][1] for key in ("tokens", "scores", "token_type"))
    numbers = {"context_length": 16, "embedding_length": N_EMBD, "block_count": 1, "feed_forward_length": N_FF}
    numbers |= {"attention.head_count": 2, "attention.head_count_kv": 2, "rope.dimension_count": 2}
    entries: list[Entry] = [
        ("general.architecture", STRING, "llama"),
        *((f"llama.{key}", UINT32, value) for key, value in numbers.items()),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, texts)),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT32, scores)),
        ("tokenizer.ggml.token_type", ARRAY, (5, types)),
    ]
    return gguf_file(entries, _model_tensors(), byte_order)


def gguf_file(entries: Sequence[Entry], tensors: Sequence[tuple[str, tuple[int, ...]]], byte_order: str) -> bytes:
    """A GGUF file of version 3 with random F32 tensors of these shapes, in ggml order."""
    order = "<" if byte_order == "little" else ">"

    def string(text: str) -> bytes:
        return struct.pack(order + "Q", len(text.encode())) + text.encode()

    def value(kind: int, content: Any) -> bytes:
        if kind == STRING:
            return string(content)
        if kind == ARRAY:
            element, items = content
            return struct.pack(order + "IQ", element, len(items)) + b"".join(value(element, item) for item in items)
        return struct.pack(order + FORMATS[kind], content)

    out = b"GGUF" + struct.pack(order + "IQQ", 3, len(tensors), len(entries))
    for key, kind, content in entries:
        out += string(key) + struct.pack(order + "I", kind) + value(kind, content)
    data, rng = b"", np.random.default_rng(7)
    for name, shape in tensors:
        out += string(name) + struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += rng.random(prod(shape), np.float32).astype(order + "f4").tobytes()
        data += bytes(-len(data) % 32)
    return out + bytes(-len(out) % 32) + data


def _ggjt_model(kind: str) -> Callable[[], bytes]:
    """A model before GGUF: the vocabulary with two tensors after it."""

    def make() -> bytes:
        out = ggml_file(*GGML_KINDS[kind])
        for name, shape in ((b"tok_embeddings.weight", (4, 3)), (b"norm.weight", (4,))):
            out += struct.pack(f"<3I{len(shape)}I", len(shape), len(name), 0, *shape) + name
            out += bytes(-len(out) % 32) if kind.startswith("ggjt") else b""
            out += np.arange(prod(shape), dtype="<f4").tobytes()
        return out

    return make


SEEDS: dict[str, Callable[[], bytes]] = {
    "tiny-v0-adam": _checkpoint("v0", "adam"),
    "tiny-v0-adam-past": _checkpoint("v0", "adam", past=3),
    "tiny-v0-lbfgs": _checkpoint("v0", "lbfgs", past=2),
    "tiny-v1-adam": _checkpoint("v1", "adam", n_layer=2),
    "tiny-v1-adam-past": _checkpoint("v1", "adam", past=3),
    "tiny-v1-lbfgs": _checkpoint("v1", "lbfgs"),
    "tiny-v1-raw-adam": _checkpoint("v1-raw-params", "adam"),
    "tiny-v1-raw-lbfgs": _checkpoint("v1-raw-params", "lbfgs", past=2),
    "tiny-no-layers": _checkpoint("v1", "adam", n_layer=0),
    "tiny-resume-little": lambda: _resume("little"),
    "tiny-resume-big": lambda: _resume("big"),
    "tiny-model-little": lambda: _model("little"),
    "tiny-model-big": lambda: _model("big"),
    **{f"tiny-{kind}": (lambda kind=kind: ggml_file(*GGML_KINDS[kind])) for kind in GGML_KINDS},  # type: ignore[misc]
    **{f"tiny-{kind}-model": _ggjt_model(kind) for kind in GGML_KINDS},
    "tiny-sentencepiece": lambda: sentencepiece_model(tokens()),
}
GENUINE = (
    "v1-adam-past5.ggcp",
    "v1-adam-raw-params.ggcp",
    "v1-lbfgs.ggcp",
    "twin-ff48.v1.ggcp",
    "twin-adam.v0.ggcp",
    "orders/aug-B-3.ggcp",
    "orders/jun-B-3.ggcp",
)
SMALL = (*SEEDS, *GENUINE, "vocab.gguf", "vocab.ggjt", "alice-tokenizer.model")


@cache
def seed(name: str) -> bytes:
    """The bytes of a seed: one of SEEDS, or the name of a file in fixtures/."""
    return SEEDS[name]() if name in SEEDS else (FIXTURES / name).read_bytes()
