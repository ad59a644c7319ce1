"""What a GGUF file means: a llama model, the state of its training, an adapter, a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import UsageError
from ggcp_schema.files.key_values import KeyValue, is_copied
from ggcp_schema.formats.file import ACCEPTED, CHECKPOINT_NEEDED
from ggcp_schema.formats.gguf.contents import TOKENIZERS, check_not_split
from ggcp_schema.formats.gguf.keys import Keys, shown
from ggcp_schema.formats.vocabularies import check_damage, items_of
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter, needs_base, pairs_of
from ggcp_schema.llama.context import context_of
from ggcp_schema.llama.eras import Evidence
from ggcp_schema.llama.model import Model, check_no_others
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, ORDERS, Order
from ggcp_schema.llama.rotation import FREQ_BASE
from ggcp_schema.llama.training import Training, modification_date, whole_model
from ggcp_schema.llama.vocabulary import NO_SCORES, NO_TYPES, Vocabulary, damaged, is_id, key_type, shown_text
from ggcp_schema.schema.inference import ADAM, LBFGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.formats.gguf.file import GgufFile

SIZES = (names.EMBEDDING_LENGTH, names.BLOCK_COUNT, names.FEED_FORWARD_LENGTH, names.HEAD_COUNT)
NEEDED = {
    **dict.fromkeys((names.CONTEXT_LENGTH, *SIZES), "UINT32"),
    names.RMS_EPSILON: "FLOAT32",
    names.TOKENIZER_MODEL: "STRING",
}
"""The keys without which llama.cpp loads no llama, and their types; of some, arrays have a number for each layer."""
OF_NO_MODEL = {f"gguf-{kind}" for kind in ("adapter", "mmproj", "imatrix", "controlvector")}
NO_TOKEN = 0xFFFFFFFF  # the id by which the trainers say that there is no such token


def training_of_gguf(gguf: GgufFile) -> Training:
    """Return the state of the training. Raises the damage of a damaged file, `UsageError` if there is no such state."""
    if gguf.damage is not None:
        raise gguf.damage.again()
    check_whole_model(gguf)
    keys, optimizer = Keys(gguf), gguf.value(names.OPTIMIZER_TYPE)
    if gguf.value(names.TRAINING_TYPE) is None and optimizer is None:
        raise UsageError(f"{gguf.path} is a GGUF file without a training state", CHECKPOINT_NEEDED)
    if optimizer not in (ADAM, LBFGS):
        raise keys.unexpected(names.OPTIMIZER_TYPE, f"'{ADAM}' or '{LBFGS}'")
    model = gguf.stored_model
    paths = {names.field_path(name): tensor for name, tensor in gguf.tensors.items() if f".{optimizer}." in name}
    state = {path.removeprefix(names.STATE): tensor for path, tensor in paths.items() if path}
    return _training(gguf, model, state, optimizer)


def training_of_model(gguf: GgufFile) -> Training:
    """Return a training without an optimizer's state. Raises the damage if the model or a header is not whole."""
    model = model_of_gguf(gguf)
    if gguf.damage is not None and not (
        gguf.damage.path.startswith("tensor_data") and names.TRAINING_TYPE in gguf.key_values
    ):
        raise gguf.damage.again()
    return _training(gguf, model, {}, ADAM)


def _training(gguf: GgufFile, model: Model, state: Mapping[str, Tensor], optimizer: str) -> Training:
    keys = Keys(gguf)
    return Training(
        model=model,
        state=state,
        optimizer=optimizer,
        train_its=keys.required(names.TRAINING_ITERATION_COUNT, 0),
        train_samples=keys.required(names.TRAINING_SAMPLE_COUNT, 0),
        train_tokens=keys.required(names.TRAINING_TOKEN_COUNT, 0),
        iteration=keys.required(names.OPTIMIZER_ITERATION_COUNT, 0),
        past=keys.required(names.OPTIMIZER_PAST_COUNT, 0),
        orders=orders_of_gguf(gguf),
        begin=keys.count(names.TOKEN_ID.format("bos")) if gguf.value(names.TOKENIZER_MODEL) == "llama" else None,
        n_threads=keys.count(names.CONVERTED_THREADS),
        divided=keys.count(names.CONVERTED_SCALE),
        divided_exactly=gguf.value(names.CONVERTED_SCALE_CERTAIN) is True,
        reordered=names.CONVERTED_FROM_ORDER in gguf.key_values,
        keys=tuple(gguf.key_values.values()),
    )


def orders_of_gguf(gguf: GgufFile) -> tuple[Order, ...]:
    """Return the orders that the flat vectors of a GGUF checkpoint can have.

    Order D is that of programs from November 2023 on, which wrote `training.file_version` 1.
    """
    return CHECKPOINT_ORDERS if gguf.value(names.TRAINING_FILE_VERSION) == 0 else tuple(ORDERS)


