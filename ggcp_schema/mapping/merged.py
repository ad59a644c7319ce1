"""The tensors of a base model with a LoRA adapter added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor import ELEMENT_SIZES, Tensor, encode
from ggcp_schema.files.tensor_entries import TYPES, Computed, TensorEntry
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter, Base, product
from ggcp_schema.llama.rotation import order_of_halves

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def merged(
    adapter: Adapter, base: Base, *, type: str | None = None, hf_rows: bool = False, every: bool = False
) -> dict[str, TensorEntry]:
    """Return the tensors of the base that have a pair, with it added, by path in the base's order.

    They are computed in float64, a few rows at a time, and rounded to `type`, or to the type they have in the base.
    With `hf_rows` the rows of wq and wk are in Hugging Face's order; with `every` the tensors without a pair are
    returned too. The adapter must fit the base. Raises `UsageError` if a tensor cannot be read, or gguf cannot write
    its type, as Q4_K; before anything is read.
    """
    chosen = {path: tensor for path, tensor in base.tensors.items() if every or path in adapter.pairs}
    for tensor in chosen.values():
        check_types(base, tensor, type or tensor.type)
    return {path: _merged(adapter, base, path, type or tensor.type, hf_rows=hf_rows) for path, tensor in chosen.items()}


def check_types(base: Base, tensor: Tensor, type: str) -> None:
    """Check that a tensor can be read, and written as `type`. Raises `UsageError`."""
    import numpy as np

    name = f"{base.path}: {tensor.name} is {tensor.type}"
    if not tensor.is_known:
        raise UsageError(
            f"{name} in the blocks of an older version, which cannot be read",
            "Quantize the model again from the file with F16 or F32 weights that this one was made from.",
        )
    if not tensor.is_readable:
        raise UsageError(f"{name} of a kind that cannot be read", "Pass a model in another type.")
    try:
        _encoded(np.zeros((1, TYPES[type].block_size)), type)
    except (NotImplementedError, KeyError) as error:  # a KeyError for a type that the installed gguf does not know
        raise UsageError(
            f"{base.path}: {tensor.name} is {type}, which cannot be written, so the adapter cannot be merged into this "
            "model",
            "Make an adapter for it instead (--to adapter), which goes with a model of any type.",
        ) from error


def _merged(adapter: Adapter, base: Base, path: str, type: str, *, hf_rows: bool) -> TensorEntry:
    tensor, pair = base.tensors[path], adapter.pairs.get(path)
    n_head = base.heads.of(path) if hf_rows else None
    n_in, n_rows = (*tensor.shape, 1)[:2]

    def chunks() -> Iterator[memoryview]:
        import numpy as np

        a, b = adapter.factors(path, base.heads) if pair else (None, None)
        head_size = n_rows // n_head if n_head else 1
        step = max(1, CHUNK // (8 * n_in * head_size)) * head_size  # whole heads, whose rows change places
        for start in range(0, n_rows, step):
            values = tensor.values(start * n_in, min(start + step, n_rows) * n_in)
            rows: npt.NDArray[np.floating] = np.concatenate([*values]).reshape(-1, n_in)
            if a is not None and b is not None:
                rows = product(a, b[start : start + step], adapter.scale) + rows
            yield _encoded(rows[order_of_halves(len(rows), len(rows) // head_size)] if n_head else rows, type)

    sources = (*((pair.a.source,) if pair else ()), tensor.source)
    return TensorEntry(str(names.tensor_name(path)), tensor.shape, Computed(chunks, sources), type)


def _encoded(rows: npt.NDArray[np.floating], type: str) -> memoryview:
    """Return the little-endian data of rows as `type`.

    Raises `NotImplementedError` or `KeyError` if gguf does not know the type.
    """
    if type in ELEMENT_SIZES:
        return encode(rows, type)
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    with np.errstate(all="ignore"):  # what is out of range becomes infinite
        blocks: npt.NDArray[np.uint8] = quantize(rows.astype(np.float32), GGMLQuantizationType[type])
    return blocks.data.cast("B")
