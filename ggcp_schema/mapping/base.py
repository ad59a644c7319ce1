"""The base model of an adapter, in a GGUF file of any type, a ggjt, ggmf or ggml file, or a ggcp checkpoint."""

from __future__ import annotations

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.file import File
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Base
from ggcp_schema.llama.rotation import Heads


def base_of(file: File) -> Base:
    """Return the model in a file. Raises the damage of a damaged file, and `UsageError` if there is no llama model."""
    if file.damage is not None:
        raise file.damage.again()
    keys = file.key_values
    n_head = (file.facts().get("hparams") or {}).get("n_head")
    n_head_kv = keys[names.HEAD_COUNT_KV].value if names.HEAD_COUNT_KV in keys else n_head
    is_llama = names.ARCHITECTURE not in keys or keys[names.ARCHITECTURE].value == "llama"
    heads = [n for n in (n_head, n_head_kv) if isinstance(n, int) and n > 0]
    if file.model_tensors and is_llama and len(heads) == 2:
        return Base(file.path, file.model_tensors, Heads(*heads))
    raise UsageError(f"{file.path} contains no llama model", "Pass the model that was finetuned, in GGUF.")
