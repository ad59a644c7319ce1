"""A trained model as the GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import CHECKPOINT_NEEDED, File
from ggcp_schema.formats.ggcp.checkpoint import Checkpoint, is_optimizer
from ggcp_schema.formats.ggcp.training import evidence_of
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.formats.gguf.training import (
    check_whole_model,
    evidence_of_gguf,
    integer,
    model_tensors_of,
    real,
    stored_context_length,
    stored_epsilon,
)
from ggcp_schema.gguf.entries import Entry, KeyValue, stored
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.rotation import FREQ_BASE, rope_entries
from ggcp_schema.llama.tokenizer import n_tokens
from ggcp_schema.mapping.resume import checked_epsilon


@dataclass(frozen=True)
class Model:
    """A model that llama.cpp can run. Raises `UsageError` if it could not.

    Attributes:
        n_rot, freq_base: RoPE turns pair i by `freq_base ** (-2 * i / n_rot)` at each position.
        freq_scale: `rope.scale_linear`.
        tensors: by GGUF name, in the order in which the trainer wrote them.
        evidence: what the file shows of its writer, except what the optimizer's state shows.
        rms_eps: the epsilon of the RMS norm, if the file stores it.
        has_vocabulary: True if the file contains one.
        context_length: in tokens, if the file stores it.
    """

    path: str
    n_vocab: int
    n_embd: int
    n_head: int
    n_layer: int
    n_ff: int
    n_rot: int
    tensors: Mapping[str, Tensor]
    evidence: Evidence
    freq_base: float = FREQ_BASE
    freq_scale: float = 1.0
    rms_eps: float | None = None
    has_vocabulary: bool = False
    context_length: int | None = None

    def __post_init__(self) -> None:
        try:
            rope_entries(self.n_embd, self.n_head, self.n_rot, self.freq_base)
        except UsageError as error:
            raise self._impossible(error.message) from error
        if not self.n_layer:
            raise self._impossible("it has no layers")

    def _impossible(self, why: str) -> UsageError:
        return UsageError(f"{self.path}: {why}", "llama.cpp cannot run this model.")

    @property
    def n_params(self) -> int:
        """The number of parameters."""
        return sum(tensor.n_elements for tensor in self.tensors.values())

    @property
    def rotation(self) -> tuple[int, float]:
        """`rope.dimension_count` and `rope.freq_base`."""
        return rope_entries(self.n_embd, self.n_head, self.n_rot, self.freq_base)


def model_of(file: File) -> Model:
    """Return the model in a ggcp checkpoint, or in a GGUF checkpoint by this package or by a trainer.

    A damaged file will do if the model is whole; otherwise its damage is raised, which says how much is. Raises
    `UsageError` if the file contains no model that llama.cpp could run, or is a model already.
    """
    read = READERS.get(file.format.name)
    if read is None:
        raise file.damage or UsageError(f"{file.path} is a {file.format.title}, not a checkpoint", CHECKPOINT_NEEDED)
    return read(file)


def rescued(file: File, remedy: str) -> GgcpError:
    """Return the damage of a file with what can be done: the remedy if the model is whole, else how much of it is."""
    try:
        model_of(file)
    except GgcpError as error:
        return error
    assert file.damage is not None  # noqa: S101 - the caller has looked
    file.damage.hint = f"All tensors of the model are whole. {remedy}"
    file.damage.option = "partial"
    return file.damage


def _of_checkpoint(ckpt: Checkpoint) -> Model:
    hparams = ckpt.hparams
    _check_count(ckpt, len(ckpt.model_tensors), 3 + 9 * hparams.n_layer)
    return Model(
        path=ckpt.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=ckpt.n_ff or 0,
        n_rot=hparams.n_rot,
        tensors={str(names.tensor_name(path)): tensor for path, tensor in ckpt.model_tensors.items()},
        evidence=evidence_of(ckpt),
    )


def _check_count(file: File, whole: int, total: int) -> None:
    """Check that all tensors of the model are whole. Raises the damage of the file, which is why they are not."""
    if whole < total and file.damage is not None:
        file.damage.hint = (
            f"The model is not whole: the file has {whole:,} of its {total:,} tensors, "
            "which `ggcp-schema extract --partial` can save."
        )
        raise file.damage


def _of_gguf(gguf: GgufFile) -> Model:
    try:
        return _of_whole_gguf(gguf)
    except UsageError:
        if gguf.damage is not None:
            n_layer = gguf.value(names.BLOCK_COUNT)
            if not isinstance(n_layer, int):
                raise gguf.damage from None
            _check_count(gguf, sum(not is_optimizer(name) for name in gguf.tensors), 3 + 9 * n_layer)
        raise


def _of_whole_gguf(gguf: GgufFile) -> Model:
    check_whole_model(gguf)
    is_checkpoint = names.TRAINING_TYPE in gguf.keys or names.OPTIMIZER_TYPE in gguf.keys
    if names.TOKENS in gguf.keys and not is_checkpoint:
        if not gguf.container.get("tensor_count"):
            raise UsageError(f"{gguf.path} is a vocabulary", CHECKPOINT_NEEDED)
        raise UsageError(f"{gguf.path} already is a model", "llama.cpp can run it as it is.")
    tensors = model_tensors_of(gguf)
    n_embd, n_head = integer(gguf, names.EMBEDDING_LENGTH), integer(gguf, names.HEAD_COUNT)
    return Model(
        path=gguf.path,
        n_vocab=tensors["tok_embeddings"].shape[-1],
        n_embd=n_embd,
        n_head=n_head,
        n_layer=integer(gguf, names.BLOCK_COUNT),
        n_ff=integer(gguf, names.FEED_FORWARD_LENGTH),
        n_rot=integer(gguf, names.ROPE_DIMENSION_COUNT, n_embd // n_head if n_head else 0),
        tensors={str(names.tensor_name(path)): tensor for path, tensor in tensors.items()},
        evidence=evidence_of_gguf(gguf),
        freq_base=real(gguf, names.ROPE_FREQ_BASE, FREQ_BASE),
        freq_scale=real(gguf, names.ROPE_SCALE_LINEAR, 1.0),
        rms_eps=stored_epsilon(gguf),
        has_vocabulary=names.TOKENS in gguf.keys,
        context_length=stored_context_length(gguf),
    )


READERS: dict[str, Callable[[Any], Model]] = {"ggcp": _of_checkpoint, "gguf": _of_gguf}


def export_entries(
    model: Model,
    vocabulary: Sequence[KeyValue],
    *,
    context_length: int,
    rms_eps: float,
    name: str | None = None,
) -> list[Entry]:
    """Return the keys and tensors of a model that llama.cpp runs, without the state of the training.

    `vocabulary` is the tokenizer's keys, `context_length` in tokens. Without `name` it is the file's. Raises
    `UsageError` if the vocabulary has another size than the model's, or a number is impossible.
    """
    found = n_tokens(vocabulary)
    if found != model.n_vocab:
        raise UsageError(
            f"the vocabulary has {found} tokens; the model {model.path} was trained with {model.n_vocab}",
            "Use the file that was the trainer's --vocab-model, or one with the same vocabulary.",
        )
    return [
        *hparam_keys(model, context_length),
        KeyValue(names.RMS_EPSILON, "FLOAT32", checked_epsilon(rms_eps)),
        *_general_keys(model, Path(model.path).stem if name is None else name),
        *vocabulary,
        *model_tensors(model),
    ]


def hparam_keys(model: Model, context_length: int | None = None) -> list[KeyValue]:
    """Return the keys that follow from the model; the context length, which no checkpoint stores, if it is given."""
    if context_length is not None and not 0 < context_length < 1 << 32:
        raise UsageError(f"the context length must be between 1 and {(1 << 32) - 1} tokens, got {context_length}")
    dimension_count, freq_base = model.rotation
    counts = {
        names.CONTEXT_LENGTH: context_length,
        names.EMBEDDING_LENGTH: model.n_embd,
        names.FEED_FORWARD_LENGTH: model.n_ff,
        names.HEAD_COUNT: model.n_head,
        names.HEAD_COUNT_KV: model.n_head,
        names.BLOCK_COUNT: model.n_layer,
        names.ROPE_DIMENSION_COUNT: dimension_count,
        names.VOCAB_SIZE: model.n_vocab,
    }
    return [
        KeyValue(names.ARCHITECTURE, "STRING", "llama"),
        KeyValue(names.FILE_TYPE, "UINT32", 0),
        *(KeyValue(key, "UINT32", count) for key, count in counts.items() if count is not None),
        KeyValue(names.ROPE_FREQ_BASE, "FLOAT32", freq_base),
        KeyValue(names.ROPE_SCALE_LINEAR, "FLOAT32", model.freq_scale),
    ]


def _general_keys(model: Model, name: str) -> list[KeyValue]:
    from gguf.constants import GGML_QUANT_VERSION
    from gguf.utility import size_label

    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a file name may be any bytes
    return [
        *([KeyValue(names.NAME, "STRING", text)] if text else []),
        KeyValue(names.SIZE_LABEL, "STRING", size_label(model.n_params, 0, 0, 0)),
        KeyValue(names.QUANTIZATION_VERSION, "UINT32", GGML_QUANT_VERSION),
    ]


def model_tensors(model: Model) -> list[Entry]:
    """Return the model's tensors."""
    return [stored(name, tensor) for name, tensor in model.tensors.items()]
