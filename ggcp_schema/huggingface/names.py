"""The names by which transformers' LlamaForCausalLM knows the parameters of a model."""

from __future__ import annotations

from ggcp_schema.llama.names import layer_and_name

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
