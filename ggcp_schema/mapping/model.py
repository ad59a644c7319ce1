"""A trained model as the GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.files.pieces import TensorEntry, stored
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import CHECKPOINT_NEEDED, File
from ggcp_schema.formats.ggcp.checkpoint import Checkpoint, is_optimizer
from ggcp_schema.formats.ggcp.training import evidence_of
from ggcp_schema.formats.ggml.file import GgmlFile
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
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.gguf.writer import Gguf
from ggcp_schema.llama import names
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.rotation import FREQ_BASE, rope_entries
from ggcp_schema.llama.tokenizer import n_tokens
from ggcp_schema.llama.training import modification_date, whole_model
from ggcp_schema.mapping.resume import checked_epsilon, is_copied
from ggcp_schema.schema.inference import n_ff_by_formula


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
        file_type: the number for the type of most weights.
        name: the name that a model file stores.
        kept: the other keys of a model file, which the output has too.
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
    file_type: int = 0
    name: str | None = None
    kept: tuple[KeyValue, ...] = ()

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
    """Return the model in a checkpoint, ggcp or GGUF, or in a model file, GGUF, ggjt, ggmf or ggml.

    A damaged file will do if the model is whole; otherwise its damage is raised, which says how much is. Raises
    `UsageError` if the file contains no model that llama.cpp could run.
    """
    read = READERS.get(file.format.name)
    if read is None:
        if file.damage is not None:
            raise file.damage.again()
        raise UsageError(f"{file.path} is a {file.format.title}, not a checkpoint", CHECKPOINT_NEEDED)
    return read(file)


def rescued(file: File, remedy: str) -> GgcpError:
    """Return the damage of a file with what can be done: the remedy if the model is whole, else how much of it is."""
    try:
        model_of(file)
    except GgcpError as error:
        return error
    assert file.damage is not None  # noqa: S101 - the caller has looked
    return file.damage.with_hint(f"All tensors of the model are whole. {remedy}", "partial")


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
        raise file.damage.with_hint(
            f"The model is not whole: the file has {whole:,} of its {total:,} tensors, "
            "which `ggcp-schema extract --partial` can save."
        )


def _of_gguf(gguf: GgufFile) -> Model:
    try:
        return _of_whole_gguf(gguf)
    except UsageError:
        if gguf.damage is not None:
            n_layer = gguf.value(names.BLOCK_COUNT)
            if not isinstance(n_layer, int):
                raise gguf.damage.again() from None
            _check_count(gguf, sum(not is_optimizer(name) for name in gguf.tensors), 3 + 9 * n_layer)
        raise


def _of_whole_gguf(gguf: GgufFile) -> Model:
    check_whole_model(gguf)
    is_checkpoint = names.TRAINING_TYPE in gguf.key_values or names.OPTIMIZER_TYPE in gguf.key_values
    if names.TOKENS in gguf.key_values and not gguf.container.get("tensor_count"):
        raise UsageError(f"{gguf.path} is a vocabulary", CHECKPOINT_NEEDED)
    tensors = model_tensors_of(gguf, any_type=not is_checkpoint)
    if not is_checkpoint:
        _check_no_others(gguf, tensors.values())
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
        has_vocabulary=names.TOKENS in gguf.key_values,
        context_length=stored_context_length(gguf),
        **({} if is_checkpoint else _kept_of(gguf)),
    )


def _kept_of(gguf: GgufFile) -> dict[str, Any]:
    """Return what a model file states beyond its hyper-parameters; the tokenizer is not among it."""
    name, file_type = gguf.value(names.NAME), gguf.value(names.FILE_TYPE)
    others = (entry for key, entry in gguf.key_values.items() if not key.startswith(names.TOKENIZER))
    return {
        "name": name if isinstance(name, str) else None,
        "file_type": file_type if isinstance(file_type, int) and 0 <= file_type < 1 << 32 else 0,
        "kept": tuple(entry for entry in others if is_copied(gguf, entry)),
    }


def _check_no_others(file: File, tensors: Collection[Tensor]) -> None:
    """Check that a model has no tensors but these: without the others it would be another model."""
    known = {tensor.path for tensor in tensors}
    for name in file.tensors:
        if name not in known:
            raise UsageError(f"{file.path}: tensor {name} is none of a llama model as the trainers wrote it", EXPORTED)


EXPORTED = "Only models with the tensors of the trainers' models are exported."


def _of_ggml(file: GgmlFile) -> Model:
    """Return the model of a file before GGUF, whose quantized tensors must be of a type that GGUF stores alike."""
    hparams = file.hparams
    _check_count(file, len(file.tensors), 3 + 9 * hparams.n_layer)
    if not file.tensors:
        raise UsageError(f"{file.path} is a vocabulary", CHECKPOINT_NEEDED)
    w1 = file.tensors.get(str(names.llama_name("layers[0].w1")))
    n_ff = w1.shape[-1] if w1 else 0
    tensors = whole_model(
        file.path, file.tensors, names.llama_name, hparams.n_vocab, hparams.n_embd, hparams.n_layer, n_ff, any_type=True
    )
    _check_no_others(file, tensors.values())
    for tensor in tensors.values():
        if tensor.type not in file.types_of_gguf:
            version = f" version {file.container['version']}" if "version" in file.container else ""
            raise UsageError(
                f"{file.path}: tensor {tensor.name} is {tensor.type} as {file.format.name}{version} stores it; "
                "GGUF's blocks of this type are different ones, or it has none",
                "Quantize the model again from the file with F16 or F32 weights that this one was made from.",
            )
    is_f32 = all(tensor.type == "F32" for tensor in tensors.values())
    return Model(
        path=file.path,
        n_vocab=hparams.n_vocab,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_layer=hparams.n_layer,
        n_ff=n_ff,
        n_rot=hparams.n_rot,
        tensors={str(names.tensor_name(path)): tensor for path, tensor in tensors.items()},
        evidence=Evidence(
            first_tensor=next(iter(file.tensors)),
            n_mult=hparams.n_mult,
            n_ff=n_ff,
            n_ff_by_formula=n_ff_by_formula(hparams.n_embd, hparams.n_mult),
            modified=modification_date(file.source),
        ),
        has_vocabulary=True,
        file_type=0 if is_f32 else file.container["ftype"],
    )


READERS: dict[str, Callable[[Any], Model]] = {
    "ggcp": _of_checkpoint,
    "gguf": _of_gguf,
    "ggjt": _of_ggml,
    "ggmf": _of_ggml,
    "ggml": _of_ggml,
}


def model_content(
    model: Model,
    vocabulary: Sequence[KeyValue],
    *,
    context_length: int,
    rms_eps: float,
    name: str | None = None,
) -> Gguf:
    """Return the keys and tensors of a model that llama.cpp runs, without the state of the training.

    `vocabulary` is the tokenizer's keys, `context_length` in tokens. If `name` is None, the model gets the name that
    its file stores, or else that of the file. Raises `UsageError` if the vocabulary has another size than the model's,
    or a number is impossible.
    """
    found = n_tokens(vocabulary)
    if found != model.n_vocab:
        raise UsageError(
            f"the vocabulary has {found} tokens; the model {model.path} was trained with {model.n_vocab}",
            "Use the file that was the trainer's --vocab-model, or one with the same vocabulary.",
        )
    if name is None:
        name = Path(model.path).stem if model.name is None else model.name
    keys = [
        *hparam_keys(model, context_length),
        KeyValue(names.RMS_EPSILON, "FLOAT32", checked_epsilon(rms_eps)),
        *_general_keys(model, name),
        *vocabulary,
    ]
    written = {entry.key for entry in keys} | {names.NAME}
    return Gguf([*keys, *(entry for entry in model.kept if entry.key not in written)], model_tensors(model))


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
        KeyValue(names.FILE_TYPE, "UINT32", model.file_type),
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


def model_tensors(model: Model) -> list[TensorEntry]:
    """Return the model's tensors."""
    return [stored(name, tensor) for name, tensor in model.tensors.items()]
