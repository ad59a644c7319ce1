"""llama.cpp's LoRA files of 2023. All numbers are little-endian.

ggcl is a checkpoint of finetune (16 to 29 August 2023). The rank is chosen for each kind of tensor. The trained
function is W + B·A, without a factor.

ggla is an adapter by finetune or convert-lora-to-ggml.py (April 2023 to July 2024), often in a file called .gguf.
The name of a tensor says what it belongs to: `blk.0.attn_q.weight.loraA`, until 23 August 2023
`layers.0.attention.wq.weight.loraA`. A has the shape [r, n_in], B [r, n_out], and B of a norm [r, 1] or [r].
"""

from ggcp_schema.constructs import (
    Array,
    Computed,
    Const,
    Error,
    Int32sl,
    Int32ul,
    Int64sl,
    OneOf,
    Struct,
    Switch,
    kaitai,
    this,
)
from ggcp_schema.schema.ggml import GGML_TYPES, LATER_VERSION
from ggcp_schema.schema.ggml_model import TO_END, tensors
from ggcp_schema.schema.inference import ADAM, LBFGS, infer_optimizer_type, optimizer_type, width_ahead, width_of
from ggcp_schema.schema.model import HPARAMS, N_EMBD, N_FF, N_LAYER, N_VOCAB
from ggcp_schema.schema.optimizer import ADAM_STATE, LBFGS_STATE, SIZE
from ggcp_schema.schema.tensor import Tensor
from ggcp_schema.schema.trailing import TRAILING

LAYER_RANKS = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")
MODEL_RANKS = ("tok_embeddings", "norm", "output")
BEFORE_W1_B = 13  # tensors of a layer that precede w1_b


def pair(name, n_in, n_out):
    """Return the two tensors that are added to a tensor of n_out rows of n_in numbers as their product."""
    rank = getattr(this._root.n_rank, name)
    return f"{name}_a" / Tensor(rank, n_in), f"{name}_b" / Tensor(rank, n_out)


@kaitai("hparams.n_layer > 0 ? n_ff_ahead.width : 0", **width_ahead(BEFORE_W1_B))
def n_ff_of_w1_b(ggcl):
    """Return the width of the feed-forward layers: the second dimension of layers[0].w1_b; None if there is none."""
    return width_of(ggcl, "w1_b", BEFORE_W1_B)


@kaitai("inference.type")
def inferred_type(optimizer):
    """Return the type of the optimizer, adam or lbfgs, which is not stored: see infer_optimizer_type."""
    return optimizer_type(optimizer)


LAYER = Struct(
    *pair("attention_norm", N_EMBD, 1),
    *pair("wq", N_EMBD, N_EMBD),
    *pair("wk", N_EMBD, N_EMBD),
    *pair("wv", N_EMBD, N_EMBD),
    *pair("wo", N_EMBD, N_EMBD),
    *pair("ffn_norm", N_EMBD, 1),
    *pair("w1", N_EMBD, N_FF),
    *pair("w2", N_FF, N_EMBD),
    *pair("w3", N_EMBD, N_FF),
    type_name="layer",
)

OPTIMIZER = Struct(
    "version" / Const(1, Int32ul),
    "past" / Int32ul * "past losses kept",
    "lbfgs_m" / Int32ul * "0 in Adam files",
    "nx" / OneOf(Int64sl, SIZE) * "number of parameters: the elements of all the adapter's tensors",
    "iter" / Int32sl * "iterations of the optimizer; 0 with L-BFGS, which counts in state.k",
    "just_initialized" / OneOf(Int32ul, (0, 1), critical=False),
    "inference" / Computed(infer_optimizer_type) * "the type is not stored: how it was found",
    "type" / Computed(inferred_type) * "adam or lbfgs",
    "state" / Switch(this.type, {ADAM: ADAM_STATE, LBFGS: LBFGS_STATE}, default=Error),
    type_name="optimizer",
)

RANKS = Struct(*(name / Int32ul for name in (*LAYER_RANKS, *MODEL_RANKS)), type_name="ranks")

GGCL = Struct(
    "magic" / Const(0x6767636C, Int32ul) * "on disk the bytes 'lcgg'",
    "version" / Const(0, Int32ul, above=LATER_VERSION) * "the only version ever written",
    "train_its" / Int32ul * "iterations; wraps at 2**32",
    "train_samples" / Int32ul * "samples seen; wraps at 2**32",
    "train_tokens" / Int32ul * "tokens seen; wraps at 2**32",
    "hparams" / HPARAMS * "of the base model",
    "n_rank" / RANKS * "rank of each kind of tensor",
    *pair("tok_embeddings", N_EMBD, N_VOCAB),
    *pair("norm", N_EMBD, 1),
    *pair("output", N_EMBD, N_VOCAB),
    "n_ff" / Computed(n_ff_of_w1_b) * "width of the feed-forward layers: from the shape of layers[0].w1_b",
    "layers" / Array(N_LAYER, LAYER),
    "optimizer" / OPTIMIZER * "starts right after the last tensor's data, unaligned",
    TRAILING,
    root=True,
    type_name="ggcl",
)

TYPES = {number: GGML_TYPES[number] for number in (0, 1)}

GGLA = Struct(
    "magic" / Const(0x67676C61, Int32ul) * "on disk the bytes 'algg'",
    "version" / Const(1, Int32ul, above=LATER_VERSION) * "the only version ever written",
    "r" / Int32sl * "rank; a tensor may have another",
    "alpha" / Int32sl * "llama.cpp multiplied each product of B and A by alpha / r, whatever the tensor's own rank",
    "tensors" / tensors(TYPES, aligned=True) * TO_END,
    TRAILING,
    root=True,
    type_name="ggla",
)
