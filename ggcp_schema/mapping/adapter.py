"""A LoRA adapter of 2023 as the GGUF adapter that present-day llama.cpp takes, and the base with its norms.

llama.cpp multiplies a pair by alpha divided by the pair's own rank, and by 1 if alpha is 0; so alpha is 0 here, and B
is multiplied by the scale. It accepts pairs of norms and ignores them, so they are left out: they can be added to the
norms of the base, which are F32 in quantized models too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Change
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor import MARKS
from ggcp_schema.files.tensor_entries import Computed, TensorEntry
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter, Base
from ggcp_schema.llama.rotation import Heads

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def small(name: str, shape: tuple[int, ...], values: Callable[[], npt.NDArray[np.floating]]) -> TensorEntry:
    """Return an F32 tensor whose values are computed at once; `shape` is in ggml order."""

    def chunks() -> Iterator[bytes]:
        import numpy as np

        with np.errstate(over="ignore"):  # the result is infinite
            data = values().astype("<f4").tobytes()
        yield data

    return TensorEntry(name, shape, Computed(chunks))


def adapter_keys() -> list[KeyValue]:
    """Return the keys of a GGUF adapter."""
    return [
        KeyValue(names.ARCHITECTURE, "STRING", "llama"),
        KeyValue("general.type", "STRING", "adapter"),
        KeyValue("adapter.type", "STRING", "lora"),
        KeyValue(names.LORA_ALPHA, "FLOAT32", 0.0),
    ]


def adapter_tensors(adapter: Adapter, heads: Heads, only: Iterable[str] | None = None) -> list[TensorEntry]:
    """Return the tensors of a GGUF adapter, two for each pair: of the matrices, or of `only` these.

    `lora_a` is A transposed, [n_in, r], and `lora_b` is B, [r, n_out]. The embeddings, of which rows are looked up,
    have them exchanged and neither transposed. `heads` are those of the base.
    """
    tensors = []
    for path in adapter.matrices if only is None else only:
        name, pair = names.tensor_name(path), adapter.pairs[path]
        n_in, n_out = pair.shape
        a, b = (partial(_factor, adapter, heads, path, index) for index in (0, 1))
        if path == "tok_embeddings":
            tensors.append(small(f"{name}.lora_a", (pair.rank, n_out), b))
            tensors.append(small(f"{name}.lora_b", (pair.rank, n_in), a))
        else:
            tensors.append(small(f"{name}.lora_a", (n_in, pair.rank), lambda a=a: a().T))  # type: ignore[misc]
            tensors.append(small(f"{name}.lora_b", (pair.rank, n_out), b))
    return tensors


def _factor(adapter: Adapter, heads: Heads, path: str, index: int) -> npt.NDArray[np.floating]:
    """Return A, or B with the scale."""
    factor = adapter.factors(path, heads)[index]
    return factor.astype("f8") * adapter.scale if index and adapter.scale != 1 else factor


def changed_norms(adapter: Adapter, base: Base) -> Iterator[Change]:
    """Yield the changes of the base that add the norms of the adapter to its own, in the type and byte order they have.

    Raises `UsageError` if a norm is not F32.
    """
    for path in adapter.norms:
        tensor = base.tensors[path]
        data = new_norm(adapter, base, path).astype(f"{MARKS[tensor.byte_order]}f4").tobytes()
        yield Change(path, tensor.offset, len(data), "that of the adapter is added", partial(iter, [data]))


def new_norm(adapter: Adapter, base: Base, path: str) -> npt.NDArray[np.floating]:
    """Return a norm of the base with that of the adapter added. Raises `UsageError` if it is not F32."""
    tensor = base.tensors[path]
    if tensor.type != "F32":
        raise UsageError(f"{base.path}: {tensor.name} is {tensor.type}, expected F32, as llama.cpp requires of a norm")
    return tensor.array().astype("f8") + adapter.product(path, base.heads)
