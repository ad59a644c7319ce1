"""The tensors of a model folder: the weights, and Adam's moments, as places in the input. Nothing is read here."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from ggcp_schema.errors import UsageError
from ggcp_schema.files.source import Rows
from ggcp_schema.files.tensor import ELEMENT_SIZES, LITTLE, Tensor, decode, encode
from ggcp_schema.files.tensor_entries import Computed, FileData, TensorEntry
from ggcp_schema.llama.names import layer_and_name
from ggcp_schema.llama.parameters import Layout
from ggcp_schema.llama.rotation import Heads, halves
from ggcp_schema.llama.scale import divided

MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
"""torch's names of Adam's moments, by the names of the trainers."""
# In the order of `named_parameters()`.
EMBEDDINGS = {"tok_embeddings": "model.embed_tokens"}
LAYER = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w3": "mlp.up_proj",
    "w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
HEAD = {"norm": "model.norm", "output": "lm_head"}


def weight_tensors(
    tensors: Mapping[str, Tensor], *, n_head: int, n_head_kv: int | None = None, dtype: str = "F32"
) -> list[TensorEntry]:
    """Return a model's weights by transformers' names, in the order of `named_parameters()`.

    `tensors` are a whole model's by ggcp path; `dtype` is F32, F16 or BF16. Raises `UsageError` for quantized weights.
    """
    heads = Heads(n_head, n_head_kv or n_head)
    found = []
    for path, name in parameter_names(layer_count(tensors)).items():
        tensor = tensors[path]
        if tensor.type not in ELEMENT_SIZES:
            raise UsageError(
                f"{tensor.source.path}: tensor {tensor.path} is {tensor.type}, but a folder is made of weights in "
                f"{', '.join(ELEMENT_SIZES)}",
                "Pass the file that the model was quantized from.",
            )
        found.append(_entry(name, path, tensor, heads, dtype))
    return found


def moment_tensors(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], *, order: str, scale: int = 1, step: int, n_head: int
) -> list[TensorEntry]:
    """Return Adam's moments of each parameter as torch has them, and `step`, the count of iterations.

    They are `exp_avg.NAME`, which is m divided by `scale`, and `exp_avg_sq.NAME`, v divided by its square. `tensors`
    are a model's by ggcp path; `state` has the flat vectors m and v, whose parameters are in that order. Raises
    `UsageError` for an unknown order, `UnfitError` if the tensors are not those of a whole model.
    """
    layout = Layout.of(order, tensors)
    heads = Heads(n_head, n_head)
    found = []
    for power, (field, prefix) in enumerate(MOMENTS.items(), 1):
        for path, name in parameter_names(layer_count(tensors)).items():
            vector, shape = state[field], tensors[path].shape
            (part,) = layout.by_path[path].of(vector, vector.path, shape, layout.n_params)
            found.append(_entry(f"{prefix}.{name}", path, part, heads, "F32", scale**power))
    return [*found, TensorEntry("step", (), Computed(lambda: [struct.pack("<f", step)]))]


def layer_count(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of layers of a model whose tensors are given by ggcp path."""
    return sum(layer_and_name(path)[1] == "wq" for path in tensors)


def _entry(name: str, path: str, tensor: Tensor, heads: Heads, dtype: str, divisor: int = 1) -> TensorEntry:
    """Return a parameter, or its part of a vector, as `dtype` in the order of transformers, divided in float32."""

    def converted(chunk: memoryview) -> memoryview:
        return divided(encode(decode(chunk, tensor.type, tensor.byte_order), dtype), divisor)

    is_stored_so = tensor.type == dtype and divisor == 1 and tensor.byte_order == LITTLE
    extents: tuple[Rows, ...] = (Rows(tensor.offset, tensor.nbytes),) if tensor.nbytes else ()
    if extents and (n_head := heads.of(path)) is not None:
        extents = halves(tensor.offset, tensor.nbytes // tensor.shape[1], tensor.shape[1], n_head)
    data = FileData(tensor.path, tensor.source, extents, None if is_stored_so else converted)
    return TensorEntry(name, tensor.shape, data, dtype)


def module_name(path: str) -> str:
    """Return transformers' name of a tensor's module by its ggcp path: `lm_head`, `model.layers.0.self_attn.q_proj`."""
    layer, name = layer_and_name(path)
    return (EMBEDDINGS | HEAD)[name] if layer is None else f"model.layers.{layer}.{LAYER[name]}"


def parameter_names(n_layer: int) -> dict[str, str]:
    """Return transformers' names by ggcp path, in the order of `named_parameters()`.

    `layers[0].wq` is `model.layers.0.self_attn.q_proj.weight`.
    """
    layers = [f"layers[{layer}].{name}" for layer in range(n_layer) for name in LAYER]
    return {path: f"{module_name(path)}.weight" for path in (*EMBEDDINGS, *layers, *HEAD)}
