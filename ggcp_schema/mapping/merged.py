"""The tensors of a base model with a LoRA adapter added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import UsageError
from ggcp_schema.files.pieces import TYPES, Computed, TensorEntry
from ggcp_schema.files.tensor import ELEMENT_SIZES, LITTLE, Tensor, decode
from ggcp_schema.llama import names
from ggcp_schema.llama.adapter import Adapter, Base, hf_order, product
from ggcp_schema.schema.ggml import data_size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def merged(adapter: Adapter, base: Base, *, type: str | None = None, hf_rows: bool = False) -> dict[str, TensorEntry]:
    """Return the tensors of the base that have a pair, with it added, by path in the base's order.

    They are computed in float64, a few rows at a time, and rounded to `type`, or to the type they have in the base.
    With `hf_rows` the rows of wq and wk are in Hugging Face's order. The adapter must fit the base. Raises `UsageError`
    if gguf cannot write one of the types, as Q4_K, before anything is read.
    """
    for path, tensor in base.tensors.items():
        if path in adapter.pairs:
            check_types(base, tensor, type or tensor.type)
    return {
        path: _merged(adapter, base, path, type or tensor.type, hf_rows=hf_rows)
        for path, tensor in base.tensors.items()
        if path in adapter.pairs
    }


def check_types(base: Base, tensor: Tensor, type: str) -> None:
    """Check that a tensor can be read, and written as `type`. Raises `UsageError`."""
    import numpy as np

    name = f"{base.path}: {tensor.name}"
    if not _is_readable(tensor):
        raise UsageError(f"{name} is {tensor.type} of a kind that cannot be read", "Pass a model in GGUF.")
    if not _is_done(partial(encode, np.zeros((1, TYPES[type].block_size)), type)):
        raise UsageError(
            f"{name} is {type}, which cannot be written, so the adapter cannot be merged into this model",
            "Make an adapter for it instead, which goes with a model of any type.",
        )


def _is_readable(tensor: Tensor) -> bool:
    """Return whether the rows of a tensor can be read: ggml's older blocks and big-endian ones cannot."""
    import numpy as np

    known = TYPES.get(tensor.type)
    if known is None or tensor.shape[0] % known.block_size or tensor.nbytes != data_size(known, list(tensor.shape)):
        return False
    if tensor.type in ELEMENT_SIZES:
        return True
    zeros = np.zeros((1, known.type_size), np.uint8)
    return tensor.byte_order == LITTLE and _is_done(partial(dequantized, zeros, tensor.type))


def _is_done(convert: Callable[[], Any]) -> bool:
    """Return whether gguf can convert this type."""
    try:
        convert()
    except (NotImplementedError, KeyError):  # a KeyError for a type that the installed gguf does not know
        return False
    return True


def _merged(adapter: Adapter, base: Base, path: str, type: str, *, hf_rows: bool) -> TensorEntry:
    tensor = base.tensors[path]
    n_head = base.heads.of(path) if hf_rows else None

    def chunks() -> Iterator[bytes]:
        a, b = adapter.factors(path, base.heads)
        head_size = len(b) // n_head if n_head else 1
        step = max(1, CHUNK // (8 * len(a) * head_size)) * head_size  # whole heads, whose rows change places
        for start in range(0, len(b), step):
            rows = product(a, b[start : start + step], adapter.scale)
            rows += read_rows(tensor, start, start + len(rows))
            yield encode(rows[hf_order(len(rows), len(rows) // head_size)] if n_head else rows, type)

    sources = (adapter.pairs[path].a.source, tensor.source)
    return TensorEntry(str(names.tensor_name(path)), tensor.shape, Computed(chunks, sources), type)


def read_rows(tensor: Tensor, start: int, stop: int) -> npt.NDArray[np.float32]:
    """Return rows of a tensor of any type, [row, column]; a vector is one row."""
    import numpy as np

    size = tensor.nbytes * tensor.shape[0] // tensor.n_elements
    data = tensor.source.read(tensor.offset + start * size, (stop - start) * size)
    if tensor.type in ELEMENT_SIZES:
        return decode(data, tensor.type, tensor.byte_order).reshape(stop - start, -1)
    return dequantized(np.frombuffer(data, np.uint8).reshape(stop - start, -1), tensor.type)


def dequantized(blocks: npt.NDArray[np.uint8], type: str) -> npt.NDArray[np.float32]:
    """Return rows of blocks as float32. Raises `NotImplementedError` or `KeyError` if gguf does not know the type."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    rows: npt.NDArray[np.float32] = dequantize(blocks, GGMLQuantizationType[type])
    return rows


def encode(rows: npt.NDArray[np.float64], type: str) -> bytes:
    """Return the little-endian data of rows as `type`. The exceptions are those of `dequantized`."""
    import numpy as np

    with np.errstate(all="ignore"):  # what is out of range becomes infinite
        if type in ("F32", "F16"):
            return rows.astype("<f4" if type == "F32" else "<f2").tobytes()
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        return bytes(quantize(rows.astype(np.float32), GGMLQuantizationType[type]).tobytes())
