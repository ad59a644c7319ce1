"""GGUF names: those of ggml's specification, and those that train-text-from-scratch added for training."""

# ruff: noqa: S105 - tokens of text are no secrets

ARCHITECTURE = "general.architecture"
NAME = "general.name"
FILE_TYPE = "general.file_type"
SIZE_LABEL = "general.size_label"
QUANTIZATION_VERSION = "general.quantization_version"

RMS_EPSILON = "llama.attention.layer_norm_rms_epsilon"
EMBEDDING_LENGTH = "llama.embedding_length"
HEAD_COUNT = "llama.attention.head_count"
HEAD_COUNT_KV = "llama.attention.head_count_kv"
BLOCK_COUNT = "llama.block_count"
ROPE_DIMENSION_COUNT = "llama.rope.dimension_count"
ROPE_FREQ_BASE = "llama.rope.freq_base"
FEED_FORWARD_LENGTH = "llama.feed_forward_length"
CONTEXT_LENGTH = "llama.context_length"
VOCAB_SIZE = "llama.vocab_size"
ROPE_SCALE_LINEAR = "llama.rope.scale_linear"

TOKENIZER = "tokenizer."
TOKENIZER_MODEL = "tokenizer.ggml.model"
TOKENS = "tokenizer.ggml.tokens"
TOKEN_SCORES = "tokenizer.ggml.scores"
TOKEN_TYPES = "tokenizer.ggml.token_type"
TOKEN_ID = "tokenizer.ggml.{}_token_id"

TRAINING_FILE_VERSION = "training.file_version"
TRAINING_TYPE = "training.type"
TRAINING_ITERATION_COUNT = "training.iteration_count"
TRAINING_SAMPLE_COUNT = "training.sample_count"
TRAINING_TOKEN_COUNT = "training.token_count"

OPTIMIZER_FILE_VERSION = "optimizer.file_version"
OPTIMIZER_PAST_COUNT = "optimizer.convergence_past_count"
OPTIMIZER_PARAMETER_COUNT = "optimizer.parameter_count"
OPTIMIZER_ITERATION_COUNT = "optimizer.iteration_count"
OPTIMIZER_JUST_INITIALIZED = "optimizer.just_initialized"
OPTIMIZER_TYPE = "optimizer.type"

ADAM_BEST_LOSS = "optimizer.adam.best_loss"
ADAM_PREVIOUS_LOSS = "optimizer.adam.previous_loss"
ADAM_NO_IMPROVEMENT_COUNT = "optimizer.adam.no_improvement_count"

LBFGS_APPROX_HESSIAN_COUNT = "optimizer.lbfgs.approx_hessian_count"
LBFGS_BEST_LOSS = "optimizer.lbfgs.best_loss"
LBFGS_LINE_SEARCH_STEP = "optimizer.lbfgs.line_search_step"
LBFGS_LINE_SEARCH_J = "optimizer.lbfgs.line_search_j"
LBFGS_LINE_SEARCH_K = "optimizer.lbfgs.line_search_k"
LBFGS_LINE_SEARCH_END = "optimizer.lbfgs.line_search_end"
LBFGS_NO_IMPROVEMENT_COUNT = "optimizer.lbfgs.no_improvement_count"

ROPE_FREQS = "rope_freqs.weight"

MODEL_TENSORS = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
LAYER_TENSORS = {
    "attention_norm": "attn_norm",
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "w1": "ffn_gate",
    "w2": "ffn_down",
    "w3": "ffn_up",
}
OPTIMIZER_TENSORS = {
    "adam": {"m": "first_moments", "v": "second_moments", "pf": "past_loss_values"},
    "lbfgs": {
        "x": "current_parameters",
        "xp": "previous_parameters",
        "g": "current_gradients",
        "gp": "previous_gradients",
        "d": "search_direction",
        "pf": "past_loss_values",
        "lmal": "memory_alpha",
        "lmys": "memory_ys",
        "lms": "memory_s",
        "lmy": "memory_y",
    },
}


def tensor_name(path: str, optimizer_type: str | None = None) -> str | None:
    """The GGUF name of the tensor at a field path (`layers[0].wq`: `blk.0.attn_q.weight`); None if it has none,
    as the v0 Adam tensors that no reader needs. The optimizer's tensors need its type."""
    if path in MODEL_TENSORS:
        return f"{MODEL_TENSORS[path]}.weight"
    head, _, field = path.rpartition(".")
    if head.startswith("layers[") and field in LAYER_TENSORS:
        return f"blk.{head[7:-1]}.{LAYER_TENSORS[field]}.weight"
    if head == "optimizer.state" and field in OPTIMIZER_TENSORS.get(optimizer_type or "", {}):
        return f"optimizer.{optimizer_type}.{OPTIMIZER_TENSORS[optimizer_type or ''][field]}"
    return None


def field_path(name: str) -> str | None:
    """The field path of the tensor of that GGUF name, which `tensor_name` gives back; None if no ggcp file has it."""
    stem = name.removesuffix(".weight")
    for path, gguf in MODEL_TENSORS.items():
        if gguf == stem:
            return path
    first, _, rest = stem.partition(".")
    middle, _, last = rest.partition(".")
    if first == "blk":
        return next((f"layers[{middle}].{field}" for field, gguf in LAYER_TENSORS.items() if gguf == last), None)
    if first == "optimizer":
        fields = OPTIMIZER_TENSORS.get(middle, {})
        return next((f"optimizer.state.{field}" for field, gguf in fields.items() if gguf == last), None)
    return None
