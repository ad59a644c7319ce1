"""GGUF names: those of ggml's specification, and train-text-from-scratch's own for training."""

# ruff: noqa: S105 - the rule mistakes "token" for a password

import re

from ggcp_schema.files import key_values

ARCHITECTURE = key_values.ARCHITECTURE
ALIGNMENT = key_values.ALIGNMENT
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
ROPE_SCALING_TYPE = "llama.rope.scaling.type"
ROPE_SCALING_FACTOR = "llama.rope.scaling.factor"

TOKENIZER = "tokenizer."
TOKENIZER_MODEL = "tokenizer.ggml.model"
MERGES = "tokenizer.ggml.merges"
TOKENS = "tokenizer.ggml.tokens"
TOKEN_SCORES = "tokenizer.ggml.scores"
TOKEN_TYPES = "tokenizer.ggml.token_type"
TOKEN_ID = "tokenizer.ggml.{}_token_id"
ADD_TOKEN = "tokenizer.ggml.add_{}_token"
ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"

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

TRAIN_MODEL = "train_model"  # training.type of a checkpoint of a whole model
FINETUNE_LORA = "finetune_lora"  # that of one of finetune

CONVERTED = "ggcp."  # keys by which `convert` records what was known of a checkpoint, and how it changed the vectors
CONVERTED_FROM_ORDER = "ggcp.parameter_order"  # that of the flat vectors before `convert` wrote them in order C
CONVERTED_SCALE = "ggcp.gradient_scale"  # what `convert` divided m by, and v by its square
CONVERTED_SCALE_CERTAIN = "ggcp.gradient_scale_certain"  # false if that is an estimate
CONVERTED_FRESH = "ggcp.fresh_optimizer"  # true if `convert` wrote zeros for the optimizer's state
CONVERTED_WRITERS = "ggcp.writers"  # the programs that may have written the ggcp file: their keys in `llama.writers`
CONVERTED_EPSILON_CERTAIN = "ggcp.rms_epsilon_certain"  # whether all of them computed with the epsilon
CONVERTED_THREADS = "ggcp.n_threads"  # of the trainer: its losses may be sums over the threads

LORA_ALPHA = "adapter.lora.alpha"  # of a GGUF adapter

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
LAYER_FIELDS = {gguf: field for field, gguf in LAYER_TENSORS.items()}
STATE = "optimizer.state."
LAYER_PATH = re.compile(r"layers\[(0|[1-9][0-9]{0,17})\]\.([^.]+)")
LLAMA_GROUPS = dict.fromkeys(("wq", "wk", "wv", "wo"), "attention.") | dict.fromkeys(
    ("w1", "w2", "w3"), "feed_forward."
)
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


BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,17})\.([^.]+)\.weight")
PATHS = {f"{gguf}.weight": path for path, gguf in MODEL_TENSORS.items()} | {
    f"optimizer.{kind}.{gguf}": f"{STATE}{field}"
    for kind, fields in OPTIMIZER_TENSORS.items()
    for field, gguf in fields.items()
}
"""The field paths of the tensors outside of the layers, by GGUF name."""


def is_optimizer(path: str) -> bool:
    """Return True if the path, or the name in a GGUF file, is that of a field or tensor of the optimizer."""
    return path.startswith("optimizer.")


def n_tensors(n_layer: int) -> int:
    """Return the number of tensors of a model."""
    return len(MODEL_TENSORS) + len(LAYER_TENSORS) * n_layer


def layer_and_name(path: str) -> tuple[int | None, str]:
    """Return the layer and the name in a tensor's path: (3, "wq") for `layers[3].wq`, (None, "norm") for `norm`."""
    match = LAYER_PATH.fullmatch(path)
    return (None, path) if match is None else (int(match[1]), match[2])


def tensor_name(path: str, optimizer_type: str | None = None) -> str | None:
    """Return the GGUF name of the tensor at a field path: `blk.0.attn_q.weight` for `layers[0].wq`.

    Return None if it has none, as the v0 Adam tensors that no reader needs. The optimizer's tensors need its type.
    """
    if path in MODEL_TENSORS:
        return f"{MODEL_TENSORS[path]}.weight"
    match = LAYER_PATH.fullmatch(path)
    if match is not None:
        name = LAYER_TENSORS.get(match[2])
        return f"blk.{match[1]}.{name}.weight" if name else None
    head, _, field = path.rpartition(".")
    if head == "optimizer.state" and field in OPTIMIZER_TENSORS.get(optimizer_type or "", {}):
        return f"optimizer.{optimizer_type}.{OPTIMIZER_TENSORS[optimizer_type or ''][field]}"
    return None


def field_path(name: str) -> str | None:
    """Return the field path of the tensor with a GGUF name, the inverse of `tensor_name`; None if there is none."""
    match = BLOCK_NAME.fullmatch(name)
    if match is not None:
        field = LAYER_FIELDS.get(match[2])
        return f"layers[{match[1]}].{field}" if field else None
    return PATHS.get(name)


def llama_name(path: str) -> str | None:
    """Return the name that the trainers until 27 August 2023 gave to a tensor of the model.

    It is `layers.0.attention.wq.weight` for `layers[0].wq`; None if the path is not that of such a tensor.
    """
    if path in MODEL_TENSORS:
        return f"{path}.weight"
    match = LAYER_PATH.fullmatch(path)
    if match is None or match[2] not in LAYER_TENSORS:
        return None
    return f"layers.{match[1]}.{LLAMA_GROUPS.get(match[2], '')}{match[2]}.weight"


def llama_field_path(name: str) -> str | None:
    """Return the field path of the tensor with that name, the inverse of `llama_name`; None if there is none."""
    stem = name.removesuffix(".weight")
    *layer, field = stem.split(".")
    path = f"layers[{layer[1]}].{field}" if len(layer) > 1 else stem
    return path if llama_name(path) == name else None
