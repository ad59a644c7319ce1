"""What a GGUF file states of itself, for a summary. Damage may hide some of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import GgcpError
from ggcp_schema.formats.ggcp.checkpoint import is_optimizer
from ggcp_schema.llama import names
from ggcp_schema.llama.rotation import FREQ_BASE, n_rot_of

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

KINDS = {
    "gguf-resume": ("GGUF training checkpoint, to resume from", "GGUF checkpoint"),
    "gguf-finetune": (
        "GGUF training checkpoint of llama.cpp's finetune: the state of a LoRA adapter, without a model",
        "LoRA checkpoint",
    ),
    "gguf-model": ("GGUF model, to run", "GGUF model"),
    "gguf-vocabulary": ("GGUF vocabulary, without a model", "GGUF vocabulary"),
    "gguf-part": ("part of a split GGUF file", "part of a GGUF file"),
    "gguf-adapter": ("GGUF adapter", "GGUF adapter"),
    "gguf-mmproj": ("GGUF projector of a multimodal model", "GGUF projector"),
    "gguf-imatrix": ("GGUF importance matrix", "importance matrix"),
    "gguf": ("GGUF file", "GGUF file"),
}
"""What a GGUF file is, in words and in two words."""


class Keys:
    """The values of a GGUF file's keys; None for a key that is missing or of another type."""

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf = gguf

    def own(self, key: str) -> str:
        """Return the key of llama under the name that a file of another architecture has for it."""
        return f"{self.text(names.ARCHITECTURE) or 'llama'}.{key.removeprefix('llama.')}"

    def integer(self, key: str) -> int | None:
        """Return an integer."""
        value = self.gguf.value(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def real(self, key: str) -> float | None:
        """Return a floating-point number."""
        value = self.gguf.value(key)
        return value if isinstance(value, float) else None

    def text(self, key: str) -> str | None:
        """Return a string."""
        value = self.gguf.value(key)
        return value if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        """Return a boolean."""
        value = self.gguf.value(key)
        return value if isinstance(value, bool) else None

    def length(self, key: str) -> int | None:
        """Return the length of an array."""
        entry = self.gguf.key_values.get(key)
        return len(entry.value) if entry is not None and entry.type.startswith("ARRAY/") else None


def facts_of(gguf: GgufFile) -> dict[str, Any]:
    """Return values for the fields of a summary, by their names."""
    from ggcp_schema.formats.gguf.contents import contents

    keys = Keys(gguf)
    model = {name: tensor for name, tensor in gguf.tensors.items() if not is_optimizer(name)}
    model_bytes = sum(tensor.nbytes for tensor in model.values())
    optimizer_bytes = gguf.tensors.nbytes - model_bytes
    rest = gguf.size - model_bytes - optimizer_bytes
    n_ff = keys.integer(keys.own(names.FEED_FORWARD_LENGTH))
    kind = keys.text(names.OPTIMIZER_TYPE)
    best = keys.real(f"optimizer.{kind}.best_loss")
    return {
        **(_adapter(gguf) or {"details": contents(gguf)}),
        "version": gguf.get("version"),
        "train_its": keys.integer(names.TRAINING_ITERATION_COUNT),
        "train_samples": keys.integer(names.TRAINING_SAMPLE_COUNT),
        "train_tokens": keys.integer(names.TRAINING_TOKEN_COUNT),
        "hparams": _hparams_of(gguf, keys),
        "n_ff": n_ff,
        "n_ff_source": None if n_ff is None else keys.own(names.FEED_FORWARD_LENGTH),
        "n_params": sum(tensor.n_elements for name, tensor in model.items() if name != names.ROPE_FREQS) or None,
        "n_tokens": keys.length(names.TOKENS),
        "bytes": {"model": model_bytes, "optimizer": optimizer_bytes, "waste": 0, "headers": rest}
        if gguf.damage is None
        else None,
        "optimizer": None
        if kind is None
        else {
            "type": kind,
            "iter": keys.integer(names.OPTIMIZER_ITERATION_COUNT),
            "just_initialized": keys.flag(names.OPTIMIZER_JUST_INITIALIZED),
            "n_params": keys.integer(names.OPTIMIZER_PARAMETER_COUNT),
            "past": keys.integer(names.OPTIMIZER_PAST_COUNT),
            "lbfgs_m": keys.integer(names.LBFGS_APPROX_HESSIAN_COUNT),
            "n_no_improvement": keys.integer(f"optimizer.{kind}.no_improvement_count"),
        },
        "rms_eps": keys.real(names.RMS_EPSILON),
        "stored_losses": None
        if best is None
        else {
            "fx_best": best,
            "fx_prev": keys.real(names.ADAM_PREVIOUS_LOSS),
            "n_threads": keys.integer(names.CONVERTED_THREADS),
            "k": keys.integer(names.LBFGS_LINE_SEARCH_K),
            "pf": gguf.tensors.get(str(names.tensor_name("optimizer.state.pf", kind))),
        },
    }


def _adapter(gguf: GgufFile) -> dict[str, Any]:
    """Return what is known of the adapter of a checkpoint of finetune; nothing of other files."""
    if not gguf.has_adapter:
        return {}
    from ggcp_schema.formats.lora.files import stated_of

    try:
        return stated_of(gguf.adapter())
    except GgcpError:  # damaged, or not all of it is there
        return {}


def kind_of(gguf: GgufFile) -> str:
    """Return what the file is: a key of `KINDS`."""
    from ggcp_schema.formats.gguf.contents import part_of

    keys = Keys(gguf)
    kind, optimizer = keys.text(names.TRAINING_TYPE), keys.text(names.OPTIMIZER_TYPE)
    if kind not in (None, names.TRAIN_MODEL):
        return "gguf-finetune"
    if kind or optimizer:
        return "gguf-resume"
    stated = "mmproj" if keys.text(names.ARCHITECTURE) == "clip" else keys.text("general.type")
    if stated in {"adapter", "mmproj", "imatrix"}:
        return f"gguf-{stated}"
    if part_of(gguf):
        return "gguf-part"
    has_tokens = names.TOKENS in gguf.key_values
    if not gguf.get("tensor_count"):
        return "gguf-vocabulary" if has_tokens else "gguf"
    return "gguf-model" if has_tokens or keys.own(names.CONTEXT_LENGTH) in gguf.key_values else "gguf"


def _hparams_of(gguf: GgufFile, keys: Keys) -> dict[str, int | None] | None:
    embeddings = gguf.tensors.get(str(names.tensor_name("tok_embeddings")))
    dimensions = keys.integer(keys.own(names.ROPE_DIMENSION_COUNT))
    freq_base = keys.real(keys.own(names.ROPE_FREQ_BASE))
    n_vocab = keys.integer(keys.own(names.VOCAB_SIZE))
    hparams = {
        "n_vocab": embeddings.shape[1] if embeddings and len(embeddings.shape) == 2 else n_vocab,
        "n_embd": keys.integer(keys.own(names.EMBEDDING_LENGTH)),
        "n_mult": None,
        "n_head": keys.integer(keys.own(names.HEAD_COUNT)),
        "n_layer": keys.integer(keys.own(names.BLOCK_COUNT)),
        "n_rot": n_rot_of(dimensions, FREQ_BASE if freq_base is None else freq_base) if dimensions else None,
        "n_ctx": keys.integer(keys.own(names.CONTEXT_LENGTH)),
    }
    return hparams if any(value is not None for value in hparams.values()) else None
