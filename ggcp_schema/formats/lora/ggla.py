"""The ggla file: a LoRA adapter by llama.cpp's finetune or convert-lora-to-ggml.py (April 2023 to July 2024).

The name of a tensor says what it belongs to: `blk.0.attn_q.weight.loraA`, until 23 August 2023
`layers.0.attention.wq.weight.loraA`. A has the shape [r, n_in], B [r, n_out], and B of a norm [r, 1] or [r]. Files by
finetune are often called .gguf. All numbers are little-endian.
"""

from ggcp_schema.constructs import Const, Int32sl, Int32ul, Struct
from ggcp_schema.schema.ggml import GGML_TYPES
from ggcp_schema.schema.ggml_model import TO_END, tensors
from ggcp_schema.schema.trailing import TRAILING

TYPES = {number: GGML_TYPES[number] for number in (0, 1)}

GGLA = Struct(
    "magic" / Const(0x67676C61, Int32ul) * "on disk the bytes 'algg'",
    "version" / Const(1, Int32ul) * "the only version ever written",
    "r" / Int32sl * "rank; a tensor may have another",
    "alpha" / Int32sl * "llama.cpp multiplied each product of B and A by alpha / r, whatever the tensor's own rank",
    "tensors" / tensors(TYPES, aligned=True) * TO_END,
    TRAILING,
    root=True,
    type_name="ggla",
)
