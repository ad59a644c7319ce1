"""Files of every format of a few hundred to a few thousand bytes, of which a search can look at many."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from math import prod

from tests.builder import build_checkpoint, build_ggml, build_gguf
from tests.fuzz.seeds import ADAM_KEYS
from tests.helpers import FIXTURES
from tests.lora.lora_files import ggla

N_VOCAB, N_EMBD, N_FF = 5, 4, 8
TOKENS = ((b"<unk>", 0.0), (b"<s>", 0.0), (b"</s>", 0.0), (b"\0", 0.0), (b" a", -1.5))
TENSORS = (("tok_embeddings.weight", (N_EMBD, 5), 0, bytes(80)), ("norm.weight", (N_EMBD,), 0, bytes(16)))
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10


def _finetune() -> bytes:
    """A ggcl checkpoint of rank 1."""
    out = bytearray(struct.pack("<11I", 0x6767636C, 0, 3, 12, 192, N_VOCAB, N_EMBD, 32, 2, 1, 2))
    out += struct.pack("<12I", *[1] * 12)
    sizes = {"tok_embeddings": (N_EMBD, N_VOCAB), "norm": (N_EMBD, 1), "output": (N_EMBD, N_VOCAB)}
    layer = {"attention_norm": (N_EMBD, 1)} | dict.fromkeys(("wq", "wk", "wv", "wo"), (N_EMBD, N_EMBD))
    layer |= {"ffn_norm": (N_EMBD, 1), "w1": (N_EMBD, N_FF), "w2": (N_FF, N_EMBD), "w3": (N_EMBD, N_FF)}
    sizes |= {f"layers.0.{name}": size for name, size in layer.items()}
    shapes = [((1, n), f"{name}.weight.lora{part}") for name, pair in sizes.items() for part, n in zip("AB", pair)]
    nx = sum(prod(shape) for shape, _ in shapes)
    for shape, name in shapes:
        _tensor(out, shape, name)
    out += struct.pack("<3IqiI", 1, 0, 0, nx, 3, 0)
    for moments in ((nx,), (nx,), ()):
        _tensor(out, moments, "")
    return bytes(out + struct.pack("<2fi", 5.5, 5.75, 1))


def _tensor(out: bytearray, shape: tuple[int, ...], name: str) -> None:
    out += struct.pack(f"<3I{len(shape)}I", len(shape), len(name), 0, *shape) + name.encode()
    out += bytes(-len(out) % 32) + struct.pack("<f", 0.5) * (prod(shape) if shape else 0)


def _model(order: str) -> bytes:
    """A GGUF file with a vocabulary, a key of each type, and two tensors."""
    numbers = {"context_length": 16, "embedding_length": N_EMBD, "block_count": 1, "feed_forward_length": N_FF}
    numbers |= {"attention.head_count": 2, "rope.dimension_count": 2}
    keys = [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "a name"),
        *((f"llama.{key}", UINT32, value) for key, value in numbers.items()),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, ["<unk>", "<s>", "</s>", "<0x00>", "▁a"])),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT32, [0.0, 0.0, 0.0, 0.0, -1.5])),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [2, 3, 3, 6, 1])),
        ("tokenizer.ggml.add_bos_token", BOOL, 1),
        *((f"of.type.{kind}", kind, 1) for kind in (*range(6), 10, 11, 12)),
    ]
    tensors = (("token_embd.weight", (N_EMBD, 5), 0, bytes(80)), ("output_norm.weight", (N_EMBD,), 1, bytes(8)))
    return build_gguf(keys, tensors, order=order)


def _resume() -> bytes:
    """A resume checkpoint of Adam, without the model."""
    counts = ("training.iteration_count", "training.sample_count", "training.token_count")
    keys = [
        ("general.architecture", STRING, "llama"),
        ("llama.embedding_length", UINT32, N_EMBD),
        ("llama.attention.head_count", UINT32, 2),
        ("llama.block_count", UINT32, 0),
        ("llama.rope.dimension_count", UINT32, 2),
        ("training.file_version", UINT32, 0),
        ("training.type", STRING, "train_model"),
        *((key, UINT32, 3) for key in counts),
        ("optimizer.file_version", UINT32, 0),
        ("optimizer.convergence_past_count", UINT32, 0),
        ("optimizer.parameter_count", UINT64, 44),
        *ADAM_KEYS,
    ]
    shapes = {"token_embd.weight": (4, 5), "output_norm.weight": (4,), "output.weight": (4, 5)}
    shapes |= {"optimizer.adam.first_moments": (44,), "optimizer.adam.second_moments": (44,)}
    return build_gguf(keys, [(name, shape, 0, bytes(4 * prod(shape))) for name, shape in shapes.items()])


LITTLE: dict[str, Callable[[], bytes]] = {
    "v0-adam": lambda: build_checkpoint(layout="v0", past=2),
    "v0-lbfgs": lambda: build_checkpoint(layout="v0", optimizer="lbfgs"),
    "v1-adam": build_checkpoint,
    "v1-lbfgs": lambda: build_checkpoint(optimizer="lbfgs", past=2),
    "v1-raw": lambda: build_checkpoint(layout="v1-raw-params"),
    "ggcl": _finetune,
    "ggla": lambda: ggla({"blk.0.attn_q": ((2, N_EMBD), (2, N_EMBD)), "norm": ((1, N_EMBD), (1, 1))}),
    "gguf": lambda: _model("<"),
    "gguf-big": lambda: _model(">"),
    "gguf-1": (FIXTURES / "strange/v1-alice-vocab.gguf").read_bytes,
    "resume": _resume,
    "ggjt": lambda: build_ggml(b"tjgg", 3, tokens=TOKENS, tensors=TENSORS),
    "ggmf": lambda: build_ggml(b"fmgg", 1, tokens=TOKENS, tensors=TENSORS),
    "ggml": lambda: build_ggml(b"lmgg", None, tokens=TOKENS, tensors=TENSORS),
}


@cache
def little(name: str) -> bytes:
    """The bytes of a little file."""
    return LITTLE[name]()
