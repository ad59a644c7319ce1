"""LoRA adapters as they are compared with each other: as the GGUF adapters that they are or become.

So a pair means the same in all of them: B has its scale, and the pairs of norms are there if the file has some.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import TensorEntry, stored
from ggcp_schema.formats.file import File
from ggcp_schema.llama import names
from ggcp_schema.llama.rotation import Heads
from ggcp_schema.mapping.adapter import adapter_tensors, small


def compares_adapters(a: File, b: File) -> bool:
    """Return True if the adapters of two files are compared, for other names of theirs are not the same.

    Raises `UsageError` if only one of them contains an adapter, so that they have nothing in common.
    """
    both_gguf = a.key_values and b.key_values
    if not (a.has_adapter or b.has_adapter) or (both_gguf and a.kind == b.kind):
        return False
    others = [file for file in (a, b) if not file.has_adapter and names.LORA_ALPHA not in file.key_values]
    if others and not both_gguf:
        raise UsageError(
            f"{a.path} is a {a.short} and {b.path} a {b.short}: they have nothing that can be compared",
            "Compare an adapter with another one: ggla, ggcl, or GGUF.",
        )
    return not others


def pairs_and_state(file: File) -> Iterator[tuple[Tensor, TensorEntry]]:
    """Yield the tensors of the adapter and of the optimizer, with what they are in GGUF.

    Rows are in the order in which the file has them. Of a damaged file the state is left out. Raises the damage if the
    adapter is not whole.
    """
    if not file.has_adapter:
        yield from ((tensor, _scaled(file, tensor)) for tensor in file.tensors.values())
        return
    adapter = replace(file.adapter(), hf_rows=False)
    pairs = (pair[::-1] if path == "tok_embeddings" else pair for path, pair in adapter.pairs.items())
    tensors = (tensor for pair in pairs for tensor in pair)
    yield from zip(tensors, adapter_tensors(adapter, Heads(0, 0), adapter.pairs), strict=True)
    if file.damage is None:
        converted = file.converted()
        entries = converted.tensors if converted else (stored(path, one) for path, one in file.tensors.items())
        state = (entry for entry in entries if names.is_optimizer(entry.name))
        yield from ((file.tensors[entry.source_path or ""], entry) for entry in state)


def _scaled(file: File, tensor: Tensor) -> TensorEntry:
    """Return a tensor of a GGUF adapter; B, which the embeddings have as `lora_a`, multiplied by alpha / rank."""
    alpha = file.key_values[names.LORA_ALPHA].value
    part = "lora_a" if tensor.name.startswith(str(names.tensor_name("tok_embeddings"))) else "lora_b"
    if not isinstance(alpha, float) or not alpha or not tensor.name.endswith(part) or not tensor.n_elements:
        return stored(tensor.name, tensor)
    return small(tensor.name, tensor.shape, lambda: tensor.array().astype("f8") * (alpha / tensor.shape[0]))
