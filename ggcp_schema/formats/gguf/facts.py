"""What a GGUF file states of itself, for a summary. Damage may hide some of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.formats.gguf.contents import NO_MODELS, contents, part_of
from ggcp_schema.formats.gguf.keys import Keys
from ggcp_schema.formats.gguf.oddities import odd_tokens
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import HPARAMS, stated_of
from ggcp_schema.llama.rotation import n_rot_of

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

KINDS = {
    "gguf-resume": ("GGUF training checkpoint, to resume from", "GGUF checkpoint"),
    "gguf-finetune": (
        "GGUF training checkpoint of llama.cpp's finetune: the state of a LoRA adapter, without a model",
        "GGUF LoRA checkpoint",
    ),
    "gguf-model": ("GGUF model", "GGUF model"),
    "gguf-vocabulary": ("GGUF vocabulary, without a model", "GGUF vocabulary"),
    "gguf-part": ("part of a split GGUF file", "part of a GGUF file"),
    "gguf-adapter": ("GGUF adapter", "GGUF adapter"),
    "gguf-mmproj": ("GGUF projector of a multimodal model", "GGUF projector"),
    "gguf-imatrix": ("GGUF importance matrix", "importance matrix"),
    "gguf-controlvector": ("GGUF control vector", "GGUF control vector"),
    "gguf": ("GGUF file", "GGUF file"),
}
"""What a GGUF file is, in words and in two words."""
OF_ARCHITECTURE = {"clip": "mmproj", "controlvector": "controlvector"}


def facts_of(gguf: GgufFile) -> dict[str, Any]:
    """Return values for the fields of a summary, by their names."""
    keys = Keys(gguf)
    model = {name: tensor for name, tensor in gguf.tensors.items() if not names.is_optimizer(name)}
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    n_ff = keys.integer(keys.own(names.FEED_FORWARD_LENGTH))
    optimizer = keys.text(names.OPTIMIZER_TYPE)
    has_model = not (gguf.has_adapter or names.LORA_ALPHA in gguf.key_values or gguf.kind in NO_MODELS)
    n_params = sum(tensor.n_elements for name, tensor in model.items() if name != names.ROPE_FREQS and has_model)
    details: dict[str, Any] = {}
    if gguf.has_adapter:
        from ggcp_schema.formats.lora.files import adapter_of

        details = adapter_of(gguf)
    details = details or {"details": contents(gguf)}
    stated = stated_of(keys.field, gguf.tensors.get(str(names.tensor_name("optimizer.state.pf", optimizer))))
    if keys.flag(names.CONVERTED_FRESH) and not keys.count(names.OPTIMIZER_ITERATION_COUNT):
        stated["stored_losses"] = None  # the optimizer has not started, whatever the keys of its losses hold
    return {
        **stated,
        **details,
        "version": gguf.container.get("version"),
        "hparams": _hparams_of(gguf, keys),
        "n_ff": n_ff,
        "n_ff_source": None if n_ff is None else "stored",
        "n_params": n_params or None,
        "n_tokens": None if any(odd_tokens(gguf)) else keys.length(names.TOKENS),
        "bytes": gguf.uses(model_bytes, gguf.tensors.nbytes - model_bytes),
        "optimizer": stated["optimizer"] if optimizer else None,
        "rms_eps": keys.real(names.RMS_EPSILON),
    }


def kind_of(gguf: GgufFile) -> str:
    """Return what the file is: a key of `KINDS`."""
    keys = Keys(gguf)
    kind, optimizer = keys.text(names.TRAINING_TYPE), keys.text(names.OPTIMIZER_TYPE)
    if kind == names.FINETUNE_LORA:
        return "gguf-finetune"
    if kind == names.TRAIN_MODEL or optimizer:
        return "gguf-resume"
    stated = OF_ARCHITECTURE.get(str(keys.text(names.ARCHITECTURE)), keys.text("general.type"))
    if stated in {"adapter", "mmproj", "imatrix", "controlvector"}:
        return f"gguf-{stated}"
    if part_of(gguf):
        return "gguf-part"
    has_tokens = names.TOKENS in gguf.key_values
    if not gguf.counts_tensors:
        return "gguf-vocabulary" if has_tokens else "gguf"
    return "gguf-model" if has_tokens or keys.own(names.CONTEXT_LENGTH) in gguf.key_values else "gguf"


def in_words(gguf: GgufFile) -> tuple[str, str]:
    """Return what the file is, in words and in two words."""
    part = part_of(gguf) if gguf.kind == "gguf-part" else None
    if part is None:
        return KINDS[gguf.kind]
    return "part {} of {} of a split GGUF file".format(*part), "GGUF part {} of {}".format(*part)


def _hparams_of(gguf: GgufFile, keys: Keys) -> dict[str, int | None] | None:
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    found = {name: keys.integer(keys.own(key)) if key else None for name, key in HPARAMS.items()}
    freq_base = keys.real(keys.own(names.ROPE_FREQ_BASE))
    if embeddings and len(embeddings.shape) == 2:
        found["n_vocab"] = embeddings.shape[1]
    if dimensions := found["n_rot"]:
        found["n_rot"] = n_rot_of(dimensions, freq_base)
    return found if any(value is not None for value in found.values()) else None
