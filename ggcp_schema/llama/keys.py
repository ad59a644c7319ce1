"""The GGUF keys of a training state that are fields of a ggcp or a ggcl file: key, type, and path of the field.

They stand in the order in which the converters of 2023 wrote them.
"""

from __future__ import annotations

from ggcp_schema.llama import names
from ggcp_schema.schema.inference import ADAM, LBFGS

COUNTS = (
    (names.TRAINING_ITERATION_COUNT, "UINT32", "train_its"),
    (names.TRAINING_SAMPLE_COUNT, "UINT32", "train_samples"),
    (names.TRAINING_TOKEN_COUNT, "UINT32", "train_tokens"),
    (names.EMBEDDING_LENGTH, "UINT32", "hparams.n_embd"),
    (names.HEAD_COUNT, "UINT32", "hparams.n_head"),
    (names.BLOCK_COUNT, "UINT32", "hparams.n_layer"),
)
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
