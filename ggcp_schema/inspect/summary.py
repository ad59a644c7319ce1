"""What a file is, in numbers and in words: the answers to a trainer's questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ggcp_schema.checkpoint import Checkpoint, Fields
from ggcp_schema.gguf import keys
from ggcp_schema.inference import n_ff_by_formula

if TYPE_CHECKING:
    from ggcp_schema.gguf.reader import GgufFile

# The writers as their files tell them apart, with the RMS epsilon that they computed with (llama.cpp's history).
ERAS = {
    "v0": (
        "llama.cpp's trainer, 13 June to 28 August 2023",
        "1e-6 up to 24 July 2023, 5e-6 up to 20 August, 1e-5 after",
    ),
    "v1": ("the author's training branch, 15 June to 24 August 2023", "1e-6 up to 24 July 2023, 5e-6 after"),
    "v1-raw-params": ("the author's training branch, 15 June 2023", "1e-6"),
    "late": ("a writer of late August 2023, which named tensors as GGUF does", "1e-5"),
}


def summary(file: Checkpoint | GgufFile) -> dict[str, Any]:
    """All that `info` says, under stable keys; None for what the file does not say or damage hides.

    Keys: file, kind (ggcp, gguf-resume, gguf-model, gguf), size, layout, writer, rms_eps (of the file, or in
    words), train_its, train_samples, train_tokens, loss {best, previous}, optimizer {…}, hparams {…}, n_ff,
    n_ff_source, n_params, bytes {model, optimizer, waste, headers}, findings, damage. Sizes are in bytes.
    """
    return _of_checkpoint(file) if isinstance(file, Checkpoint) else _of_gguf(file)


def _of_checkpoint(ckpt: Checkpoint) -> dict[str, Any]:
    fields = ckpt.fields
    optimizer = fields.get("optimizer", Fields({}))
    state = optimizer.get("state", Fields({}))
    writer, rms_eps = era(ckpt)
    hparams = fields.get("hparams")
    return {
        "file": ckpt.path,
        "kind": "ggcp",
        "size": ckpt.size,
        "layout": optimizer.get("layout"),
        "writer": writer,
        "rms_eps": rms_eps,
        "train_its": fields.get("train_its"),
        "train_samples": fields.get("train_samples"),
        "train_tokens": fields.get("train_tokens"),
        "loss": {"best": state.get("fx_best"), "previous": state.get("fx_prev")},
        "optimizer": {
            **optimizer_summary(ckpt),
            "iter": optimizer.get("iter"),
            "just_initialized": _flag(optimizer.get("just_initialized")),
            "n_params": optimizer.get("nx"),
            "past": ckpt.past,
            "lbfgs_m": ckpt.lbfgs_m,
            "n_no_improvement": state.get("n_no_improvement"),
        },
        "hparams": dict(hparams.items()) if hparams else None,
        "n_ff": ckpt.n_ff,
        "n_ff_source": _n_ff_source(ckpt),
        "n_params": ckpt.n_params if "optimizer" in fields else None,
        "bytes": byte_budget(ckpt) if ckpt.damage is None else None,
        "findings": [{"path": finding.path, "message": finding.message} for finding in ckpt.findings],
        "damage": ckpt.damage and ckpt.damage.as_dict(),
    }


def _of_gguf(gguf: GgufFile) -> dict[str, Any]:
    def value(key: str) -> Any:
        return gguf.keys[key].value if key in gguf.keys else None

    kind = "gguf-resume" if keys.OPTIMIZER_TYPE in gguf.keys else "gguf"
    if kind == "gguf" and keys.CONTEXT_LENGTH in gguf.keys:
        kind = "gguf-model"
    optimizer, embeddings = value(keys.OPTIMIZER_TYPE), gguf.tensors.get("token_embd.weight")
    model = [tensor for name, tensor in gguf.tensors.items() if not name.startswith("optimizer.")]
    model_bytes = sum(tensor.nbytes for tensor in model)
    optimizer_bytes = sum(tensor.nbytes for tensor in gguf.tensors.values()) - model_bytes
    return {
        "file": gguf.path,
        "kind": kind,
        "size": gguf.size,
        "layout": None,
        "writer": None,
        "rms_eps": value(keys.RMS_EPSILON),
        "train_its": value(keys.TRAINING_ITERATION_COUNT),
        "train_samples": value(keys.TRAINING_SAMPLE_COUNT),
        "train_tokens": value(keys.TRAINING_TOKEN_COUNT),
        "loss": {"best": value(f"optimizer.{optimizer}.best_loss"), "previous": value(keys.ADAM_PREVIOUS_LOSS)},
        "optimizer": optimizer
        and {
            "type": optimizer,
            "inferred": False,
            "by_size": None,
            "by_records": None,
            "confirmed": None,
            "iter": value(keys.OPTIMIZER_ITERATION_COUNT),
            "just_initialized": value(keys.OPTIMIZER_JUST_INITIALIZED),
            "n_params": value(keys.OPTIMIZER_PARAMETER_COUNT),
            "past": value(keys.OPTIMIZER_PAST_COUNT),
            "lbfgs_m": value(keys.LBFGS_APPROX_HESSIAN_COUNT),
            "n_no_improvement": value(f"optimizer.{optimizer}.no_improvement_count"),
        },
        "hparams": {
            "n_vocab": embeddings.shape[1] if embeddings and len(embeddings.shape) == 2 else value(keys.VOCAB_SIZE),
            "n_embd": value(keys.EMBEDDING_LENGTH),
            "n_mult": None,
            "n_head": value(keys.HEAD_COUNT),
            "n_layer": value(keys.BLOCK_COUNT),
            "n_rot": value(keys.ROPE_DIMENSION_COUNT),
            "n_ctx": value(keys.CONTEXT_LENGTH),
        },
        "n_ff": value(keys.FEED_FORWARD_LENGTH),
        "n_ff_source": keys.FEED_FORWARD_LENGTH if keys.FEED_FORWARD_LENGTH in gguf.keys else None,
        "n_params": sum(tensor.n_elements for tensor in model if tensor.name != keys.ROPE_FREQS),
        "bytes": {
            "model": model_bytes,
            "optimizer": optimizer_bytes,
            "waste": 0,
            "headers": gguf.size - model_bytes - optimizer_bytes,
        },
        "findings": [],
        "damage": None,
    }


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _n_ff_source(ckpt: Checkpoint) -> str | None:
    """Where n_ff is from, and what the formula of n_embd and n_mult says to it."""
    if ckpt.n_ff is None:
        return None
    if "layers[0].w1" not in ckpt.tensors:
        return "by the formula of n_embd and n_mult; no layer states it"
    hparams = ckpt.hparams
    formula = n_ff_by_formula(hparams.n_embd, hparams.n_mult)
    agrees = "as n_mult gives" if formula == ckpt.n_ff else f"where n_mult {hparams.n_mult} would give {formula}"
    return f"by the shape of w1, {agrees}"


def byte_budget(ckpt: Checkpoint) -> dict[str, int]:
    """The file's bytes by use. Waste is padding, and the v0 tensors that no reader needs; the four sum to the
    file's size."""
    model = sum(tensor.nbytes for tensor in ckpt.model_tensors.values())
    optimizer_type = ckpt.optimizer.type
    state = [tensor for path, tensor in ckpt.tensors.items() if path.startswith("optimizer.")]
    needed = sum(tensor.nbytes for tensor in state if keys.tensor_name(tensor.path, optimizer_type))
    dropped = sum(tensor.nbytes for tensor in state) - needed
    waste = dropped + sum(tensor.padding for tensor in ckpt.tensors.values())
    return {"model": model, "optimizer": needed, "waste": waste, "headers": ckpt.size - model - needed - waste}


