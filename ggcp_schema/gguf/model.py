"""A trained model as the GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.errors import UsageError
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import Entry, KeyValue, RawTensor, TensorEntry
from ggcp_schema.gguf.reader import GgufFile
from ggcp_schema.gguf.resume import RMS_EPS, checked_epsilon
from ggcp_schema.gguf.vocabulary import n_tokens
from ggcp_schema.schema import CHECKPOINT, LAYER
from ggcp_schema.schema.tensor import TensorRecord
from ggcp_schema.source import Tensor

FREQ_BASE = 10000.0
NO_ROTATION = 1e30  # divides the angle: what is left of it is no rotation in float32


@dataclass(frozen=True)
class Model:
    """The hyper-parameters, and the tensors by GGUF name in the order in which the trainer wrote them.

    `rms_eps` is None where the file does not state it, as no ggcp file does. Raises `UsageError` if llama.cpp
    could not run such a model.
    """

    path: str
    n_vocab: int
    n_embd: int
    n_head: int
    n_layer: int
    n_rot: int
    n_ff: int
    tensors: Mapping[str, Tensor]
    rms_eps: float | None = None
    freq_base: float = FREQ_BASE
    freq_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.n_head or self.n_embd % self.n_head:
            raise self._impossible(f"n_embd {self.n_embd} cannot be shared among n_head {self.n_head} heads")
        if not self.n_layer:
            raise self._impossible("it has no layers")
        if self.head_size % 2 or self.n_rot % 2:
            raise self._impossible(f"RoPE turns pairs, and n_rot {self.n_rot} or head size {self.head_size} is odd")
        if self.n_rot > self.head_size:
            raise self._impossible(f"n_rot {self.n_rot} is more than the head size {self.head_size}")
        if not 1 <= self.freq_base < math.inf:
            raise self._impossible(f"the base {self.freq_base} of RoPE's frequencies makes no sense")

    def _impossible(self, why: str) -> UsageError:
        return UsageError(f"{self.path}: {why}", "llama.cpp cannot run such a model.")

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_params(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors.values())


def model_of(source: Checkpoint | GgufFile) -> Model:
    """The model in a ggcp checkpoint, or in the GGUF checkpoint that training resumes from."""
    return _of_checkpoint(source) if isinstance(source, Checkpoint) else _of_gguf(source)


def _of_checkpoint(ckpt: Checkpoint) -> Model:
    hparams = ckpt.hparams
    return Model(
        path=ckpt.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_rot=hparams.n_rot,
        n_ff=ckpt.n_ff or 0,
        tensors={str(keys.tensor_name(path)): tensor for path, tensor in ckpt.model_tensors.items()},
    )


def _of_gguf(gguf: GgufFile) -> Model:
    """Checks what a GGUF file, unlike a checkpoint, may lack. Raises `UsageError`."""

    def number(key: str, kind: type[int] | type[float] = int, default: float | None = None) -> Any:
        value: Any = gguf.keys[key].value if key in gguf.keys else default
        if not isinstance(value, kind) or value < 0:
            raise UsageError(f"{gguf.path}: has no number {key}", "Give a checkpoint of train-text-from-scratch.")
        return value

    if keys.TOKENS in gguf.keys:
        raise UsageError(f"{gguf.path}: has a vocabulary: it is a model already", "llama.cpp runs it as it is.")
    n_embd, n_layer, n_ff = map(number, (keys.EMBEDDING_LENGTH, keys.BLOCK_COUNT, keys.FEED_FORWARD_LENGTH))
    embeddings = gguf.tensors.get(str(keys.tensor_name("tok_embeddings")))
    n_vocab = embeddings.shape[-1] if embeddings else 0
    tensors = {}
    for path, shape in _shapes(n_vocab, n_embd, n_layer, n_ff):
        name = str(keys.tensor_name(path))
        tensor = gguf.tensors.get(name)
        if tensor is None or (tensor.type, tensor.shape) != ("F32", shape):
            found = f"{tensor.type} {list(tensor.shape)}, not F32 {list(shape)}" if tensor else "missing"
            raise UsageError(f"{gguf.path}: tensor {name} is {found}", "Give the checkpoint of a whole llama model.")
        tensors[name] = tensor
    return Model(
        path=gguf.path,
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_head=number(keys.HEAD_COUNT),
        n_layer=n_layer,
        n_rot=number(keys.ROPE_DIMENSION_COUNT),
        n_ff=n_ff,
        tensors=tensors,
        rms_eps=number(keys.RMS_EPSILON, float) if keys.RMS_EPSILON in gguf.keys else None,
        freq_base=number(keys.ROPE_FREQ_BASE, float, FREQ_BASE),
        freq_scale=number(keys.ROPE_SCALE_LINEAR, float, 1.0),
    )


def _shapes(n_vocab: int, n_embd: int, n_layer: int, n_ff: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The model's tensors by field path, in file order, with their shapes in ggml order: those of the schema."""
    known = {"hparams": {"n_vocab": n_vocab, "n_embd": n_embd}, "_params": {"n_ff": n_ff}}
    for prefix, record in (("", CHECKPOINT), *((f"layers[{i}].", LAYER) for i in range(n_layer))):
        for name, field in record.fields:
            if isinstance(field, TensorRecord):
                yield f"{prefix}{name}", tuple(dim(known) for dim in field.shape)