def evidence_of_gguf(gguf: GgufFile) -> Evidence:
    """Return what a GGUF checkpoint shows of its writer.

    A file that a trainer saved has a context length; a converted ggcp file has none. Damaged keys do not tell.
    """
    keys = Keys(gguf)
    version, recorded = keys.count(names.TRAINING_FILE_VERSION), keys.text(names.CONVERTED_WRITERS)
    is_saved = names.CONTEXT_LENGTH in gguf.key_values
    is_known = is_saved or gguf.damage is None or gguf.damage.path.startswith("tensor_data")
    return Evidence(
        is_gguf=True,
        file_version=version if is_known else None,
        converted=version == 0 and is_known and not is_saved,
        recorded=None if recorded is None else tuple(recorded.split()),
        rms_eps=keys.real(names.RMS_EPSILON),
        rms_eps_certain=keys.flag(names.CONVERTED_EPSILON_CERTAIN),
        modified=modification_date(gguf.source),
    )


def check_whole_model(gguf: GgufFile) -> None:
    """Check that a GGUF file is a whole one of the llama architecture, and not of finetune. Raises `UsageError`."""
    check_not_split(gguf)
    if gguf.kind in OF_NO_MODEL:
        raise UsageError(f"{gguf.path} is a {gguf.what}", CHECKPOINT_NEEDED)
    if gguf.value(names.ARCHITECTURE) != "llama":
        error = Keys(gguf).unexpected(names.ARCHITECTURE, "'llama'")
        is_other = isinstance(gguf.value(names.ARCHITECTURE), str) and gguf.kind == "gguf-model"
        raise error.with_hint("Only models of the llama architecture are converted.") if is_other else error
    kind = gguf.value(names.TRAINING_TYPE, names.TRAIN_MODEL)
    if kind not in (names.TRAIN_MODEL, names.FINETUNE_LORA):
        what = f"a checkpoint of a training that is not known ({names.TRAINING_TYPE} {shown(kind)})"
        raise UsageError(f"{gguf.path} is {what}", CHECKPOINT_NEEDED)
    if kind == names.FINETUNE_LORA:
        what = f"a checkpoint of llama.cpp's finetune ({names.TRAINING_TYPE} {repr(kind)[:40]})"
        more = "Llama.cpp's finetune goes on with it as it is. "
        raise needs_base(gguf.path, f"{what}: it contains a LoRA adapter, not a whole model", more)


def model_of_gguf(gguf: GgufFile) -> Model:
    """Return the model. A damaged file is accepted if the model is whole. Otherwise raise its damage."""
    try:
        check_whole_model(gguf)
        return gguf.stored_model.checked()
    except UsageError:
        if gguf.damage is not None:
            n_layer = Keys(gguf).integer(names.BLOCK_COUNT)
            if n_layer is None or gguf.container.get("tensor_count") == 0:
                raise gguf.damage.again() from None
            gguf.check_whole(sum(not names.is_optimizer(name) for name in gguf.tensors), names.n_tensors(n_layer))
        raise


