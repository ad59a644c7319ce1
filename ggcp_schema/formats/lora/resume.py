"""A ggcl checkpoint as the GGUF checkpoint that finetune of 29 August 2023 and after resumes from.

The keys, their order and the tensors are those of convert-finetune-checkpoint-to-gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggcp_schema.errors import UnfitError, UsageError
from ggcp_schema.files.pieces import TensorEntry, stored
from ggcp_schema.formats.lora.files import FINETUNE_LORA, STATE, GgclFile
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.gguf.writer import Gguf
from ggcp_schema.llama import names
from ggcp_schema.schema.inference import ADAM

RMS_EPSILON = 1e-5  # of finetune, and what the converter wrote

COUNTS = (
    (names.TRAINING_ITERATION_COUNT, "UINT32", "train_its"),
    (names.TRAINING_SAMPLE_COUNT, "UINT32", "train_samples"),
    (names.TRAINING_TOKEN_COUNT, "UINT32", "train_tokens"),
    (names.EMBEDDING_LENGTH, "UINT32", "hparams.n_embd"),
    (names.HEAD_COUNT, "UINT32", "hparams.n_head"),
    (names.BLOCK_COUNT, "UINT32", "hparams.n_layer"),
    (names.ROPE_DIMENSION_COUNT, "UINT32", "hparams.n_rot"),
    (names.FEED_FORWARD_LENGTH, "UINT32", "n_ff"),
)
RANKS = tuple(
    (f"training.lora.rank.{gguf}", "UINT32", f"n_rank.{field}")
    for field, gguf in (names.MODEL_TENSORS | names.LAYER_TENSORS).items()
)
OPTIMIZER = (
    (names.OPTIMIZER_PAST_COUNT, "UINT32", "optimizer.past"),
    (names.OPTIMIZER_PARAMETER_COUNT, "UINT64", "optimizer.nx"),
    (names.OPTIMIZER_ITERATION_COUNT, "UINT32", "optimizer.iter"),
    (names.OPTIMIZER_JUST_INITIALIZED, "BOOL", "optimizer.just_initialized"),
    (names.OPTIMIZER_TYPE, "STRING", "optimizer.type"),
)
ADAM_STATE = (
    (names.ADAM_BEST_LOSS, "FLOAT32", "optimizer.state.fx_best"),
    (names.ADAM_PREVIOUS_LOSS, "FLOAT32", "optimizer.state.fx_prev"),
    (names.ADAM_NO_IMPROVEMENT_COUNT, "UINT32", "optimizer.state.n_no_improvement"),
)
LBFGS_STATE = (
    (names.LBFGS_APPROX_HESSIAN_COUNT, "UINT32", "optimizer.lbfgs_m"),
    (names.LBFGS_BEST_LOSS, "FLOAT32", "optimizer.state.fx_best"),
    (names.LBFGS_LINE_SEARCH_STEP, "FLOAT32", "optimizer.state.step"),
    (names.LBFGS_LINE_SEARCH_J, "INT32", "optimizer.state.j"),
    (names.LBFGS_LINE_SEARCH_K, "INT32", "optimizer.state.k"),
    (names.LBFGS_LINE_SEARCH_END, "INT32", "optimizer.state.end"),
    (names.LBFGS_NO_IMPROVEMENT_COUNT, "UINT32", "optimizer.state.n_no_improvement"),
)


def resume_content(ggcl: GgclFile) -> Gguf:
    """Return the keys and tensors of the checkpoint. Raises the damage of a damaged file.

    Raises `UnfitError` if a count is out of range for its GGUF type, `UsageError` if the model has no layers.
    """
    adapter = ggcl.adapter()
    if ggcl.get("n_ff") is None:
        raise UsageError(f"{ggcl.path}: n_ff is unknown, because the model has no layers")
    optimizer = str(ggcl.get("optimizer.type"))
    state = ADAM_STATE if optimizer == ADAM else LBFGS_STATE
    try:
        keys = [
            KeyValue(names.ARCHITECTURE, "STRING", "llama"),
            KeyValue(names.FILE_TYPE, "UINT32", 0),
            KeyValue(names.RMS_EPSILON, "FLOAT32", RMS_EPSILON),
            KeyValue(names.TRAINING_FILE_VERSION, "UINT32", 0),
            KeyValue(names.TRAINING_TYPE, "STRING", FINETUNE_LORA),
            *_keys(ggcl, COUNTS),
            *_keys(ggcl, RANKS),
            KeyValue(names.OPTIMIZER_FILE_VERSION, "UINT32", 0),
            *_keys(ggcl, OPTIMIZER),
            *_keys(ggcl, state),
        ]
    except UnfitError as error:
        raise UnfitError(f"{ggcl.path}: {error.message}", error.hint) from error
    pairs = (
        stored(f"{names.tensor_name(path)}.lora_{part}", tensor)
        for path, pair in adapter.pairs.items()
        for part, tensor in pair._asdict().items()
    )
    return Gguf(keys, [*pairs, *_optimizer_tensors(ggcl, optimizer)])


def _keys(ggcl: GgclFile, table: tuple[tuple[str, str, str], ...]) -> Iterator[KeyValue]:
    for key, kind, path in table:
        value = ggcl.get(path)
        yield KeyValue(key, kind, bool(value) if kind == "BOOL" else value)


def _optimizer_tensors(ggcl: GgclFile, optimizer: str) -> Iterator[TensorEntry]:
    for path, tensor in ggcl.tensors.items():
        if path.startswith(STATE) and not tensor.is_null:
            yield stored(str(names.tensor_name(path, optimizer)), tensor)
