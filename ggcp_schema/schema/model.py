"""The model: its hyper-parameters and its weights."""

from collections.abc import Iterator

from ggcp_schema.constructs import Int32ul, Struct, this
from ggcp_schema.schema.tensor import Tensor

N_VOCAB = this._root.hparams.n_vocab
N_EMBD = this._root.hparams.n_embd
N_LAYER = this._root.hparams.n_layer
N_FF = this._root.n_ff

HPARAMS = Struct(
    "n_vocab" / Int32ul * "tokens of the vocabulary",
    "n_embd" / Int32ul * "width of the embedding",
    "n_mult" / Int32ul * "n_ff was rounded up to a multiple of this; may not match n_ff, which w1's shape tells",
    "n_head" / Int32ul * "attention heads",
    "n_layer" / Int32ul * "transformer layers",
    "n_rot" / Int32ul * "sets the frequencies of RoPE: pair i turns by 10000**(-2i / n_rot) at each position",
    type_name="hparams",
)

LAYER = Struct(
    "attention_norm" / Tensor(N_EMBD),
    "wq" / Tensor(N_EMBD, N_EMBD),
    "wk" / Tensor(N_EMBD, N_EMBD),
    "wv" / Tensor(N_EMBD, N_EMBD),
    "wo" / Tensor(N_EMBD, N_EMBD),
    "ffn_norm" / Tensor(N_EMBD),
    "w1" / Tensor(N_EMBD, N_FF) * "defines n_ff in the first layer; all other w1, w2 and w3 must match",
    "w2" / Tensor(N_FF, N_EMBD),
    "w3" / Tensor(N_EMBD, N_FF),
    type_name="layer",
)


def tensors_of(schema: Struct, n_layer: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors before the optimizer by path, in file order: those of the schema, then those of each layer."""
    fields = dict(schema.fields)
    records = [("", schema), *((f"layers[{layer}].", fields["layers"].subcon) for layer in range(n_layer))]
    for prefix, record in records:
        for name, field in record.fields:
            if isinstance(field, Tensor):
                yield f"{prefix}{name}", field
