"""A LoRA adapter of 2023 as a folder for Hugging Face's PEFT: `adapter_config.json`, `adapter_model.safetensors`.

All pairs get one rank, for which smaller ones are padded with zeros: llama.cpp's converter and vLLM know no others.
PEFT has no pairs of norms, but saves whole tensors; those two do not take these, so the norms can be left to the base.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import UsageError, shell_word
from ggcp_schema.files.tensor_entries import TensorEntry
from ggcp_schema.huggingface.tensors import module_name
from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.llama.names import layer_and_name
from ggcp_schema.mapping.adapter import new_norm, small

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PEFT = "peft"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def peft_config(adapter: Adapter, base: Base, base_name: str, *, norms: bool) -> dict[str, Any]:
    """Return `adapter_config.json`: the keys that PEFT, llama.cpp's converter and vLLM need, and no others.

    `base_name` is a folder or the name of a model on Hugging Face's hub. `norms` tells if the norms are saved as whole
    tensors. Raises `UsageError` if the adapter has pairs of norms alone.
    """
    alpha = adapter.scale * rank(adapter)
    return {
        "base_model_name_or_path": base_name,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        **({"modules_to_save": _modules(adapter.norms, base)} if norms and adapter.norms else {}),
        "peft_type": "LORA",
        "r": rank(adapter),
        "target_modules": _modules(adapter.matrices, base),
        "task_type": "CAUSAL_LM",
    }


def _modules(paths: Iterable[str], base: Base) -> list[str]:
    """Return the names by which PEFT finds the modules: `q_proj` if all layers of the base have a pair for theirs."""
    chosen = set(paths)
    names = {layer_and_name(path)[1] for path in chosen}
    whole = {name for name in names if all(path in chosen for path in base.tensors if layer_and_name(path)[1] == name)}
    modules = {path: module_name(path) for path in chosen}
    return sorted(
        {name.rpartition(".")[2] if layer_and_name(path)[1] in whole else name for path, name in modules.items()}
    )


def rank(adapter: Adapter) -> int:
    """Return the rank of all pairs: the largest. Raises `UsageError` if there is none."""
    if not adapter.matrices:
        raise UsageError(f"{adapter.path}: the adapter has no pair but those of norms, so it cannot be one for PEFT")
    return max(adapter.pairs[path].rank for path in adapter.matrices)


def peft_tensors(adapter: Adapter, base: Base, *, norms: bool) -> list[TensorEntry]:
    """Return the tensors of `adapter_model.safetensors`; shapes are in ggml order, the reverse of safetensors'.

    `lora_A` is A transposed and `lora_B` is B, whose rows of q and k are in Hugging Face's order. Those of the
    embeddings are B transposed and A. With `norms` the norms follow, with those of the base. The adapter must fit.
    """
    r, tensors = rank(adapter), []
    for path in adapter.matrices:
        name, (n_in, n_out) = f"{PREFIX}{module_name(path)}", adapter.pairs[path].shape
        a, b = (partial(_padded, adapter, base, path, factor, r) for factor in (0, 1))
        if path == "tok_embeddings":
            tensors.append(small(f"{name}.lora_embedding_A", (n_out, r), lambda b=b: b().T))  # type: ignore[misc]
            tensors.append(small(f"{name}.lora_embedding_B", (r, n_in), a))
        else:
            tensors.append(small(f"{name}.lora_A.weight", (n_in, r), lambda a=a: a().T))  # type: ignore[misc]
            tensors.append(small(f"{name}.lora_B.weight", (r, n_out), b))
    for path in adapter.norms if norms else ():
        name, shape = f"{PREFIX}{module_name(path)}.weight", base.tensors[path].shape
        tensors.append(small(name, shape, partial(new_norm, adapter, base, path)))
    return tensors


def _padded(adapter: Adapter, base: Base, path: str, factor: int, r: int) -> npt.NDArray[np.float32]:
    import numpy as np

    values = adapter.factors(path, base.heads, hf_rows=True)[factor]
    return np.pad(values, ((0, 0), (0, r - values.shape[1])))


def peft_card(adapter: Adapter, base: str, *, is_folder: bool, is_gguf: bool, norms: str) -> str:
    """Return README.md, with a program that runs in the folder. `base` is the path of the base as it was stated.

    transformers opens folders and GGUF files; of another base a folder has to be made. `norms` says where those of the
    adapter are: "saved", in the "base", "ignored", or "none".
    """
    told = {
        "saved": "Its norms are saved as whole tensors, so that it fits this base alone.",
        "base": "The norms that were trained are in the base model, without which it is not the finetune.",
        "ignored": "The norms that were trained are left out, so that it is not the whole finetune.",
        "none": "It changes no norms.",
    }
    base = os.path.abspath(base)  # the program runs in the folder
    place, name = os.path.split(base)
    load = _quoted(base) if is_folder else f"{_quoted(place)}, gguf_file={_quoted(name)}"
    is_made = not (is_folder or is_gguf)
    return CARD.format(
        base=_quoted(name),
        file=Path(adapter.path).name,
        writer=f", written by {adapter.writer}" if adapter.writer else "",
        norms=told[norms],
        load=_quoted("base-hf") if is_made else load,
        needs="torch, transformers and peft" if is_folder or is_made else "torch, transformers, peft and gguf",
        where="" if is_made else " It opens the base model where that was when this folder was written.",
        first=MAKE.format(command=f"ggcp-schema export {shell_word(base)} base-hf --to hf") if is_made else "",
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
---

# LoRA adapter

Made from `{file}`{writer}. {norms}

{first}This program continues a text. Run it in this folder; it needs {needs}.{where}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({load})
model = AutoModelForCausalLM.from_pretrained({load})
model = PeftModel.from_pretrained(model, ".")
inputs = tokenizer("Once upon a time", return_tensors="pt")
outputs = model.generate(**inputs, max_new_tokens=30, do_sample=False)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
```

To go on training it, pass `is_trainable=True`; `model.merge_and_unload()` returns one model.
"""

MAKE = """\
Make a folder of the base model first, here: `{command}`. The command says what else it needs.

"""
