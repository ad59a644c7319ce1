"""Compares a GGUF file with what it should hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from math import isnan

from ggcp_schema.gguf.entries import Entry, KeyValue, Progress, TensorEntry, key_values, tensor_data, tensor_entries
from ggcp_schema.gguf.reader import GgufFile, open_gguf


def differences(
    path: str | os.PathLike[str], entries: Sequence[Entry], *, data: bool, progress: Progress | None = None
) -> Iterator[str]:
    """What in the GGUF file is not as the entries say: keys, types and values; the tensor table and the size;
    with `data` every byte of the tensors, in constant memory. Nothing, if it is all there and no more."""
    with open_gguf(path) as gguf:
        yield from _in_keys(gguf, key_values(entries))
        yield from _in_table(gguf, tensor_entries(entries))
        if gguf.size != gguf.data_end:
            yield f"the file has {gguf.size} bytes, its tensors end at {gguf.data_end}"
        elif data:
            yield from _in_data(gguf, tensor_entries(entries), progress)


def _in_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> Iterator[str]:
    wanted = {entry.key: entry for entry in expected}
    for key, entry in wanted.items():
        found = gguf.keys.get(key)
        if found is None:
            yield f"{key} is missing"
        elif found.type != entry.type:
            yield f"{key} has type {found.type}, not {entry.type}"
        elif not same_value(found.value, entry.value):
            yield f"{key} is {found.value!r}, not {entry.value!r}"
    for key in gguf.keys.keys() - wanted.keys():
        yield f"{key} is not in the checkpoint"


def _in_table(gguf: GgufFile, expected: Sequence[TensorEntry]) -> Iterator[str]:
    names = [entry.name for entry in expected]
    for name in names:
        if name not in gguf.tensors:
            yield f"tensor {name} is missing"
    for name in gguf.tensors:
        if name not in names:
            yield f"tensor {name} is not in the checkpoint"
    for entry in expected:
        tensor = gguf.tensors.get(entry.name)
        if tensor is not None and (tensor.type, tensor.shape) != ("F32", entry.shape):
            yield f"tensor {entry.name} is {tensor.type} {list(tensor.shape)}, not F32 {list(entry.shape)}"


def _in_data(gguf: GgufFile, expected: Sequence[TensorEntry], progress: Progress | None) -> Iterator[str]:
    both = [entry for entry in expected if entry.name in gguf.tensors and gguf.tensors[entry.name].shape == entry.shape]
    written = tensor_data([TensorEntry(entry.name, gguf.tensors[entry.name]) for entry in both])
    original = tensor_data(both, progress)
    for entry in both:
        at, same = 0, True
        while at < entry.nbytes:
            found, wanted = next(written), next(original)
            if same and found != wanted:
                same = False
                first = at + next(i for i, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1])
                yield f"tensor {entry.name} differs from element {first // 4} on"
            at += len(wanted)


def same_value(a: object, b: object) -> bool:
    """Equality in which a NaN equals a NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (isnan(a) and isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_value, a, b))
    return type(a) is type(b) and a == b