def era(ckpt: Checkpoint) -> tuple[str | None, str | None]:
    """Who wrote the file, as far as it tells, and the RMS epsilon of that time: in words, or None."""
    layout = ckpt.fields.get("optimizer", Fields({})).get("layout")
    embeddings = ckpt.tensors.get("tok_embeddings")
    if embeddings and embeddings.name.startswith("token_embd"):
        return ERAS["late"]
    return ERAS.get(layout or "", (None, None))


def optimizer_summary(ckpt: Checkpoint) -> dict[str, Any]:
    """The optimizer's type and how it is known. `confirmed` is None where the type was stored."""
    inference = ckpt.inference
    return {
        "type": ckpt.fields.get("optimizer", Fields({})).get("type"),
        "inferred": inference is not None,
        "by_size": inference and inference.by_size,
        "by_records": inference and inference.by_records,
        "confirmed": inference and inference.confirmed,
    }


def describe_optimizer(ckpt: Checkpoint) -> str:
    """The same in words: `adam (inferred from the size of its state; the third tensor confirms it)`."""
    inference = ckpt.inference
    if inference is None:
        return f"{ckpt.optimizer.type} (stored in the file)"
    if inference.confirmed:
        return f"{inference.type} (inferred from the size of its state; the shape of its third tensor confirms it)"
    if inference.by_records:
        other = inference.by_size
        return f"{inference.type} (inferred from the shape of its third tensor; by its size it would be {other})"
    return f"{inference.type} (inferred from the size of its state; its third tensor does not tell)"
