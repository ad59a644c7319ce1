"""The model: its hyper-parameters and its weights."""

from ggcp_schema.constructs import Record, Ref, Stated, UInt32
from ggcp_schema.schema.tensor import Tensor

N_VOCAB = Ref("hparams.n_vocab")
N_EMBD = Ref("hparams.n_embd")
N_LAYER = Ref("hparams.n_layer")
N_FF = Stated("n_ff")

HPARAMS = Record(
    "n_vocab" / UInt32 * "tokens of the vocabulary",
    "n_embd" / UInt32 * "width of the embedding",
    "n_mult" / UInt32 * "n_ff was rounded up to a multiple of this; not to be relied on",
    "n_head" / UInt32 * "attention heads",
    "n_layer" / UInt32 * "transformer layers",
    "n_rot" / UInt32 * "dimensions of each head that RoPE rotates",
)

LAYER = Record(
    "attention_norm" / Tensor(N_EMBD),
    "wq" / Tensor(N_EMBD, N_EMBD),
    "wk" / Tensor(N_EMBD, N_EMBD),
    "wv" / Tensor(N_EMBD, N_EMBD),
    "wo" / Tensor(N_EMBD, N_EMBD),
    "ffn_norm" / Tensor(N_EMBD),
    "w1" / Tensor(N_EMBD, N_FF) * "the first to state n_ff; w1, w2 and w3 of all layers agree",
    "w2" / Tensor(N_FF, N_EMBD),
    "w3" / Tensor(N_EMBD, N_FF),
)
