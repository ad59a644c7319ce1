"""config.json and generation_config.json, as transformers 4 and 5 both read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO, TextIOWrapper
from typing import Any

from ggcp_schema.errors import UsageError
from ggcp_schema.llama import names
from ggcp_schema.llama.model import Model

TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def model_config(
    model: Model, rms_eps: float, context_length: int, ids: Mapping[str, int], dtype: str
) -> dict[str, Any]:
    """Return config.json of a LlamaForCausalLM.

    `context_length` is in tokens, `ids` are those of the tokens bos and eos, and `dtype` is a name in `TORCH_DTYPES`.
    Raises `UsageError` if positions are scaled, but not linearly.

    transformers 5 reads `rope_parameters` and `dtype`; transformers 4 ignores these without a word and reads
    `rope_theta`, `rope_scaling` and `torch_dtype`. Both versions read their own key when all are there.
    """
    theta = shortest(model.rotation[1])  # to which a partial rotation is converted as for GGUF
    factor = rope_factor(model)
    linear = {"rope_type": "linear", "factor": shortest(factor)}
    is_scaled = factor != 1
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.n_vocab,
        "hidden_size": model.n_embd,
        "intermediate_size": model.n_ff,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.n_head_kv or model.n_head,
        "head_dim": model.n_embd // model.n_head,
        "hidden_act": "silu",
        "max_position_embeddings": context_length,
        "rms_norm_eps": shortest(rms_eps),
        "rope_theta": theta,
        **({"rope_scaling": linear} if is_scaled else {}),
        "rope_parameters": (linear if is_scaled else {"rope_type": "default"}) | {"rope_theta": theta},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": ids.get("bos"),
        "eos_token_id": ids.get("eos"),
        "pad_token_id": None,
        "torch_dtype": TORCH_DTYPES[dtype],
        "dtype": TORCH_DTYPES[dtype],
        "use_cache": True,
    }


def rope_factor(model: Model) -> float:
    """Return what positions are divided by. Raises `UsageError` if they are scaled in another way."""
    kept = {entry.key: entry.value for entry in model.kept}
    kind = kept.get(names.ROPE_SCALING_TYPE, "linear")
    if kind not in ("linear", "none"):
        found = f"{model.path}: {names.ROPE_SCALING_TYPE} is {kind!r}; a folder is only made of linear scaling"
        raise UsageError(found, "Export to GGUF instead.")
    factor = kept.get(names.ROPE_SCALING_FACTOR, model.freq_scale) if kind == "linear" else 1.0
    return float(factor) or 1.0


def generation_config(ids: Mapping[str, int]) -> dict[str, Any]:
    """Return generation_config.json: the ids of the tokens bos and eos, as far as there are any."""
    return {f"{name}_token_id": ids[name] for name in ("bos", "eos") if name in ids}


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file."""
    data = BytesIO()
    with TextIOWrapper(data, "utf-8", newline="\n") as text:
        json.dump(value, text, ensure_ascii=False, indent=2)  # in parts, of which dumps would make a list
        text.write("\n")
        text.flush()
        return data.getvalue()


def shortest(value: float) -> float:
    """Return the number with the fewest decimal digits that is the same float32: 1e-05 for 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))
