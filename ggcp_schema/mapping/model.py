"""A trained model as the GGUF model that present-day llama.cpp runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import TensorEntry, stored
from ggcp_schema.formats.file import REPAIR, File
from ggcp_schema.formats.state import is_repairable
from ggcp_schema.llama import names
from ggcp_schema.llama.model import Model
from ggcp_schema.mapping.gguf import Gguf

if TYPE_CHECKING:
    from ggcp_schema.llama.vocabulary import Vocabulary


def rescued(file: File, remedy: str) -> GgcpError:
    """Return the damage with a hint: the remedy if the model is whole, otherwise how much of it is left.

    If the file holds an adapter instead of a model, it is the adapter that has to be whole.
    """
    part = "adapter" if file.has_adapter else "model"
    try:
        file.adapter() if file.has_adapter else file.model()
    except GgcpError as error:
        return error
    assert file.damage is not None  # noqa: S101 - the caller has looked
    better = f" Before that, {REPAIR}" if is_repairable(file) else ""
    return file.damage.with_hint(f"All tensors of the {part} are whole. {remedy}{better}", "partial")


def model_content(
    model: Model, vocabulary: Vocabulary, context_length: int, rms_eps: float, name: str | None = None
) -> Gguf:
    """Return the keys and tensors of a model that llama.cpp runs, without the state of the training.

    `context_length` is in tokens, `name` that of `name_of`.
    """
    keys = [
        *hparam_keys(model, context_length),
        KeyValue(names.RMS_EPSILON, "FLOAT32", rms_eps),
        *_general_keys(model, name_of(model, name)),
        *vocabulary.keys,
    ]
    written = {entry.key for entry in keys} | {names.NAME}
    return Gguf([*keys, *(entry for entry in model.kept if entry.key not in written)], model_tensors(model))


def check_vocabulary(model: Model, vocabulary: Vocabulary) -> None:
    """Check that the vocabulary has as many tokens as the model. Raises `UsageError`."""
    if vocabulary.n_tokens != model.n_vocab:
        raise UsageError(
            f"the vocabulary has {vocabulary.n_tokens} tokens; the model {model.path} was trained with {model.n_vocab}",
            "Use the file that was the trainer's --vocab-model, or one with the same vocabulary.",
        )


def name_of(model: Model, stated: str | None) -> str:
    """Return the name of a model: as stated, or else as its file stores it, or the name of the file."""
    name = stated
    if name is None:
        name = Path(model.path).stem if model.name is None else model.name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a file name may be any bytes


def hparam_keys(model: Model, context_length: int | None = None) -> list[KeyValue]:
    """Return the keys that follow from the model; the context length, which no checkpoint stores, if it is given."""
    dimension_count, freq_base = model.rotation
    counts = {
        names.CONTEXT_LENGTH: context_length,
        names.EMBEDDING_LENGTH: model.n_embd,
        names.FEED_FORWARD_LENGTH: model.n_ff,
        names.HEAD_COUNT: model.n_head,
        names.HEAD_COUNT_KV: model.n_head if model.n_head_kv is None else model.n_head_kv,
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

    return [
        *([KeyValue(names.NAME, "STRING", name)] if name else []),
        KeyValue(names.SIZE_LABEL, "STRING", size_label(model.n_params, 0, 0, 0)),
        KeyValue(names.QUANTIZATION_VERSION, "UINT32", GGML_QUANT_VERSION),
    ]


def model_tensors(model: Model) -> list[TensorEntry]:
    """Return the model's tensors."""
    return [stored(str(names.tensor_name(path)), tensor) for path, tensor in model.tensors.items()]
