"""A checkpoint as the GGUF checkpoint that the trainers of late August 2023 and after resume from."""

from __future__ import annotations

from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.errors import UsageError
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import Entry, KeyValue, TensorEntry
from ggcp_schema.inference import ADAM

RMS_EPS = 1e-5


def resume_entries(ckpt: Checkpoint, rms_eps: float = RMS_EPS) -> list[Entry]:
    """The keys and tensors of the resume checkpoint, in the order in which the trainer wrote them.

    `rms_eps` is the epsilon of the RMS norm, which no ggcp file states. Raises `UnfitError` if a count does not
    fit its GGUF type, `UsageError` for an epsilon that makes no sense.
    """
    return [*_keys(ckpt, rms_eps), *_tensors(ckpt)]


def checked_epsilon(rms_eps: float) -> float:
    """The epsilon, if it can be one. Raises `UsageError`."""
    if not 1e-30 < rms_eps < 1:
        raise UsageError(f"the RMS epsilon {rms_eps} makes no sense", "The trainers computed with 1e-5, 5e-6 or 1e-6.")
    return rms_eps


def _keys(ckpt: Checkpoint, rms_eps: float) -> list[Entry]:
    hparams, optimizer = ckpt.hparams, ckpt.optimizer
    return [
        KeyValue(keys.ARCHITECTURE, "STRING", "llama"),
        KeyValue(keys.FILE_TYPE, "UINT32", 0),
        KeyValue(keys.RMS_EPSILON, "FLOAT32", checked_epsilon(rms_eps)),
        KeyValue(keys.TRAINING_FILE_VERSION, "UINT32", 0),
        KeyValue(keys.TRAINING_TYPE, "STRING", "train_model"),
        KeyValue(keys.TRAINING_ITERATION_COUNT, "UINT32", ckpt.train_its),
        KeyValue(keys.TRAINING_SAMPLE_COUNT, "UINT32", ckpt.train_samples),
        KeyValue(keys.TRAINING_TOKEN_COUNT, "UINT32", ckpt.train_tokens),
        KeyValue(keys.EMBEDDING_LENGTH, "UINT32", hparams.n_embd),
        KeyValue(keys.HEAD_COUNT, "UINT32", hparams.n_head),
        KeyValue(keys.BLOCK_COUNT, "UINT32", hparams.n_layer),
        KeyValue(keys.ROPE_DIMENSION_COUNT, "UINT32", hparams.n_rot),
        KeyValue(keys.FEED_FORWARD_LENGTH, "UINT32", ckpt.n_ff),
        KeyValue(keys.OPTIMIZER_FILE_VERSION, "UINT32", 0),
        KeyValue(keys.OPTIMIZER_PAST_COUNT, "UINT32", ckpt.past),
        KeyValue(keys.OPTIMIZER_PARAMETER_COUNT, "UINT64", optimizer.nx),
        KeyValue(keys.OPTIMIZER_ITERATION_COUNT, "UINT32", optimizer.iter),
        KeyValue(keys.OPTIMIZER_JUST_INITIALIZED, "BOOL", bool(optimizer.just_initialized)),
        KeyValue(keys.OPTIMIZER_TYPE, "STRING", str(optimizer.type)),
        *(_adam_keys(ckpt) if optimizer.type == ADAM else _lbfgs_keys(ckpt)),
        KeyValue(keys.HEAD_COUNT_KV, "UINT32", hparams.n_head),
        KeyValue(keys.VOCAB_SIZE, "UINT32", hparams.n_vocab),
    ]


def _adam_keys(ckpt: Checkpoint) -> list[Entry]:
    state = ckpt.optimizer.state
    return [
        KeyValue(keys.ADAM_BEST_LOSS, "FLOAT32", state.fx_best),
        KeyValue(keys.ADAM_PREVIOUS_LOSS, "FLOAT32", state.fx_prev),
        KeyValue(keys.ADAM_NO_IMPROVEMENT_COUNT, "UINT32", state.n_no_improvement),
    ]


def _lbfgs_keys(ckpt: Checkpoint) -> list[Entry]:
    state = ckpt.optimizer.state
    return [
        KeyValue(keys.LBFGS_APPROX_HESSIAN_COUNT, "UINT32", ckpt.lbfgs_m),
        KeyValue(keys.LBFGS_BEST_LOSS, "FLOAT32", state.fx_best),
        KeyValue(keys.LBFGS_LINE_SEARCH_STEP, "FLOAT32", state.step),
        KeyValue(keys.LBFGS_LINE_SEARCH_J, "INT32", state.j),
        KeyValue(keys.LBFGS_LINE_SEARCH_K, "INT32", state.k),
        KeyValue(keys.LBFGS_LINE_SEARCH_END, "INT32", state.end),
        KeyValue(keys.LBFGS_NO_IMPROVEMENT_COUNT, "UINT32", state.n_no_improvement),
    ]


def _tensors(ckpt: Checkpoint) -> list[Entry]:
    """The tensors that have a GGUF name; a NULL is not written."""
    named = ((keys.tensor_name(path, ckpt.optimizer.type), tensor) for path, tensor in ckpt.tensors.items())
    return [TensorEntry(name, tensor) for name, tensor in named if name and not tensor.is_null]
