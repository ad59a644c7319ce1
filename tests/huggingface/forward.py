"""The forward pass of transformers' Llama in float64, from a folder, after transformers' conventions.

It shares no code with the package, and no convention with the reference of the trainers: heads are turned by halves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[np.float64]


def log_probabilities(folder: Path, tokens: Sequence[int]) -> Array:
    """Return the log probability of every token after each prefix of `tokens`: [prefix, token]."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    rope = dict(config["rope_parameters"])
    assert rope.pop("rope_theta") == config["rope_theta"]
    assert rope == config.get("rope_scaling", {"rope_type": "default"})
    w = {name: values.astype(np.float64) for name, values in load_file(folder / "model.safetensors").items()}
    n_head, size, count = config["num_attention_heads"], config["head_dim"], len(tokens)
    n_head_kv = config["num_key_value_heads"]
    frequencies = config["rope_theta"] ** (-np.arange(0, size, 2) / size)
    angles = np.arange(count)[:, None] / rope.get("factor", 1) * np.concatenate([frequencies, frequencies])
    future = np.triu(np.full((count, count), -np.inf), 1)

    def norm(x: Array, weight: str) -> Array:
        scaled: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[f"{weight}.weight"]
        return scaled

    def heads(x: Array, number: int) -> Array:
        split: Array = np.repeat(x.reshape(count, number, size).swapaxes(0, 1), n_head // number, axis=0)
        return split

    def turned(x: Array) -> Array:
        half = np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1)  # rotate_half
        result: Array = x * np.cos(angles) + half * np.sin(angles)
        return result

    x = w["model.embed_tokens.weight"][list(tokens)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."

        def linear(name: str, h: Array, prefix: str = prefix) -> Array:
            result: Array = h @ w[f"{prefix}{name}.weight"].T
            return result

        h = norm(x, f"{prefix}input_layernorm")
        q = turned(heads(linear("self_attn.q_proj", h), n_head))
        k = turned(heads(linear("self_attn.k_proj", h), n_head_kv))
        v = heads(linear("self_attn.v_proj", h), n_head_kv)
        scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(size) + future)
        attended = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(count, -1)
        x = x + linear("self_attn.o_proj", attended)
        h = norm(x, f"{prefix}post_attention_layernorm")
        gate = linear("mlp.gate_proj", h)
        x = x + linear("mlp.down_proj", gate / (1 + np.exp(-gate)) * linear("mlp.up_proj", h))
    logits = norm(x, "model.norm") @ w["lm_head.weight"].T
    logits -= logits.max(-1, keepdims=True)
    result: Array = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return result
