"""Files of arrays that other programs open: .npy, .safetensors and .csv.

Each function writes tensors by name, of which .npy and .csv files hold one. Shapes have numpy's order of dimensions,
the reverse of ggml's. `values` yields the elements of a tensor, as `stream_values` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.files.contents import Safetensors
from ggcp_schema.files.tensor import NUMBERS, Tensor
from ggcp_schema.files.tensor_entries import Computed, TensorEntry

Values = Callable[[Tensor], Iterator[npt.NDArray[Any]]]
Writer = Callable[[str, Mapping[str, Tensor], Values], None]


def write_npy(place: str, tensors: Mapping[str, Tensor], values: Values) -> None:
    """Write a tensor as .npy."""
    (tensor,) = tensors.values()
    with open(place, "wb") as file:
        file.write(_npy_header(tensor.dtype, tensor.shape))
        file.writelines(_data(tensor, values))


def write_csv(place: str, tensors: Mapping[str, Tensor], values: Values) -> None:
    """Write a tensor as .csv: each number in the shortest form that gives the same float32 again."""
    (tensor,) = tensors.values()
    columns = tensor.shape[0] if len(tensor.shape) > 1 else 1
    column = 0
    with open(place, "w", encoding="ascii", newline="") as file:
        for chunk in values(tensor):
            for number in chunk:
                column = (column + 1) % columns
                file.write(f"{number!s}{',' if column else chr(10)}")


def write_safetensors(place: str, tensors: Mapping[str, Tensor], values: Values) -> None:
    """Write tensors as .safetensors, whose header the safetensors package then reads.

    Raises `UsageError` if the package is missing, or for a name that such a file cannot have.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UsageError("writing .safetensors needs the safetensors package", "pip install safetensors") from error

    if "__metadata__" in tensors:  # which the header has for something else
        raise UsageError("a tensor cannot be named __metadata__ in a .safetensors file", "Extract it as .npy.")
    entries = [
        TensorEntry(name, tensor.shape, Computed(partial(_data, tensor, values)), _type(tensor))
        for name, tensor in tensors.items()
    ]
    source = next(iter(tensors.values())).source.path
    name = os.path.basename(os.fsencode(source)).decode("utf-8", "replace")
    Safetensors({"format": "np", "source": name}, entries).write(place)
    try:
        with safe_open(place, framework="np") as written:
            found = {name: tuple(written.get_slice(name).get_shape()) for name in written.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileError(f"verification failed: {error}", "The output was discarded.") from error
    if found != {name: tensor.shape[::-1] for name, tensor in tensors.items()}:
        raise FileError("verification failed: the written file lists different tensors", "The output was discarded.")


@lru_cache
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return what precedes the data; most of very many tensors have the shape of another."""
    header = BytesIO()
    descr = np.dtype(dtype).str
    npy.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape[::-1]})
    return header.getvalue()


def _data(tensor: Tensor, values: Values) -> Iterator[memoryview]:
    return (chunk.astype(tensor.dtype, copy=False).data for chunk in values(tensor))


def _type(tensor: Tensor) -> str:
    """Return the type of the elements as they are written: numbers are what they are, blocks become F32."""
    return tensor.type if tensor.type in NUMBERS else "F32"
