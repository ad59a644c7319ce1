"""The ggcp file: a checkpoint of llama.cpp's train-text-from-scratch (2023). All numbers are little-endian."""

from ggcp_schema.constructs import Array, Computed, Const, Int32ul, Struct
from ggcp_schema.schema.ggml import LATER_VERSION
from ggcp_schema.schema.inference import n_ff
from ggcp_schema.schema.model import HPARAMS, LAYER, N_EMBD, N_LAYER, N_VOCAB
from ggcp_schema.schema.optimizer import OPTIMIZER
from ggcp_schema.schema.tensor import Tensor
from ggcp_schema.schema.trailing import TRAILING

CHECKPOINT = Struct(
    "magic" / Const(0x67676370, Int32ul) * "on disk the bytes 'pcgg'",
    "version" / Const(0, Int32ul, above=LATER_VERSION) * "the only version ever written",
    "train_its" / Int32ul * "iterations; wraps at 2**32",
    "train_samples" / Int32ul * "samples seen; wraps at 2**32",
    "train_tokens" / Int32ul * "tokens seen; wraps at 2**32",
    "hparams" / HPARAMS,
    "tok_embeddings" / Tensor(N_EMBD, N_VOCAB),
    "norm" / Tensor(N_EMBD),
    "output" / Tensor(N_EMBD, N_VOCAB),
    "n_ff" / Computed(n_ff) * "width of the feed-forward layers: from the shape of layers[0].w1",
    "layers" / Array(N_LAYER, LAYER),
    "optimizer" / OPTIMIZER * "starts right after the last tensor's data, unaligned",
    TRAILING,
    root=True,
    type_name="checkpoint",
)
