"""The llama model in a GGUF file, and the state of its training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import CHECKPOINT_NEEDED
from ggcp_schema.formats.ggcp.checkpoint import is_optimizer
from ggcp_schema.gguf.entries import is_copied
from ggcp_schema.llama import names
from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model, check_no_others
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, ORDERS, Order
from ggcp_schema.llama.rotation import FREQ_BASE
from ggcp_schema.llama.training import Training, modification_date, whole_model
from ggcp_schema.schema.inference import ADAM, LBFGS

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile


def training_of_gguf(gguf: GgufFile) -> Training:
    """Return the state of the training. Raises the damage of a damaged file, `UsageError` if there is no such state."""
    if gguf.damage is not None:
        raise gguf.damage.again()
    check_whole_model(gguf)
    optimizer = gguf.value(names.OPTIMIZER_TYPE)
    if gguf.value(names.TRAINING_TYPE) is None and optimizer is None:
        raise UsageError(f"{gguf.path} is a GGUF file without a training state", CHECKPOINT_NEEDED)
    if optimizer not in (ADAM, LBFGS):
        message = f"{gguf.path}: {names.OPTIMIZER_TYPE} is {_stated(optimizer)}, expected '{ADAM}' or '{LBFGS}'"
        raise UsageError(message, CHECKPOINT_NEEDED)
    model = model_tensors_of(gguf)
    state = {}
    for name, tensor in gguf.tensors.items():
        if name.startswith(f"optimizer.{optimizer}."):
            path = names.field_path(name)
            if path is not None:
                state[path.removeprefix(names.STATE)] = tensor
    n_embd, n_head = integer(gguf, names.EMBEDDING_LENGTH), integer(gguf, names.HEAD_COUNT)
    return Training(
        path=gguf.path,
        source=gguf.source,
        n_vocab=model["tok_embeddings"].shape[-1],
        n_embd=n_embd,
        n_head=n_head,
        n_layer=integer(gguf, names.BLOCK_COUNT),
        n_ff=integer(gguf, names.FEED_FORWARD_LENGTH),
        n_rot=integer(gguf, names.ROPE_DIMENSION_COUNT, n_embd // n_head if n_head else 0),
        freq_base=real(gguf, names.ROPE_FREQ_BASE, FREQ_BASE),
        model=model,
        state=state,
        optimizer=optimizer,
        train_its=integer(gguf, names.TRAINING_ITERATION_COUNT, 0),
        train_samples=integer(gguf, names.TRAINING_SAMPLE_COUNT, 0),
        train_tokens=integer(gguf, names.TRAINING_TOKEN_COUNT, 0),
        iteration=integer(gguf, names.OPTIMIZER_ITERATION_COUNT, 0),
        past=integer(gguf, names.OPTIMIZER_PAST_COUNT, 0),
        n_iter=None,
        rms_eps=stored_epsilon(gguf),
        context_length=stored_context_length(gguf),
        evidence=evidence_of_gguf(gguf),
        orders=orders_of_gguf(gguf),
        begin=_begin(gguf),
        n_threads=_count(gguf, names.CONVERTED_THREADS),
        divided=_count(gguf, names.CONVERTED_SCALE),
        divided_exactly=gguf.value(names.CONVERTED_SCALE_CERTAIN) is True,
        reordered=names.CONVERTED_FROM_ORDER in gguf.key_values,
    )


def orders_of_gguf(gguf: GgufFile) -> tuple[Order, ...]:
    """Return the orders that the flat vectors of a GGUF checkpoint can have.

    Order D is that of programs from November 2023 on, which wrote `training.file_version` 1.
    """
    return CHECKPOINT_ORDERS if gguf.value(names.TRAINING_FILE_VERSION) == 0 else tuple(ORDERS)


def _begin(gguf: GgufFile) -> int | None:
    """Return the id of `<s>`, if the file states a llama tokenizer: it begins every sample."""
    if gguf.value(names.TOKENIZER_MODEL) != "llama":
        return None
    return _count(gguf, names.TOKEN_ID.format("bos"))


def _count(gguf: GgufFile, key: str) -> int | None:
    value = gguf.value(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def evidence_of_gguf(gguf: GgufFile) -> Evidence:
    """Return what a GGUF checkpoint shows of its writer.

    A file that a trainer saved has a context length; one that was converted from a ggcp file has none.
    """
    version = _count(gguf, names.TRAINING_FILE_VERSION)
    recorded = gguf.value(names.CONVERTED_WRITERS)
    certain = gguf.value(names.CONVERTED_EPSILON_CERTAIN)
    return Evidence(
        file_version=version,
        converted=version == 0 and names.CONTEXT_LENGTH not in gguf.key_values,
        recorded=tuple(recorded.split()) if isinstance(recorded, str) else None,
        rms_eps=stored_epsilon(gguf),
        rms_eps_certain=certain if isinstance(certain, bool) else None,
        modified=modification_date(gguf.source),
    )


def stored_epsilon(gguf: GgufFile) -> float | None:
    """Return the epsilon of the RMS norm that a GGUF file states; None if it states none."""
    value = gguf.value(names.RMS_EPSILON)
    return value if isinstance(value, float) else None


def stored_context_length(gguf: GgufFile) -> int | None:
    """Return the context length in tokens that a GGUF file states; None if it states none."""
    value = gguf.value(names.CONTEXT_LENGTH)
    return value if isinstance(value, int) and value > 0 else None


def integer(gguf: GgufFile, key: str, default: int | None = None) -> int:
    """Return the value of a key that is a count. Raises `UsageError` if it is missing or none."""
    value = gguf.value(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{gguf.path}: {key} is {_stated(value)}, expected a count", CHECKPOINT_NEEDED)
    return value


def real(gguf: GgufFile, key: str, default: float) -> float:
    """Return the value of a key that is a finite number. Raises `UsageError` if it is none."""
    value = gguf.value(key, default)
    if not isinstance(value, float) or not math.isfinite(value):
        raise UsageError(f"{gguf.path}: {key} is {_stated(value)}, expected a number", CHECKPOINT_NEEDED)
    return value


def _stated(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


def check_whole_model(gguf: GgufFile) -> None:
    """Check that a GGUF file is of the llama architecture, and not a checkpoint of finetune. Raises `UsageError`."""
    architecture = gguf.value(names.ARCHITECTURE)
    if architecture != "llama":
        message = f"{gguf.path}: {names.ARCHITECTURE} is {_stated(architecture)}, expected 'llama'"
        raise UsageError(message, CHECKPOINT_NEEDED)
    kind = gguf.value(names.TRAINING_TYPE, names.TRAIN_MODEL)
    if kind != names.TRAIN_MODEL:
        what = "a checkpoint of llama.cpp's finetune: it contains a LoRA adapter, not a whole model"
        raise UsageError(f"{gguf.path} ({names.TRAINING_TYPE} {_stated(kind)}) is {what}", CHECKPOINT_NEEDED)


def model_tensors_of(gguf: GgufFile, *, any_type: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a llama model by ggcp path. Raises `UsageError` as `whole_model` does."""
    n_embd, n_layer, n_ff = (
        integer(gguf, key) for key in (names.EMBEDDING_LENGTH, names.BLOCK_COUNT, names.FEED_FORWARD_LENGTH)
    )
    n_head, n_head_kv = head_counts(gguf)
    n_embd_kv = n_embd // n_head * n_head_kv if n_head else n_embd
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    n_vocab = embeddings.shape[-1] if embeddings else 0
    sizes = n_vocab, n_embd, n_layer, n_ff
    return whole_model(gguf.path, gguf.tensors, names.tensor_name, *sizes, n_embd_kv=n_embd_kv, any_type=any_type)