def stored_model(gguf: GgufFile) -> Model:
    """Return the model, whether llama.cpp can run it or not. Raises `UsageError` if it is not whole."""
    is_checkpoint = names.TRAINING_TYPE in gguf.key_values or names.OPTIMIZER_TYPE in gguf.key_values
    if names.TOKENS in gguf.key_values and not gguf.counts_tensors:
        raise UsageError(f"{gguf.path} is a vocabulary", CHECKPOINT_NEEDED)
    keys = Keys(gguf)
    n_embd, n_layer, n_ff, n_head = map(keys.required, SIZES)
    n_head_kv = keys.required(names.HEAD_COUNT_KV, n_head)
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    n_vocab = embeddings.shape[-1] if embeddings else 0
    tensors = whole_model(
        *(gguf.path, gguf.tensors, names.tensor_name, n_vocab, n_embd, n_layer, n_ff),
        n_embd_kv=n_embd // n_head * n_head_kv if n_head else n_embd,
        any_type=not is_checkpoint,
    )
    if not is_checkpoint:
        odd = next((finding for finding in gguf.findings if finding.path == "alignment"), None)
        if odd is not None:
            hint = "Set it in a copy: `ggcp-schema edit INPUT OUTPUT general.alignment=32`."
            raise UsageError(f"{gguf.path}: {odd.message}; other programs refuse such a model", hint)
        check_no_others(gguf.path, gguf.tensors, tensors.values())
    return Model(
        path=gguf.path,
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_head=n_head,
        n_layer=n_layer,
        n_ff=n_ff,
        n_rot=keys.required(names.ROPE_DIMENSION_COUNT, n_embd // n_head if n_head else 0),
        tensors=tensors,
        evidence=evidence_of_gguf(gguf),
        freq_base=keys.finite(names.ROPE_FREQ_BASE, FREQ_BASE),
        freq_scale=keys.finite(names.ROPE_SCALE_LINEAR, 1.0),
        rms_eps=keys.real(names.RMS_EPSILON),
        n_head_kv=n_head_kv,
        has_vocabulary=names.TOKENS in gguf.key_values,
        context=context_of(
            keys.count(names.TRAINING_SAMPLE_COUNT),
            keys.count(names.TRAINING_TOKEN_COUNT),
            keys.count(names.CONTEXT_LENGTH, 1),
        ),
        **({} if is_checkpoint else _kept_of(gguf)),
    )


def is_complete(gguf: GgufFile) -> bool:
    """Return False if llama.cpp is known to refuse a model: if keys or tensors are missing, or do not fit each other.

    It is not known of another architecture, nor of a llama with other tensors than the trainers', as one of experts has
    them, or without an output of its own.
    """
    if gguf.value(names.ARCHITECTURE) != "llama":
        return isinstance(gguf.value(names.ARCHITECTURE), str)
    for key, kind in NEEDED.items():
        entry = gguf.key_values.get(key)
        if entry is None or entry.type.removeprefix("ARRAY/") != kind or (kind == "UINT32" and not entry.value):
            return False
    if names.tensor_name("output") not in gguf.tensors or not all(map(names.field_path, gguf.tensors)):
        return True
    try:
        model = gguf.stored_model.checked()
    except UsageError:
        return False
    return model.n_rot * model.n_head == model.n_embd


def _kept_of(gguf: GgufFile) -> dict[str, Any]:
    """Return what a model file states beyond its hyper-parameters; the tokenizer is not among it."""
    name, file_type = gguf.value(names.NAME), gguf.value(names.FILE_TYPE)
    others = (entry for key, entry in gguf.key_values.items() if not key.startswith(names.TOKENIZER))
    return {
        "name": name if isinstance(name, str) else None,
        "file_type": file_type if isinstance(file_type, int) and 0 <= file_type < 1 << 32 else 0,
        "kept": tuple(entry for entry in others if is_copied(gguf.path, entry)),
    }


def adapter_of_gguf(gguf: GgufFile) -> Adapter:
    """Return the adapter in a GGUF checkpoint of finetune. A damaged file is accepted if all of it is whole.

    Otherwise raise its damage. Raises `UsageError` if the file is something else.
    """
    gguf.check_adapter()
    kind = gguf.value(names.TRAINING_TYPE)
    if kind != names.FINETUNE_LORA:
        raise UsageError(
            f"{gguf.path}: {names.TRAINING_TYPE} is {'missing' if kind is None else repr(kind)[:40]}, "
            f"expected {names.FINETUNE_LORA!r}",
            "Pass a checkpoint of llama.cpp's finetune, a ggcl checkpoint or a ggla adapter.",
        )
    tensors = (tensor for name, tensor in gguf.tensors.items() if not names.is_optimizer(name))
    return Adapter(gguf.path, pairs_of(gguf.path, tensors))


# The vocabulary ---------------------------------------------------------------------------------------------


def vocabulary_of_gguf(gguf: GgufFile) -> Vocabulary:
    """Return the tokenizer keys with their types; without empty lists, and ids that stand for "no such token"."""
    check_damage(gguf)
    model = gguf.key_values.get(names.TOKENIZER_MODEL)
    if model is None or names.TOKENS not in gguf.key_values:
        raise UsageError(f"{gguf.path} is a GGUF file without a vocabulary", ACCEPTED)
    if model.type == "STRING" and model.value not in TOKENIZERS:
        message = f"its tokenizer is {shown_text(model.value)}; the trainers supported llama (sentencepiece) and gpt2"
        raise UsageError(f"{gguf.path}: {message}", ACCEPTED)

    if model.value == "gpt2" and names.MERGES not in gguf.key_values:
        raise UsageError(f"{gguf.path}: its tokenizer is gpt2, but {names.MERGES} is missing, which it needs", ACCEPTED)

    def locate(key: str, index: int | None) -> tuple[str, int]:
        path = key if index is None else f"{key}[{index}]"
        return path, gguf.find(path).offset

    keys = []
    for key, entry in gguf.key_values.items():
        if key.startswith(names.TOKENIZER):
            expected = key_type(key)
            if expected and entry.type != expected:
                raise damaged(gguf.path, *locate(key, None), f"a value of type {expected}", entry.type)
            if entry.type == "ARRAY/ARRAY":
                raise damaged(gguf.path, *locate(key, None), "an array of numbers or strings", "one of arrays")
            value = items_of(gguf, key, entry.value) if entry.type.startswith("ARRAY/") else entry.value
            if value != [] and not (is_id(key) and value == NO_TOKEN):
                keys.append(KeyValue(key, entry.type, value))
    found = {entry.key for entry in keys}
    notes = [note for key, note in ((names.TOKEN_SCORES, NO_SCORES), (names.TOKEN_TYPES, NO_TYPES)) if key not in found]
    return Vocabulary(gguf.path, "GGUF", keys, "; ".join(notes)).checked(locate)
