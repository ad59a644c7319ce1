"""The base model of an adapter, in a GGUF file of any type, a ggjt, ggmf or ggml file, or a ggcp checkpoint."""

from __future__ import annotations

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.file import File
from ggcp_schema.formats.ggcp.checkpoint import Checkpoint
from ggcp_schema.formats.ggml.file import GgmlFile
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Base, Heads, by_path


def base_of(file: File) -> Base:
    """Return the model in a file. Raises the damage of a damaged file, and `UsageError` if there is no llama model."""
    if file.damage is not None:
        raise file.damage.again()
    if isinstance(file, Checkpoint):
        heads = Heads(file.hparams.n_head, file.hparams.n_head)
        return Base(file.path, dict(file.model_tensors), heads)
    if isinstance(file, GgmlFile):
        heads = Heads(file.hparams.n_head, file.hparams.n_head)
    elif isinstance(file, GgufFile) and file.value(names.ARCHITECTURE) == "llama":
        n_head = file.value(names.HEAD_COUNT, 0)
        heads = Heads(n_head, file.value(names.HEAD_COUNT_KV, n_head))
    else:
        raise _no_model(file)
    tensors = by_path(file.tensors)
    if not tensors or not all(isinstance(count, int) and count > 0 for count in heads):
        raise _no_model(file)
    return Base(file.path, tensors, heads)


def _no_model(file: File) -> UsageError:
    return UsageError(f"{file.path} contains no llama model", "Pass the model that was finetuned, in GGUF.")