def head_counts(gguf: GgufFile) -> tuple[int, int]:
    """Return the numbers of heads of queries, and of keys and values. Raises `UsageError` if one is no count."""
    n_head = integer(gguf, names.HEAD_COUNT)
    return n_head, integer(gguf, names.HEAD_COUNT_KV, n_head)


def model_of_gguf(gguf: GgufFile) -> Model:
    """Return the model. A damaged file will do if the model is whole; otherwise its damage is raised."""
    try:
        return _of_whole_gguf(gguf)
    except UsageError:
        if gguf.damage is not None:
            n_layer = gguf.value(names.BLOCK_COUNT)
            if not isinstance(n_layer, int):
                raise gguf.damage.again() from None
            gguf.check_whole(sum(not is_optimizer(name) for name in gguf.tensors), 3 + 9 * n_layer)
        raise


def _of_whole_gguf(gguf: GgufFile) -> Model:
    check_whole_model(gguf)
    is_checkpoint = names.TRAINING_TYPE in gguf.key_values or names.OPTIMIZER_TYPE in gguf.key_values
    if names.TOKENS in gguf.key_values and not gguf.container.get("tensor_count"):
        raise UsageError(f"{gguf.path} is a vocabulary", CHECKPOINT_NEEDED)
    tensors = model_tensors_of(gguf, any_type=not is_checkpoint)
    if not is_checkpoint:
        odd = next((finding for finding in gguf.findings if finding.path == "alignment"), None)
        if odd is not None:
            hint = "Set it in a copy: `ggcp-schema edit INPUT OUTPUT general.alignment=32`."
            raise UsageError(f"{gguf.path}: {odd.message}; other programs refuse such a model", hint)
        check_no_others(gguf.path, gguf.tensors, tensors.values())
    n_embd, (n_head, n_head_kv) = integer(gguf, names.EMBEDDING_LENGTH), head_counts(gguf)
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
        n_head_kv=n_head_kv,
        has_vocabulary=names.TOKENS in gguf.key_values,
        context=context_of(
            _count(gguf, names.TRAINING_SAMPLE_COUNT),
            _count(gguf, names.TRAINING_TOKEN_COUNT),
            stored_context_length(gguf),
        ),
        **({} if is_checkpoint else _kept_of(gguf)),
    )


def _kept_of(gguf: GgufFile) -> dict[str, Any]:
    """Return what a model file states beyond its hyper-parameters; the tokenizer is not among it."""
    name, file_type = gguf.value(names.NAME), gguf.value(names.FILE_TYPE)
    others = (entry for key, entry in gguf.key_values.items() if not key.startswith(names.TOKENIZER))
    return {
        "name": name if isinstance(name, str) else None,
        "file_type": file_type if isinstance(file_type, int) and 0 <= file_type < 1 << 32 else 0,
        "kept": tuple(entry for entry in others if is_copied(gguf.path, entry)),
    }
