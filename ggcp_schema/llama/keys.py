"""The GGUF keys that are fields of a ggcp or a ggcl file: the one table that writes, reads and compares them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import starmap
from typing import Any

from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama import names
from ggcp_schema.schema.inference import ADAM, LBFGS

HPARAMS: dict[str, str | None] = {
    "n_vocab": names.VOCAB_SIZE,
    "n_embd": names.EMBEDDING_LENGTH,
    "n_mult": None,
    "n_head": names.HEAD_COUNT,
    "n_layer": names.BLOCK_COUNT,
    "n_rot": names.ROPE_DIMENSION_COUNT,
    "n_ctx": names.CONTEXT_LENGTH,
}
"""The keys of the hyper-parameters."""

# Key, type, and path of the field, in the order in which the converters of 2023 wrote them.
COUNTS = (
    (names.TRAINING_ITERATION_COUNT, "UINT32", "train_its"),
    (names.TRAINING_SAMPLE_COUNT, "UINT32", "train_samples"),
    (names.TRAINING_TOKEN_COUNT, "UINT32", "train_tokens"),
    (names.EMBEDDING_LENGTH, "UINT32", "hparams.n_embd"),
    (names.HEAD_COUNT, "UINT32", "hparams.n_head"),
    (names.BLOCK_COUNT, "UINT32", "hparams.n_layer"),
)
SIZES = ((names.ROPE_DIMENSION_COUNT, "UINT32", "hparams.n_rot"), (names.FEED_FORWARD_LENGTH, "UINT32", "n_ff"))
RANKS = tuple(
    (f"training.lora.rank.{gguf}", "UINT32", f"n_rank.{field}")
    for field, gguf in (names.MODEL_TENSORS | names.LAYER_TENSORS).items()
)  # of finetune alone
OPTIMIZER = (
    (names.OPTIMIZER_PAST_COUNT, "UINT32", "optimizer.past"),
    (names.OPTIMIZER_PARAMETER_COUNT, "UINT64", "optimizer.nx"),
    (names.OPTIMIZER_ITERATION_COUNT, "UINT32", "optimizer.iter"),
    (names.OPTIMIZER_JUST_INITIALIZED, "BOOL", "optimizer.just_initialized"),
    (names.OPTIMIZER_TYPE, "STRING", "optimizer.type"),
)
STATE = {
    ADAM: (
        (names.ADAM_BEST_LOSS, "FLOAT32", "optimizer.state.fx_best"),
        (names.ADAM_PREVIOUS_LOSS, "FLOAT32", "optimizer.state.fx_prev"),
        (names.ADAM_NO_IMPROVEMENT_COUNT, "UINT32", "optimizer.state.n_no_improvement"),
    ),
    LBFGS: (
        (names.LBFGS_APPROX_HESSIAN_COUNT, "UINT32", "optimizer.lbfgs_m"),
        (names.LBFGS_BEST_LOSS, "FLOAT32", "optimizer.state.fx_best"),
        (names.LBFGS_LINE_SEARCH_STEP, "FLOAT32", "optimizer.state.step"),
        (names.LBFGS_LINE_SEARCH_J, "INT32", "optimizer.state.j"),
        (names.LBFGS_LINE_SEARCH_K, "INT32", "optimizer.state.k"),
        (names.LBFGS_LINE_SEARCH_END, "INT32", "optimizer.state.end"),
        (names.LBFGS_NO_IMPROVEMENT_COUNT, "UINT32", "optimizer.state.n_no_improvement"),
    ),
}
"""The keys of the state, by the type of the optimizer."""

REQUIRED = frozenset(
    {
        names.TRAINING_FILE_VERSION,
        names.TRAINING_TYPE,
        names.OPTIMIZER_FILE_VERSION,
        names.FEED_FORWARD_LENGTH,
        *(key for key, _, _ in (*COUNTS, *OPTIMIZER)),
    }
)
"""The keys without which a trainer does not resume."""


@cache
def paths_by_key(optimizer: str | None) -> dict[str, str]:
    """Return the path of the field for each key; those of the state only if the type of the optimizer is given."""
    found = {key: f"hparams.{name}" for name, key in HPARAMS.items() if key}
    found |= {key: path for key, _, path in (*COUNTS, *OPTIMIZER, *STATE.get(optimizer or "", ()))}
    return found | {names.FEED_FORWARD_LENGTH: "n_ff"}


def trainer_keys(
    kind: str, rms_eps: float, optimizer: str, key_of: Callable[[str, str, str], KeyValue]
) -> list[KeyValue]:
    """Return the keys of a GGUF checkpoint of a trainer, in the order in which the converters of 2023 wrote them.

    `kind` is its `training.type`, and `key_of` makes a key of a row of these tables.
    """
    return [
        KeyValue(names.ARCHITECTURE, "STRING", "llama"),
        KeyValue(names.FILE_TYPE, "UINT32", 0),
        KeyValue(names.RMS_EPSILON, "FLOAT32", rms_eps),
        KeyValue(names.TRAINING_FILE_VERSION, "UINT32", 0),
        KeyValue(names.TRAINING_TYPE, "STRING", kind),
        *starmap(key_of, (*COUNTS, *SIZES, *(RANKS if kind == names.FINETUNE_LORA else ()))),
        KeyValue(names.OPTIMIZER_FILE_VERSION, "UINT32", 0),
        *starmap(key_of, (*OPTIMIZER, *STATE[optimizer])),
    ]


def stated_of(value: Callable[[str], Any], past: Tensor | None) -> dict[str, Any]:
    """Return what a file states of a training, by the names in a summary; `value` gives that of a field, or None.

    `past` are the past losses.
    """
    best = value("optimizer.state.fx_best")
    return {
        **{name: value(name) for name in ("train_its", "train_samples", "train_tokens")},
        "optimizer": {
            "type": value("optimizer.type"),
            "inference": value("optimizer.inference"),
            "iter": value("optimizer.iter"),
            "just_initialized": None if (flag := value("optimizer.just_initialized")) is None else bool(flag),
            "n_params": value("optimizer.nx"),
            "past": value("optimizer.past"),
            "lbfgs_m": value("optimizer.lbfgs_m"),
            "n_no_improvement": value("optimizer.state.n_no_improvement"),
        },
        "stored_losses": None
        if best is None
        else {
            "fx_best": best,
            "fx_prev": value("optimizer.state.fx_prev"),
            "n_threads": value("optimizer.params.n_threads"),
            "k": value("optimizer.state.k"),
            "pf": past,
        },
    }