def export_entries(
    model: Model,
    vocabulary: Sequence[KeyValue],
    *,
    context_length: int,
    rms_eps: float | None = None,
    name: str | None = None,
) -> list[Entry]:
    """The keys and tensors of a model that llama.cpp runs; no state of the training.

    `vocabulary` is the tokenizer's keys, `context_length` in tokens. Without `rms_eps` it is what the file states,
    else 1e-5; without `name` it is the file's. Raises `UsageError` if the vocabulary has another size than the
    model's, or a number makes no sense.
    """
    found = n_tokens(vocabulary)
    if found != model.n_vocab:
        raise UsageError(
            f"the vocabulary has {found} tokens; the model {model.path} was trained with {model.n_vocab}",
            "Give the file that the trainer was given as --vocab-model, or another with the same vocabulary.",
        )
    return [
        *hparam_keys(model, context_length),
        KeyValue(keys.RMS_EPSILON, "FLOAT32", epsilon(model, rms_eps)),
        *_general_keys(model, Path(model.path).stem if name is None else name),
        *vocabulary,
        *model_tensors(model),
    ]


def epsilon(model: Model, rms_eps: float | None) -> float:
    """The epsilon of the RMS norm: what is asked for, else what the file states, else 1e-5. Raises `UsageError`."""
    return checked_epsilon(next(eps for eps in (rms_eps, model.rms_eps, RMS_EPS) if eps is not None))


def hparam_keys(model: Model, context_length: int | None = None) -> list[KeyValue]:
    """The keys that follow from the model; the context length, which no checkpoint states, if it is given."""
    if context_length is not None and not 0 < context_length < 1 << 32:
        raise UsageError(f"a context of {context_length} tokens makes no sense")
    counts = {
        keys.CONTEXT_LENGTH: context_length,
        keys.EMBEDDING_LENGTH: model.n_embd,
        keys.FEED_FORWARD_LENGTH: model.n_ff,
        keys.HEAD_COUNT: model.n_head,
        keys.HEAD_COUNT_KV: model.n_head,
        keys.BLOCK_COUNT: model.n_layer,
        keys.ROPE_DIMENSION_COUNT: model.head_size,  # llama.cpp takes no other; see rope_factors
        keys.VOCAB_SIZE: model.n_vocab,
    }
    return [
        KeyValue(keys.ARCHITECTURE, "STRING", "llama"),
        KeyValue(keys.FILE_TYPE, "UINT32", 0),
        *(KeyValue(key, "UINT32", count) for key, count in counts.items() if count is not None),
        KeyValue(keys.ROPE_FREQ_BASE, "FLOAT32", model.freq_base),
        KeyValue(keys.ROPE_SCALE_LINEAR, "FLOAT32", model.freq_scale),
    ]


def _general_keys(model: Model, name: str) -> list[KeyValue]:
    from gguf.constants import GGML_QUANT_VERSION
    from gguf.utility import size_label

    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a file's name may be any bytes
    return [
        *([KeyValue(keys.NAME, "STRING", text)] if text else []),
        KeyValue(keys.SIZE_LABEL, "STRING", size_label(model.n_params, 0, 0, 0)),
        KeyValue(keys.QUANTIZATION_VERSION, "UINT32", GGML_QUANT_VERSION),
    ]


def model_tensors(model: Model) -> list[TensorEntry]:
    """The model's tensors; where only a part of each head is rotated, also `rope_freqs.weight`."""
    tensors = [TensorEntry(name, tensor) for name, tensor in model.tensors.items()]
    if model.n_rot < model.head_size:
        factors = rope_factors(model.head_size, model.n_rot, model.freq_base)
        data = struct.pack(f"<{len(factors)}f", *factors)
        tensors.append(TensorEntry(keys.ROPE_FREQS, RawTensor((len(factors),), data)))
    return tensors


def rope_factors(head_size: int, n_rot: int, freq_base: float = FREQ_BASE) -> list[float]:
    """What divides the angle of each pair of a head, so that llama.cpp, which rotates whole heads, turns the first
    `n_rot` dimensions as the trainer did and leaves the others."""
    return [
        math.pow(freq_base, 2 * i / n_rot - 2 * i / head_size) if i < n_rot // 2 else NO_ROTATION
        for i in range(head_size // 2)
    ]
