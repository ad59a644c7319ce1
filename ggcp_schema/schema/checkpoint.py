"""The ggcp file. All numbers are little-endian."""

from ggcp_schema.constructs import EndOfFile, Items, OneOf, Record, UInt32
from ggcp_schema.schema.model import HPARAMS, LAYER, N_EMBD, N_LAYER, N_VOCAB
from ggcp_schema.schema.optimizer import OPTIMIZER
from ggcp_schema.schema.tensor import MIN_HEADER, Tensor

MAGIC = 0x67676370

CHECKPOINT = Record(
    "magic" / OneOf(UInt32, {MAGIC: "'ggcp'"}) * "on disk the bytes 'pcgg'",
    "version" / OneOf(UInt32, {0: ""}) * "the only one ever written",
    "train_its" / UInt32 * "iterations; wraps at 2**32",
    "train_samples" / UInt32 * "samples seen; wraps at 2**32",
    "train_tokens" / UInt32 * "tokens seen; wraps at 2**32",
    "hparams" / HPARAMS,
    "tok_embeddings" / Tensor(N_EMBD, N_VOCAB),
    "norm" / Tensor(N_EMBD),
    "output" / Tensor(N_EMBD, N_VOCAB),
    "layers" / Items(N_LAYER, LAYER, floor=len(LAYER.fields) * MIN_HEADER),
    "optimizer" / OPTIMIZER * "follows the last tensor's data at once, with no alignment",
    EndOfFile(),
)
